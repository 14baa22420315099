"""The environments of a run: the one it trains on, and one for each variant of its evaluations."""

from __future__ import annotations

from typing import Any

from configs.load import ConfigError
from configs.schema import RunConfig
from envs.registry import check_settings, with_preset

TRAINING = "rollout"
Settings = dict[str, Any]  # keywords of an environment
Environment = tuple[str, Settings]  # its id, and its settings with the run's preset


def environments(cfg: RunConfig) -> dict[str, Environment]:
    """By name: TRAINING, and `eval/…` for each of eval.variants."""
    training = with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
    named = {TRAINING: training}
    named |= {f"eval/{name}": {**training, **own} for name, own in cfg.eval.variants.items()}
    return {name: (cfg.env.id, settings) for name, settings in named.items()}


def checked_environments(cfg: RunConfig) -> dict[str, Environment]:
    """The environments, once their settings are known to be right; none is made.

    Raises:
        ConfigError: no such environment, or a setting that it does not take.
    """
    try:
        found = environments(cfg)
        for name, environment in found.items():
            check_settings(*environment, where=settings_key(name))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return found


def settings_key(name: str) -> str:
    """The configuration's key with the settings of an environment of this name."""
    return "env.settings" if name == TRAINING else name.replace("eval/", "eval.variants.", 1)
