"""Reads YAML and `key=value` overrides into a frozen RunConfig; errors are one sentence.

Precedence, lowest first: schema defaults, preset, file, overrides. Settings of environments are
not checked here; `envs.registry.check_settings` checks them with the same `build`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from configs.contradictions import contradictions
from configs.presets import PRESET_KEYS
from configs.schema import RunConfig
from configs.text import nearest, one_line
from configs.values import Plain, is_text, read_yaml, typed, untyped, write_yaml

T = TypeVar("T")
FOLDER = Path(__file__).parent
PATHS = ("cluster.root", "learner.checkpoint_root", "model.path", "sft.data", "ppo.blocks")


class ConfigError(ValueError):
    """A configuration is refused; one sentence with the key, the value and the rule."""


def build(cls: type[T], values: Mapping[str, object], where: str) -> T:
    """Make an instance of a dataclass whose fields are `configs.leaf.leaf`.

    Args:
        cls: the dataclass.
        values: nested plain values by key.
        where: dotted prefix of keys in errors; "" at the root.

    Raises:
        ConfigError: an unknown key (with the nearest valid name), a wrong type, a value that the
            leaf's choices or range exclude, or one that the dataclass itself refuses.
    """
    return _section(cls, values, where)


def _section(cls: type[T], values: Mapping[str, object], where: str) -> T:
    """An instance of a section's dataclass."""
    kinds, given = _kinds(cls), dict[str, object]()
    leaves = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for name, value in values.items():
        key = _join(where, name)
        if name not in kinds:
            raise ConfigError(f"{key}: there is no such key; {_hint(cls, name)}")
        given[name] = _value_of(kinds[name], value, key)
        if not _is_section(kinds[name]):
            check_value(leaves[name], given[name], key)
    try:
        return cls(**given)
    except ValueError as error:  # of the dataclass's own __post_init__
        prefix = "" if str(error).startswith(where) else f"{where}: "
        raise ConfigError(f"{prefix}{error}") from error


def _hint(cls: type, name: str) -> str:
    """Which key may be meant by one that a section has not."""
    kinds, every = _kinds(cls), list(_keys(RunConfig, ""))
    elsewhere = [key for _, key in every if key.rpartition(".")[2] == name]
    if elsewhere and cls in {section for section, _ in every}:
        return f"there {'is' if len(elsewhere) == 1 else 'are'} {' and '.join(elsewhere)}"
    near = nearest(name, kinds)
    return f"the nearest is {near}" if near else f"there are {', '.join(kinds)}"


def _keys(cls: type, where: str) -> Iterator[tuple[type, str]]:
    """Each key of a section and of the sections inside, with the section that has it."""
    for name, kind in _kinds(cls).items():
        key = _join(where, name)
        yield cls, key
        if _is_section(kind):
            yield from _keys(typing.cast(type, kind), key)


