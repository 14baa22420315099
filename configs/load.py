"""Reads YAML and `key=value` overrides into a frozen RunConfig; errors are one sentence.

Precedence, lowest first: schema defaults, preset, file, overrides. Settings of environments are
not checked here; `envs.registry.check_settings` checks them with the same `build`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.contradictions import contradictions
from configs.presets import PRESET_KEYS
from configs.schema import RunConfig
from configs.text import nearest, one_line

T = TypeVar("T")
FOLDER = Path(__file__).parent


class ConfigError(ValueError):
    """A configuration is refused; one sentence with the key, the value and the rule."""


def build(cls: type[T], values: Mapping[str, object], where: str) -> T:
    """Make an instance of a dataclass whose fields are `configs.schema.leaf`.

    Args:
        cls: the dataclass.
        values: nested plain values by key.
        where: dotted prefix of keys in errors; "" at the root.

    Raises:
        ConfigError: an unknown key (with the nearest valid name), a wrong type, a value that the
            leaf's choices or range exclude, or one that the dataclass itself refuses.
    """
    _refuse_unknown(cls, values, where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(dict(values)))
        built = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = _join(where, getattr(error, "full_key", None) or "")
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # of the dataclass's own __post_init__
        prefix = "" if str(error).startswith(where) else f"{where}: "
        raise ConfigError(f"{prefix}{error}") from error
    _refuse_values(built, where)
    return typing.cast(T, built)


def load(
    path: str | Path, overrides: Sequence[str] = (), allow_no_training: bool = False
) -> RunConfig:
    """Read a run's configuration.

    Args:
        path: a YAML file, or the bare name of one in configs/ (with or without .yaml).
        overrides: `dotted.key=value`, the value in YAML.
        allow_no_training: accept a run without a training step, such as a study's arm that only
            evaluates the model that it begins from.

    Raises:
        ConfigError: as `build`; or the file is missing, not YAML, or contradicts itself.
    """
    file = find(path)
    values = _read(file)
    given = _merge(values, parse(overrides))
    given.setdefault("name", file.stem)
    preset = str(given.get("preset", RunConfig.preset))  # `build` refuses what is no preset
    cfg = build(RunConfig, _merge(_nest(PRESET_KEYS.get(preset, {})), given), "")
    for name in [name for name, settings in cfg.eval.variants.items() if settings is None]:
        del cfg.eval.variants[name]
    sentences = contradictions(cfg)
    if not allow_no_training and cfg.sft.steps == cfg.ppo.updates == 0:
        sentences.append("sft.steps=0 and ppo.updates=0 leave nothing to train")
    if sentences:
        raise ConfigError(sentences[0])
    return cfg


def dump(cfg: RunConfig) -> str:
    """The resolved configuration as YAML; `load` reads it back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def find(path: str | Path) -> Path:
    """The file that `load` would read.

    Raises:
        ConfigError: there is none; names the nearest one in configs/.
    """
    file = Path(path)
    shipped = (FOLDER / file.name, FOLDER / f"{file.name}.yaml") if str(file) == file.name else ()
    for candidate in (file, *shipped):
        if candidate.is_file():
            return candidate
    names = sorted(p.stem for p in FOLDER.glob("*.yaml"))
    near = nearest(file.stem, names, 0.0)
    hint = f"; the nearest name in configs/ is {near}" if near else ""
    if "=" in file.name:
        hint = "; the configuration comes first, then key=value"
    elif (FOLDER / "studies" / f"{file.stem}.yaml").is_file():
        hint = f"; {file.stem} is a study: cardinal study {file.stem}"
    raise ConfigError(f"{path}: there is no such configuration file{hint}")


def _read(file: Path) -> dict[str, object]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(file))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file}: not YAML: {one_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: holds a {type(values).__name__}; it must hold keys and values")
    return typing.cast(dict[str, object], values)


def parse(pairs: Sequence[str]) -> dict[str, object]:
    """Nested values of `dotted.key=value` pairs, the values in YAML."""
    values: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {pair!r} must have the form key=value")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"override {key}: the value {text!r} is not YAML") from error
        values = _merge(values, _nest({key: typing.cast(dict[str, object], value)["value"]}))
    return values


def _nest(flat: Mapping[str, object]) -> dict[str, object]:
    """Nested values of dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return nested


def _merge(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    """Both values; of keys that both have, `above` counts."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _refuse_unknown(cls: type, values: Mapping[str, object], where: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            near = nearest(key, fields)
            hint = f"the nearest is {near}" if near else f"there are {', '.join(fields)}"
            raise ConfigError(f"{_join(where, key)}: there is no such key; {hint}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"{_join(where, key)}={value!r}: must hold keys and values")
            _refuse_unknown(typing.cast(type, kind), value, _join(where, key))
        elif isinstance(value, float) and _is_int(kind):
            raise ConfigError(f"{_join(where, key)}={value!r}: must be a whole number")


def _is_int(kind: object) -> bool:
    """Whether a type is int, or a union with int and without float."""
    kinds = kind.__args__ if isinstance(kind, types.UnionType) else (kind,)
    return int in kinds and float not in kinds


def _refuse_values(built: object, where: str) -> None:
    """Refuse values that the choices or the range of their leaf exclude."""
    for field in dataclasses.fields(typing.cast(Any, built)):
        key, value = _join(where, field.name), getattr(built, field.name)
        if dataclasses.is_dataclass(value):
            _refuse_values(value, key)
            continue
        rule = field.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number")
        if rule.get("choices") and value not in rule["choices"]:
            allowed = ", ".join("null" if c is None else str(c) for c in rule["choices"])
            near = nearest(value, map(str, rule["choices"]))
            hint = f"; the nearest is {near}" if near else ""
            raise ConfigError(f"{key}={value}: must be one of {allowed}{hint}")
        low, high = rule.get("low"), rule.get("high")
        if low is not None and value is not None and value < low:
            raise ConfigError(f"{key}={value}: must be at least {low:g}")
        if high is not None and value is not None and value > high:
            raise ConfigError(f"{key}={value}: must be at most {high:g}")


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where and key else f"{where}{key}"
