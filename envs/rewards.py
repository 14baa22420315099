"""Rewards by the name of what is graded: an environment's own, and those that settings change."""

from __future__ import annotations

import math
from collections.abc import Mapping

from configs.text import nearest

Rewards = Mapping[str, float]


def merge_rewards(own: Rewards, changed: Rewards, where: str) -> dict[str, float]:
    """An environment's own rewards, some of them changed.

    Args:
        own: each reward that the environment gives, by name.
        changed: the settings' values, by the same names.
        where: the settings' key in errors.

    Raises:
        ValueError: names the key, its value and the rule.
    """
    for name, value in changed.items():
        if name not in own:
            near = nearest(name, own)
            hint = f"the nearest is {near}" if near else f"there are {', '.join(own)}"
            raise ValueError(f"{where}.{name}: there is no such reward; {hint}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ValueError(f"{where}.{name}={value!r}: must be a finite number")
    return {**own, **{name: float(value) for name, value in changed.items()}}
