"""What refuses a run before anything that takes seconds is imported, cheapest first.

The configuration, the file system and this machine are asked; torch, transformers, Ray and vLLM
stay out. `cluster.preflight.check` does the rest for a new run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cluster.checkpoints.checkpoint_store import check_place
from cluster.demonstrations.files import find_files, naming_data
from cluster.demonstrations.fingerprint import check_unchanged, unread_data
from cluster.placement.layout import without_engines, without_learner
from cluster.placement.memory import available_bytes, tiny_size
from cluster.placement.nodes import address_of, reachable
from cluster.preflight.machine import check_gpus, check_open_files, check_places, plan_here
from cluster.run.lease import refuse_if_owned
from cluster.run.run_folder import run_folder
from configs.ancestors import check_ancestors
from configs.load import ConfigError
from configs.model_claims import check_claims, check_class
from configs.model_folder import (
    ModelSize,
    check_tokenizer,
    on_hub,
    require_model_folder,
    weight_shapes,
    weights_size,
)
from configs.schema import RunConfig


def refuse_new(cfg: RunConfig) -> None:
    """Refuse a run that cannot begin.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
        PlacementError: it does not fit this machine.
    """
    folder = run_folder(cfg)
    check_ancestors(cfg)
    check_place(cfg, folder)
    _refuse(without_engines(cfg), cfg.model.path, cfg.sft.data if cfg.sft.steps else None)
    _refuse_blocks(cfg)


def refuse_arm(cfg: RunConfig, model_made: bool) -> None:
    """Refuse a study's run, as `refuse_new`; its folder is the study's own.

    model_made: by another run of the study, so that it is not there yet.
    """
    data = cfg.sft.data if cfg.sft.steps else None
    _refuse(cfg, None if model_made else cfg.model.path, data)


def refuse_resume(cfg: RunConfig, folder: Path) -> None:
    """Refuse to go on with a run: as `refuse_new`, or its folder is in use, or its data changed."""
    refuse_if_owned(folder)
    check_place(cfg, folder)
    data = unread_data(cfg, folder)
    _refuse(without_engines(cfg), cfg.model.path, data)
    _refuse_blocks(cfg)
    if data is not None:
        check_unchanged(data, folder)


def refuse_evaluation(cfg: RunConfig, folder: Path, model: str) -> None:
    """Refuse to evaluate a model of a run: as `refuse_new`, or its folder is in use."""
    refuse_if_owned(folder)
    _refuse(without_learner(cfg), model, data=None, learn=False)


def refuse_rollouts(cfg: RunConfig) -> None:
    """Refuse to play with a configuration's model: as `refuse_new`, without a learner."""
    _refuse(without_learner(cfg), cfg.model.path, data=None, learn=False)


def _refuse_blocks(cfg: RunConfig) -> None:
    """Refuse `ppo.blocks` that cannot be trained on."""
    if cfg.ppo.blocks is not None:
        from cluster.stream.recorded_blocks import check_blocks

        check_blocks(cfg)


def _refuse(cfg: RunConfig, model: str | None, data: str | None, learn: bool = True) -> None:
    """Refuse places, a model folder, demonstrations, an address, or too little of this machine."""
    if learn:
        _check_tracker(cfg)
    address = address_of(cfg.cluster.address)
    if address is None or "://" not in address:  # not sent to another machine
        check_places(cfg)
    if model is not None and not on_hub(model):
        refuse_model(cfg, model, learn)
    if data is not None:
        with naming_data(data):
            find_files(data)
    if address is not None:
        reachable(address)
        return
    check_open_files(cfg)
    check_gpus(cfg)
    size = _least_size(cfg, model)
    if size is not None:
        plan_here(cfg, size, available_bytes(), learn)


def refuse_model(cfg: RunConfig, model: str, learn: bool = True) -> None:
    """Refuse a model folder whose files are absent, damaged, or of no use to the run.

    Raises:
        ConfigError: names the folder, the file and the rule.
    """
    require_model_folder(model)
    check_tokenizer(model)
    folder, key = Path(model), f"model.path={model}"
    check_claims(folder, key, weight_shapes(folder, key), cfg.rollout.context_tokens)
    if learn:
        check_class(folder, key)


def _check_tracker(cfg: RunConfig) -> None:
    """Refuse a tracker whose package, which has its name, is not installed."""
    if cfg.tracker == "none":
        return
    spec = importlib.util.find_spec(cfg.tracker)
    if spec is None or spec.origin is None:  # no package, or a mere folder of that name
        raise ConfigError(
            f"tracker={cfg.tracker}: its package {cfg.tracker} is not installed; "
            f"`pip install {cfg.tracker}`, or tracker=none"
        )


def _least_size(cfg: RunConfig, model: str | None) -> ModelSize | None:
    """At most the policy's sizes; None where they take a download, or adapters need all of them."""
    if model is not None:
        return None if on_hub(model) else weights_size(model)
    return None if cfg.model.lora_rank else tiny_size(cfg, vocabulary=0)
