"""Where the episodes of a run are: each is trained on once, or dropped with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Account:
    """Where the episodes of a run are, by the blocks that its updates have trained on.

    trained: on which an update that stands was trained.
    twice: of them, those that two updates had.
    dropped: that failed, by the records of the updates.
    missing: of the numbers up to the last one trained, those neither trained nor dropped.
    """

    trained: int
    twice: int
    dropped: int
    missing: int


def account(failed: Sequence[str], trained: Sequence[Sequence[str]], episodes: int) -> Account:
    """Account for every episode by its id.

    Args:
        failed: ids of those that failed, by the records of the updates that stand.
        trained: ids of the episodes that each of these updates had.
        episodes: of an update.
    """
    times = Counter(name for ids in trained for name in ids)
    numbers = {_number(name, episodes) for name in times}
    dropped = {_number(name, episodes) for name in failed} - numbers
    known = len(numbers) + sum(number <= max(numbers, default=-1) for number in dropped)
    return Account(
        trained=sum(times.values()),
        twice=sum(count > 1 for count in times.values()),
        dropped=len(dropped),
        missing=max(numbers, default=-1) + 1 - known,
    )


def _number(name: str, episodes: int) -> int:
    """The place of an episode, ppo/UPDATE/INDEX, among all of a run."""
    _, update, index = name.split("/")
    return (int(update) - 1) * episodes + int(index)
