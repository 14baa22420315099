"""Dynamic sampling (Yu et al. 2025, arXiv 2503.14476, section 3.2): groups that teach something.

What an update trains on is decided in the order of the stream, whoever ends first: short episodes
come no sooner than long ones, and a resume finds the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar


class Sampled(Protocol):
    """A group of plays of one seed."""

    @property
    def without_signal(self) -> bool:
        """Whether all have ended with the same return, so that grpo and rloo give each 0."""


G = TypeVar("G", bound=Sampled)


class Selection(NamedTuple, Generic[G]):
    """The groups that an update uses up: those that it trains on, and those that it passes over."""

    kept: list[G]
    passed: list[G]


def select(groups: Iterable[G], size: int, most_passed: int) -> Iterator[Selection[G]]:
    """The selections of the next updates; the last one may have fewer than `size` groups.

    Args:
        groups: in the order of the stream; one that has not ended counts as one with signal.
        size: groups that an update trains on.
        most_passed: groups that an update passes over; beyond, those without signal are kept too.
    """
    selection: Selection[G] = Selection([], [])
    for group in groups:
        keep = len(selection.passed) == most_passed or not group.without_signal
        (selection.kept if keep else selection.passed).append(group)
        if len(selection.kept) == size:
            yield selection
            selection = Selection([], [])
    if any(selection):
        yield selection


def complete_updates(groups: Sequence[Sampled], size: int, most_passed: int) -> int:
    """For how many updates the groups are enough."""
    if most_passed == 0:
        return len(groups) // size
    return sum(len(s.kept) == size for s in select(groups, size, most_passed))
