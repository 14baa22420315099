"""YAML in and out, and its scalars as the type of their key says.

A plain scalar stays the text that stands in the file until its key's type is known: for a text key
it is that text, for a number it is read as one. Where no type is declared (`env.settings`) it is a
number, true, false or null in the forms of JSON and YAML 1.2; all else is text, as 007 or 12:30:45.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Hashable
from typing import Any

import yaml

NULL = re.compile(r"~|null|Null|NULL|")
TRUE = ("true", "yes", "on")
FALSE = ("false", "no", "off")
INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # no other text is the same number
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
TEXT, MERGE, PLAIN = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge", "!plain"
EXACT = 2**53  # up to here every whole number is a float of its own
RULES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "keys and values",
    list: "a list, such as [a, b]",
    types.NoneType: "null",
}


class Plain(str):
    """A scalar without quotes, whose type is not known yet."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Leaves plain scalars text, and refuses a key that is there twice."""

    def resolve(self, kind: type, value: str, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode and implicit[0]:  # no quotes, no tag
            return MERGE if value == "<<" else PLAIN
        return str(super().resolve(kind, value, implicit))

    def construct_plain(self, node: yaml.ScalarNode) -> Plain:
        return Plain(self.construct_scalar(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found duplicate key {key.value}", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_constructor(PLAIN, _Loader.construct_plain)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or this module would read as something else."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # In single quotes PyYAML folds some of the signs that are not printed, as U+0085.
        return self.represent_scalar(TEXT, text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def read_yaml(text: str) -> object:
    """Values of a YAML document, plain scalars as `Plain`.

    Raises:
        yaml.YAMLError: it is no YAML, has a key twice, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def write_yaml(values: object) -> str:
    """YAML that `read_yaml`, and any reader of YAML 1.1, gives back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def untyped(value: object) -> object:
    """A value without declared type: each plain scalar in it as what it looks like."""
    if isinstance(value, dict):
        return {str(key): untyped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [untyped(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if NULL.fullmatch(value):
        return None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if INTEGER.fullmatch(value):
        return int(value)
    if NUMBER.fullmatch(value) or NOT_FINITE.fullmatch(value):
        return float(value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return str(value)


def typed(kind: object, value: object, key: str) -> object:
    """A value as the type of its key has it.

    Args:
        kind: bool, int, float, str, a list or dict of them, Any, or a union of such.
        value: of `read_yaml`, or plain Python.
        key: its dotted name, for errors.

    Raises:
        ValueError: it is of another type; one sentence with the key, the value and the rule.
    """
    if kind is Any:
        return untyped(value)
    kinds = members(kind)
    if types.NoneType in kinds and (value is None or _is_null(value)):
        return None
    for one in kinds:
        converted = _convert(one, value, key)
        if converted is not None:
            return converted
    quote = "; quotes make it text" if str in kinds and isinstance(value, bool | float) else ""
    raise ValueError(f"{key}={untyped(value)!r}: must be {rule(kind)}{quote}")


def rule(kind: object) -> str:
    """What a value of this type must be, in words."""
    names = (typing.get_origin(one) or one for one in members(kind))
    return " or ".join(RULES.get(typing.cast(type, name), str(name)) for name in names)


def members(kind: object) -> tuple[object, ...]:
    """The types that a union allows; of another type, itself."""
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if union else (kind,)


def is_text(kind: object) -> bool:
    """Whether a key of this type takes text as given."""
    return str in members(kind)


def _is_null(value: object) -> bool:
    return isinstance(value, Plain) and NULL.fullmatch(value) is not None


def _convert(kind: object, value: object, key: str) -> object:
    """The value as one type has it; None where it has none such."""
    origin, items = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is list and isinstance(value, list):
        item = items[0] if items else Any
        return [typed(item, one, f"{key}[{place}]") for place, one in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        item = items[1] if items else Any
        return {str(name): typed(item, one, f"{key}.{name}") for name, one in value.items()}
    if origin is str and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    if origin is bool:
        return _bool(value)
    if origin in (int, float) and isinstance(value, str | int | float):
        return _number(value, whole=origin is int)
    return None


def _bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else None
    return word in TRUE if word in (*TRUE, *FALSE) else None


def _number(value: str | int | float, whole: bool) -> int | float | None:
    """A number, or a text that reads as one; a whole one may be written as 1e3."""
    if isinstance(value, bool):
        return None
    if whole and isinstance(value, int):
        return value
    try:
        if whole and isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9_]+\s*", value):
            return int(value)
        number = float(str(value).replace(".inf", "inf").replace(".nan", "nan"))
    except (ValueError, OverflowError):
        return None
    if not whole:
        return number
    return int(number) if number.is_integer() and abs(number) <= EXACT else None
