"""`cardinal check` of the model's class: can the learner train it, with the attention asked for?

The model is made without its weights, so this takes seconds for a model of any size.
"""

from __future__ import annotations

from configs.load import ConfigError
from configs.model_folder import find_model, reason
from configs.schema import RunConfig


def check_trainable(cfg: RunConfig, *, gpu: bool, packages: bool) -> None:
    """Refuse a model at model.path that the learner could not load, train or publish.

    Args:
        cfg: the run's configuration.
        gpu: whether the learner has GPUs.
        packages: whether this machine has the learner's packages.

    Raises:
        ConfigError: one sentence with the model's class and what it lacks.
    """
    if cfg.model.path is None:
        return
    from learner.attention import attention_of
    from learner.checkpoint_layout import CheckpointLayout
    from learner.model import empty_trunk, model_class, model_config

    folder = find_model(cfg.model.path)
    try:
        cls = model_class(model_config(folder))
        attention = attention_of(cls, cfg.model, gpu=gpu, packages=packages)
        CheckpointLayout(empty_trunk(folder, attention))
    except Exception as error:  # the boundary to transformers, which raises all kinds
        raise ConfigError(f"model.path={cfg.model.path}: {reason(error)}") from error
