"""`cardinal check` of the model: can the learner train its class, and are the weights its own?

The model is made without its weights, so this takes seconds for a model of any size.
"""

from __future__ import annotations

from configs.load import ConfigError
from configs.model_folder import find_model, reason, weight_files, weight_shapes
from configs.schema import RunConfig


def check_trainable(cfg: RunConfig, *, gpu: bool, packages: bool, pictures: bool = False) -> None:
    """Refuse a model at model.path that the learner could not load, train or publish.

    Args:
        cfg: the run's configuration.
        gpu: whether the learner has GPUs.
        packages: whether this machine has the learner's packages.
        pictures: whether the run shows any.

    Raises:
        ConfigError: one sentence with the model's class and what it lacks, or with the tensors of
            its files that differ from config.json.
    """
    if cfg.model.path is None:
        return
    import torch

    from learner.attention import attention_of
    from learner.checkpoint_layout import CheckpointLayout
    from learner.checkpoint_match import check_tensors, check_tied
    from learner.image_inputs import check_pictures
    from learner.lora import target_layers
    from learner.model import freeze
    from learner.trunk import check_dtype, empty_trunk

    folder, key = find_model(cfg.model.path), f"model.path={cfg.model.path}"
    shapes = weight_shapes(folder, key)
    try:
        dtype = getattr(torch, cfg.model.dtype)
        trunk = empty_trunk(folder, dtype)
        check_dtype(trunk, dtype)
        attention_of(trunk, cfg, gpu=gpu, packages=packages)
        CheckpointLayout(trunk)
        freeze(trunk, cfg.model.freeze)
        if cfg.model.lora_rank:
            target_layers(trunk, cfg.model)
        check_tied(trunk, weight_files(folder, key))
        check_tensors(trunk, shapes)
        if pictures:
            check_pictures(folder, trunk)
    except Exception as error:  # the boundary to transformers, which raises all kinds
        raise ConfigError(f"{key}: {reason(error)}") from error
