"""The environments of a run: the one it trains on, and one for each variant of its evaluations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from configs.load import ConfigError, find, load
from configs.schema import RunConfig
from envs.registry import check_settings, env_class, with_preset

TRAINING = "rollout"
_IMPORTED = b"imported"
_IMPORT = f"""
import importlib, os, sys
sys.path.append(os.getcwd())
try:
    importlib.import_module(sys.argv[1])
except BaseException:  # the import here names it
    pass
os.write(1, {_IMPORTED!r})
os._exit(0)
"""
Settings = dict[str, Any]  # keywords of an environment
Environment = tuple[str, Settings]  # its id, and its settings with the run's preset


def load_run(path: str | Path, overrides: Sequence[str] = (), evaluates: bool = True) -> RunConfig:
    """A configuration as `configs.load.load` reads it, the settings of its environments checked.

    Args:
        path: of the configuration.
        overrides: of its keys.
        evaluates: whether variants are of use; eval.variants is empty, and not checked, otherwise.

    Raises:
        ConfigError: as `load` and `checked_environments`; names the file where it, and no
            override, is at fault.
    """
    try:
        cfg = _load(path, overrides, evaluates)
        try_import(cfg.env.id, cfg.cluster.start_deadline_s)
        checked_environments(cfg)
    except ConfigError as error:
        sentence = str(error)
        refusal = _refusal(path, evaluates) if overrides else sentence
        if refusal == sentence:
            raise ConfigError(in_file(find(path), sentence)) from error
        hint = ""
        if refusal is None:
            hint = _setting_hint(path, overrides, sentence) or _file_hint(path, overrides, sentence)
        raise ConfigError(f"{sentence}{hint}") from error
    return cfg


def _load(path: str | Path, overrides: Sequence[str], evaluates: bool) -> RunConfig:
    cfg = load(path, overrides)
    return cfg if evaluates else replace(cfg, eval=replace(cfg.eval, variants={}))


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


def _file_hint(path: str | Path, overrides: Sequence[str], sentence: str) -> str:
    """How to leave out a setting that a file has for another environment than the chosen one."""
    key = sentence.partition(":")[0]
    given = [pair.partition("=")[0] for pair in overrides]
    if "env.id" not in given or key in given:
        return ""
    if key.startswith("env.settings."):
        return f"; {path} has it for another environment: env.settings={{}} leaves its settings out"
    if key.startswith("eval.variants."):
        variant = ".".join(key.split(".")[:3])
        return f"; {path} has it for another environment: {variant}=null leaves the variant out"
    return ""


def _refusal(path: str | Path, evaluates: bool) -> str | None:
    """Why a file is refused without any override; None if it is not."""
    try:
        checked_environments(_load(path, (), evaluates))
    except ConfigError as error:
        return str(error)
    return None


def try_import(env_id: str, seconds: float) -> None:
    """Import a plugin's module in a process of its own, before it is imported here.

    What raises is left to the import here, which names it.

    Raises:
        ConfigError: it takes longer than `seconds` (cluster.start_deadline_s), or ends its process.
    """
    module = env_id.rpartition(":")[0]
    if not module or module in sys.modules:
        return
    where = f"env.id is {env_id!r}: importing {module}"
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _IMPORT, module],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{where} took longer than cluster.start_deadline_s = {seconds:g}"
        ) from None
    if not ended.stdout.endswith(_IMPORTED):
        raise ConfigError(f"{where} ends its process, with code {ended.returncode}")


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
