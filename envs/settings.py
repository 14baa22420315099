"""The values of settings, checked where an instance is made.

`configs.load.build` checks types, choices and ranges of keywords; an environment's `Settings`
that are made directly call `check_values` in `__post_init__`.
"""

from __future__ import annotations

import typing
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING

from configs.load import check_value
from configs.values import RULES, members

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_values(settings: DataclassInstance, where: str) -> None:
    """Refuse fields of the wrong type, or that their leaf's choices or range exclude.

    A whole number may stand for a number.

    Args:
        settings: a dataclass made of `configs.leaf.leaf`.
        where: the name before the field's in an error.

    Raises:
        ValueError: names the field, its value and the rule.
    """
    for name, allowed in _allowed_types(type(settings)):
        value = getattr(settings, name)
        # A bool is an int to Python, and no number here.
        if type(value) not in allowed and not (type(value) is int and float in allowed):
            rule = " or ".join(RULES[kind] for kind in allowed)
            raise ValueError(f"{where}.{name}={value!r}: must be {rule}")
    for field in fields(settings):
        check_value(field, getattr(settings, field.name), f"{where}.{field.name}")


@cache
def _allowed_types(cls: type) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """Each field's name and the classes that it admits: int and None for `int | None`."""
    hints = typing.get_type_hints(cls)
    return tuple((field.name, _types(hints[field.name])) for field in fields(cls))


def _types(hint: object) -> tuple[type, ...]:
    kinds = (typing.get_origin(kind) or kind for kind in members(hint))
    return tuple(typing.cast(type, kind) for kind in kinds)
