"""One key of a configuration: a dataclass field with its meaning and its allowed values."""

from __future__ import annotations

from dataclasses import field
from typing import TypeVar, cast, overload

T = TypeVar("T")
Choices = tuple[str | int | None, ...]


@overload
def leaf(default: type[T], doc: str = "") -> T: ...


@overload
def leaf(
    default: T,
    doc: str,
    *,
    choices: Choices | None = None,
    low: float | None = None,
    high: float | None = None,
) -> T: ...


def leaf(
    default: T | type[T],
    doc: str = "",
    *,
    choices: Choices | None = None,
    low: float | None = None,
    high: float | None = None,
) -> T:
    """One configuration key: a dataclass field, typed as its value.

    Args:
        default: value when the key is not given; of a type, what it makes; a list or dict is
            copied.
        doc: one sentence, with the unit where there is one.
        choices: the only values allowed, if not None.
        low: smallest value allowed, if not None.
        high: largest value allowed, if not None.
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high}
    if isinstance(default, type):
        return cast(T, field(default_factory=default, metadata=metadata))
    if isinstance(default, dict | list):
        return cast(T, field(default_factory=default.copy, metadata=metadata))
    return cast(T, field(default=default, metadata=metadata))
