"""A cluster in virtual time on the real ledger: no process, no sleep, an hour in a second.

Input: a configuration and speeds. Output: how idle both sides were, and what was trained on.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from benchmarks.simulation.durations import Speeds, episode_tokens
from cluster.stream.ledger import Ledger
from cluster.stream.training_episodes import training_stream
from configs.schema import RunConfig
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary

WARM_UP = 3  # updates before anything is measured: engines start all at once


@dataclass(frozen=True)
class Finished:
    """A finished episode, as the ledger stores it."""

    summary: TrajectorySummary


@dataclass
class VirtualRun:
    """What a run in virtual time came to; idle shares are of the updates after the warm-up.

    learner_idle: share of the time in which the learner waited.
    rollout_idle: share of the engines' places for sequences that were empty.
    episodes_per_s: trained on.
    trained: seeds, in order.
    """

    learner_idle: float
    rollout_idle: float
    episodes_per_s: float
    trained: list[int] = field(default_factory=list)


class VirtualCluster:
    """Engines, a learner and their ledger, driven by a queue of events."""

    def __init__(self, cfg: RunConfig, speeds: Speeds, ledger: Ledger[Finished]) -> None:
        self._cfg, self._speeds, self._ledger = cfg, speeds, ledger
        self._now, self._order = 0.0, count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        workers = cfg.rollout.workers
        self._versions, self._running = [0] * workers, [0] * workers
        self._queues: list[deque[EpisodeRequest]] = [deque() for _ in range(workers)]
        self._seeds: dict[str, int] = {}
        self._update, self._learned_updates, self._learning, self._syncing = 0, 0, False, False
        self._busy = self._filled = self._began = 0.0
        self._until = 0
        self._trained: list[int] = []
        ledger.begin(training_stream(cfg, 1, 0))

    def run(self, updates: int) -> VirtualRun:
        """Until so many updates after the warm-up have ended; the engines have not run dry then."""
        assert WARM_UP + updates + self._cfg.ppo.max_staleness < self._cfg.ppo.updates
        self._until = WARM_UP + updates
        self._play()
        while self._learned_updates < self._until:
            time, _, happen = heapq.heappop(self._events)
            self._filled += sum(self._running) * (time - self._now)
            self._now = time
            happen()
        seconds = self._now - self._began
        places = self._cfg.rollout.workers * self._cfg.rollout.in_flight
        return VirtualRun(
            1 - self._busy / seconds,
            1 - self._filled / (places * seconds),
            updates * self._cfg.ppo.episodes / seconds,
            self._trained,
        )

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), happen))

    def _play(self) -> None:
        """Give engines what they may play, and the learner its batch where it waits for one."""
        capacity = self._cfg.rollout.in_flight + self._cfg.rollout.block
        for worker, requests in self._ledger.assign(self._versions, capacity).items():
            self._queues[worker] += requests
            self._fill(worker)
        if self._learning or self._syncing:
            return
        batch = self._ledger.take(self._update + 1)
        if batch is None:
            return
        if self._update == WARM_UP:
            self._busy = self._filled = 0.0
            self._began = self._now
        self._update, self._learning = self._update + 1, True
        self._trained += [self._seeds[result.summary.id] for result in batch.results]
        tokens = sum(result.summary.action_tokens for result in batch.results)
        seconds = tokens * self._speeds.learner_token_s
        self._busy += seconds
        self._after(seconds, self._learned)

    def _learned(self) -> None:
        """An update has ended: its weights travel, and at staleness 0 the learner waits for it."""
        self._learning, self._learned_updates, version = False, self._update, self._update
        if version == self._until:
            return
        self._syncing = self._cfg.ppo.max_staleness == 0
        self._after(self._speeds.load_s, lambda: self._loaded(version))
        self._play()

    def _loaded(self, version: int) -> None:
        self._ledger.trained(version)
        self._versions, self._syncing = [version] * len(self._versions), False
        self._play()

    def _fill(self, worker: int) -> None:
        while self._queues[worker] and self._running[worker] < self._cfg.rollout.in_flight:
            request, version = self._queues[worker].popleft(), self._versions[worker]
            self._running[worker] += 1
            tokens = episode_tokens(request.seed)

            def finish(
                request: EpisodeRequest = request, version: int = version, tokens: int = tokens
            ) -> None:
                self._running[worker] -= 1
                self._seeds[request.id] = request.seed
                name, end = request.id, "terminated"
                summary = TrajectorySummary(name, end, "", 0.0, tokens, tokens, version, {})
                self._ledger.finish([Finished(summary)])
                self._fill(worker)
                self._play()

            self._after(tokens * self._speeds.token_s, finish)
