"""A group of episodes: what is admitted, taken and compared together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary


class Stored(Protocol):
    """A finished trajectory, wherever its arrays are."""

    @property
    def summary(self) -> TrajectorySummary:
        """Its id, end, tokens and oldest policy version."""


S = TypeVar("S", bound=Stored)


@dataclass(eq=False)
class Group(Generic[S]):
    """Episodes that are admitted, taken and compared together: plays of one seed, or a request.

    number: of the stream's groups; -1 of an evaluation.
    oldest_engine: least policy version of an engine that may play them; None: any.
    results: of its finished episodes, by id.
    without_signal: see `cluster.stream.dynamic_sampling`; episodes that failed do not count.
    """

    requests: list[EpisodeRequest]
    number: int = -1
    oldest_engine: int | None = None
    results: dict[str, S] = field(default_factory=dict)
    without_signal: bool = False

    @property
    def finished(self) -> bool:
        """Whether every episode has ended, well or not."""
        return len(self.results) == len(self.requests)

    @property
    def failed(self) -> bool:
        """Whether every episode has failed: there is nothing to train on."""
        return self.finished and all(r.summary.end == "failed" for r in self.results.values())

    def add(self, result: S) -> None:
        """An episode has ended."""
        self.results[result.summary.id] = result
        if self.finished:
            self.without_signal = len({r.summary.reward for r in self.ended_well()}) < 2

    def in_order(self) -> list[S]:
        """The results in the order of the requests."""
        return [self.results[request.id] for request in self.requests]

    def ended_well(self) -> list[S]:
        """The results that can be trained on, in the order of the requests."""
        return [result for result in self.in_order() if result.summary.end != "failed"]
