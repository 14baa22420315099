"""Parameters of which some run in `make test-slow` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest
from _pytest.mark import ParameterSet


def fast(some: Collection[object], all_: Iterable[object]) -> list[ParameterSet]:
    """All of them for `pytest.mark.parametrize`; those that are not in `some` are slow."""
    cases = list(all_)
    assert all(case in cases for case in some), some
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in some else pytest.mark.slow,
        )
        for case in cases
    ]
