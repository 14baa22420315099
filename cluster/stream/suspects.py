"""Episodes that were there at several losses of workers: whose question kills its worker?

Group testing: those that were there at the second loss are played in eight lots, one lot at a time
on a worker; one whose worker is lost too is divided again. So one in 500 is found within
three more losses (halves would take nine), and where none is the cause, many are cleared at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rollout.episode import EpisodeRequest

SUSPECT_LOSSES = 2  # of an episode's workers, after which it is a suspect
LOTS = 8


class Suspects:
    """What is known of episodes. Plain Python, without a clock.

    A lot is a number; its episodes are played together, beside no other suspect. A question is a
    variant and a seed: all of its episodes see the same picture in the same environment.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], int] = {}  # losses, by question that was the cause
        self.forget()

    def forget(self) -> None:
        """All episodes are gone; the questions that were the cause of losses stay known."""
        self._losses: Counter[str] = Counter()
        self._lot: dict[str, int] = {}
        self._lots = 0  # so far

    def __contains__(self, episode: str) -> bool:
        return episode in self._lot

    def losses(self, request: EpisodeRequest) -> int:
        """How many workers were lost with it, or with the one that its question was found by."""
        found = self._found.get((request.variant, request.seed), 0)
        return max(self._losses[request.id], found)

    def guilty(self, request: EpisodeRequest) -> bool:
        """Whether its question has been the cause of losses."""
        return (request.variant, request.seed) in self._found

    def clear(self, episode: str) -> None:
        """It has ended."""
        self._losses.pop(episode, None)
        self._lot.pop(episode, None)

    def lose(self, requests: Sequence[EpisodeRequest]) -> None:
        """A worker is lost that had these.

        The question of the only suspect there was the cause, if nobody else's worker was lost
        before.
        """
        episodes = [request.id for request in requests]
        before = [request for request in requests if request.id in self]
        others = [episode for episode in episodes if episode not in self and self._losses[episode]]
        self._losses.update(episodes)
        if len(before) == 1 and not others:
            (cause,) = before
            self._found[cause.variant, cause.seed] = self._losses[cause.id]
        often = [episode for episode in episodes if self._losses[episode] >= SUSPECT_LOSSES]
        size = -(-len(often) // LOTS)
        for number, episode in enumerate(often):
            self._lot[episode] = self._lots + number // size
        self._lots += LOTS

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
