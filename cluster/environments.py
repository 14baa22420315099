"""The environments of a run: the one it trains on, and one for each variant of its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from configs.load import ConfigError, find, load
from configs.schema import RunConfig
from envs.registry import check_settings, env_class, with_preset

TRAINING = "rollout"
Settings = dict[str, Any]  # keywords of an environment
Environment = tuple[str, Settings]  # its id, and its settings with the run's preset


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A configuration as `configs.load.load` reads it, the settings of its environments checked.

    Raises:
        ConfigError: as `load` and `checked_environments`; names the file where it, and no
            override, is at fault.
    """
    try:
        cfg = load(path, overrides)
        checked_environments(cfg)
    except ConfigError as error:
        sentence = str(error)
        refusal = _refusal(path) if overrides else sentence
        if refusal == sentence:
            raise ConfigError(in_file(find(path), sentence)) from error
        hint = _setting_hint(path, overrides, sentence) if refusal is None else ""
        raise ConfigError(f"{sentence}{hint}") from error
    return cfg


def _setting_hint(path: str | Path, overrides: Sequence[str], sentence: str) -> str:
    """`; the environment has env.settings.KEY`, of an override that lacks its section."""
    keys = [pair.partition("=")[0] for pair in overrides]
    key = next((k for k in keys if sentence.startswith(f"{k}: there is no such key")), None)
    if key is None:
        return ""
    chosen = [pair for pair in overrides if pair.startswith("env.id=")]
    try:
        cls = env_class(load(path, chosen).env.id)
    except ValueError:  # no such environment, which is another fault than the first
        return ""
    known = cls is not None and key in {field.name for field in fields(cls.Settings)}
    return f"; the environment has env.settings.{key}" if known else ""


def _refusal(path: str | Path) -> str | None:
    """Why a file is refused without any override; None if it is not."""
    try:
        checked_environments(load(path))
    except ConfigError as error:
        return str(error)
    return None


def in_file(file: Path, sentence: str) -> str:
    """The sentence of a refusal, which names the file once."""
    return sentence if sentence.startswith(str(file)) else f"{file}: {sentence}"


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