def _value_of(kind: object, value: object, key: str) -> object:
    """A key's value as its type has it; a section is built of its own keys."""
    if _is_section(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{key}={untyped(value)!r}: must hold keys and values")
        return _section(typing.cast("type[object]", kind), value, key)
    try:
        return typed(kind, value, key)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _kinds(cls: type) -> dict[str, object]:
    """The type of each key of a section."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _is_section(kind: object) -> bool:
    return dataclasses.is_dataclass(kind)


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
    values.setdefault("name", file.stem)
    for pair in overrides:
        _override(values, pair)
    preset = str(values.get("preset", RunConfig.preset))  # `build` refuses what is no preset
    of_preset: dict[str, object] = {}
    for key, value in PRESET_KEYS.get(preset, {}).items():
        *parents, last = key.split(".")
        _parent(of_preset, parents)[last] = value
    cfg = build(RunConfig, _merge(of_preset, _at_home(values), RunConfig), "")
    for name in [name for name, settings in cfg.eval.variants.items() if settings is None]:
        del cfg.eval.variants[name]
    sentences = contradictions(cfg)
    if not allow_no_training and cfg.sft.steps == cfg.ppo.updates == 0:
        sentences.append("sft.steps=0 and ppo.updates=0 leave nothing to train")
    if sentences:
        raise ConfigError(sentences[0])
    return cfg


def _at_home(values: dict[str, object], where: str = "") -> dict[str, object]:
    """The values with the home folder in the place of a path's ~, as a shell would put it there.

    Raises:
        ConfigError: it is the home folder of a user that is not there.
    """
    expanded = dict(values)
    for name, value in values.items():
        key = _join(where, name)
        if isinstance(value, dict):
            expanded[name] = _at_home(value, key)
        elif key in PATHS and isinstance(value, str) and value.startswith("~") and value != "~":
            path = os.path.expanduser(value)
            if path.startswith("~"):
                raise ConfigError(f"{key}={value}: this machine has no such user; ./~ is no user")
            expanded[name] = path
    return expanded


def dump(cfg: RunConfig) -> str:
    """The resolved configuration as YAML; `load` reads it back to an equal one."""
    return write_yaml(dataclasses.asdict(cfg))


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
        values = read_yaml(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {one_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if untyped(values) is None:  # a file without any key
        return {}
    if not isinstance(values, dict):
        kind = type(untyped(values)).__name__
        raise ConfigError(f"{file}: holds a {kind}; it must hold keys and values")
    return values


def parse(pairs: Sequence[str]) -> dict[str, object]:
    """Nested values of `dotted.key=value` pairs, the values in YAML; no key has a type."""
    values: dict[str, object] = {}
    for pair in pairs:
        keys, text = _split(pair)
        _parent(values, keys[:-1])[keys[-1]] = untyped(_value(keys, text, None))
    return values


def _override(values: dict[str, object], pair: str) -> None:
    """Put the value of `dotted.key=value` in its place.

    Keys of a section stay beside those that are given; a mapping that is no section, such as
    env.settings, takes the place of the one that was there.
    """
    keys, text = _split(pair)
    kind: object = RunConfig
    for key in keys:
        kind = _kinds(typing.cast(type, kind)).get(key) if _is_section(kind) else None
    value = _value(keys, text, kind)
    place, last = _parent(values, keys[:-1]), keys[-1]
    old = place.get(last)
    if _is_section(kind) and isinstance(old, dict) and isinstance(value, dict):
        value = _merge(old, value, typing.cast(type, kind))
    place[last] = value


def _split(pair: str) -> tuple[list[str], str]:
    key, equals, text = pair.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {pair!r} must have the form key=value")
    return key.split("."), text


def _value(keys: Sequence[str], text: str, kind: object) -> object:
    """The value of an override; of a text key it is the text as it was typed."""
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        if is_text(kind):
            return Plain(text)
        raise ConfigError(f"override {'.'.join(keys)}: the value {text!r} is not YAML") from error
    quoted = isinstance(value, str) and not isinstance(value, Plain)
    if is_text(kind) and not quoted:
        return Plain(text)
    # A comment is of no use in an override: ` #` is part of the value.
    return Plain(text.strip()) if isinstance(value, Plain) else value


def _parent(values: dict[str, object], parents: Sequence[str]) -> dict[str, object]:
    """The mapping at a dotted key; it is made where there is none."""
    for key in parents:
        below = values.get(key)
        if not isinstance(below, dict):
            below = values[key] = {}
        values = below
    return values


def _merge(below: dict[str, object], above: dict[str, object], section: type) -> dict[str, object]:
    """Both sections' keys; of those that both have, `above` counts."""
    merged, kinds = dict(below), _kinds(section)
    for key, value in above.items():
        old, kind = merged.get(key), kinds.get(key)
        if _is_section(kind) and isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value, typing.cast(type, kind))
        merged[key] = value
    return merged


def check_value(leaf: dataclasses.Field[object], value: object, key: str) -> None:
    """Refuse a value that the choices or the range of its leaf exclude.

    Args:
        leaf: made by `configs.leaf.leaf`.
        value: of the leaf's type.
        key: its name in the error.

    Raises:
        ConfigError: names the key, the value and the rule.
    """
    rule = leaf.metadata
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number")
    if rule.get("choices") and value not in rule["choices"]:
        allowed = ", ".join("null" if c is None else str(c) for c in rule["choices"])
        near = nearest(value, map(str, rule["choices"]))
        hint = f"; the nearest is {near}" if near else ""
        raise ConfigError(f"{key}={value}: must be one of {allowed}{hint}")
    low, high = rule.get("low"), rule.get("high")
    if not isinstance(value, int | float):
        return
    if low is not None and value < low:
        raise ConfigError(f"{key}={value}: must be at least {low:g}")
    if high is not None and value > high:
        raise ConfigError(f"{key}={value}: must be at most {high:g}")


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where and key else f"{where}{key}"
