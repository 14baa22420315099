"""What a run does without that trains on recorded blocks (`ppo.blocks`): engines, and SFT."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from configs.schema import RunConfig

# Keys that it would ignore: the value that each must have, as in an override, and why.
OFF = {
    "sft.steps": ("0", "begins with the model of model.path"),
    "sft.keep": ("[]", "begins with the model of model.path"),
    "eval.every": ("0", "evaluates nothing"),
    "eval.start": ("null", "evaluates nothing"),
    "learner.keep_best": ("null", "evaluates nothing"),
    "ppo.dynamic_sampling": ("0", "takes groups as they were recorded"),
    "ppo.max_staleness": ("0", "takes batches as they were recorded"),
    "ppo.record": ("false", "would record them again"),
    "cluster.lora_sync": ("merged", "publishes no weights"),
}
DEFAULTS = RunConfig()


def turned_off(cfg: RunConfig) -> list[str]:
    """The overrides with which a configuration can train on recorded blocks."""
    return [f"{key}={off}" for key, (off, _) in OFF.items() if _differs(cfg, key)]


def blocks_contradictions(cfg: RunConfig) -> Iterator[str]:
    """What a run on recorded blocks lacks, or would ignore."""
    if cfg.ppo.blocks is None:
        return
    blocks = f"ppo.blocks={cfg.ppo.blocks}"
    for key, (off, why) in OFF.items():
        if _differs(cfg, key):
            value = attrgetter(key)(cfg)
            text = "true" if value is True else value
            yield f"{key}={text} has no use for {blocks}, which {why}; it must be {off}"
    if cfg.model.path is None:
        yield f"{blocks} needs model.path: the folder of the model that they were recorded with"
    if cfg.ppo.updates == 0:
        yield f"{blocks} is what PPO trains on; ppo.updates=0 has no PPO"


def _differs(cfg: RunConfig, key: str) -> bool:
    """Whether a key has another value than its default, which turns it off."""
    return bool(attrgetter(key)(cfg) != attrgetter(key)(DEFAULTS))
