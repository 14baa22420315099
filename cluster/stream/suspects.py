"""Episodes that were there at several losses of workers: which of them kills its worker?

Group testing: those that were there at the second loss are played in eight lots, one lot at a time
on a worker; one whose worker is lost too is divided again. So one in 500 is found within
three more losses (halves would take nine), and where none is the cause, many are cleared at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SUSPECT_LOSSES = 2  # of an episode's workers, after which it is a suspect
LOTS = 8


class Suspects:
    """What is known of episodes, by their ids. Plain Python, without a clock.

    A lot is a number; its episodes are played together, beside no other suspect.
    """

    def __init__(self) -> None:
        self._losses: Counter[str] = Counter()
        self._lot: dict[str, int] = {}
        self._lots = 0  # so far

    def __contains__(self, episode: str) -> bool:
        return episode in self._lot

    def losses(self, episode: str) -> int:
        """How many workers were lost with it."""
        return self._losses[episode]

    def clear(self, episode: str) -> None:
        """It has ended."""
        self._losses.pop(episode, None)
        self._lot.pop(episode, None)

    def lose(self, episodes: Sequence[str]) -> str | None:
        """A worker is lost that had these; the one that was the cause, where that is known.

        It is where it was the only suspect there.
        """
        before = [episode for episode in episodes if episode in self]
        self._losses.update(episodes)
        often = [episode for episode in episodes if self._losses[episode] >= SUSPECT_LOSSES]
        size = -(-len(often) // LOTS)
        for number, episode in enumerate(often):
            self._lot[episode] = self._lots + number // size
        self._lots += LOTS
        return before[0] if len(before) == 1 else None

    def places(self, episode: str, workers: Iterable[int], running: Mapping[str, int]) -> set[int]:
        """The workers that a suspect may go to: that of its lot, else those without a suspect.

        Args:
            episode: the suspect.
            workers: all there are.
            running: the worker of each episode that runs, by its id.
        """
        lots = {worker: self._lot[e] for e, worker in running.items() if e in self}
        own = {worker for worker, lot in lots.items() if lot == self._lot[episode]}
        return own or set(workers) - lots.keys()
