"""A cluster in virtual time on the real ledger: no process, no sleep, an hour in a second.

Input: a configuration and what its parts cost. Output: how idle both sides were, how much was
trained on in what time, and what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from benchmarks.simulation.clock import Clock, Process, Wait
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.virtual_worker import Finished, VirtualBuffer, VirtualWorker
from cluster.stream.ledger import Ledger
from cluster.stream.training_episodes import training_stream
from configs.schema import RunConfig

WARM_UP = 3  # updates before anything is measured: engines start all at once


@dataclass
class VirtualRun:
    """What a run in virtual time came to, in the updates after the warm-up.

    learner_idle: share of the time in which the learner waited, for a batch or for engines.
    engine_idle: share of the engines' time without a request, or paused for weights.
    rollout_idle: share of the engines' places for sequences that were empty.
    buffer_busy: share of the time in which the buffer took blocks.
    update_s: mean seconds of an update; sync_s: of it, for which learning stood still for weights.
    episodes_per_s, tokens_per_s, action_tokens_per_s: trained on.
    trained: seeds, in order, those of the warm-up too.
    """

    learner_idle: float
    engine_idle: float
    rollout_idle: float
    buffer_busy: float
    update_s: float
    sync_s: float
    episodes_per_s: float
    tokens_per_s: float
    action_tokens_per_s: float
    trained: list[int] = field(default_factory=list)


@dataclass
class _Sums:
    """Since the warm-up: seconds of waiting, and of sending weights; what was trained on."""

    began: float = 0.0
    waited_s: float = 0.0
    sent_s: float = 0.0
    buffer_s: float = 0.0
    tokens: int = 0
    answers: int = 0


class VirtualCluster:
    """Engines, a learner and their ledger, driven by a queue of events.

    The learner goes through an update as `cluster.phases.ppo_phase` does, and takes its batches as
    `cluster.stream.collect` does: the next one while it learns, where engines play ahead.
    """

    def __init__(self, cfg: RunConfig, costs: Costs, ledger: Ledger[Finished]) -> None:
        self._cfg, self._costs, self._ledger = cfg, costs, ledger
        self._clock = Clock(costs.cores)
        self._buffer = VirtualBuffer(costs.buffer, self._clock, self._took)
        self._workers = [
            VirtualWorker(cfg, costs, self._clock, self._buffer.deliver)
            for _ in range(cfg.rollout.workers)
        ]
        self._versions = [0] * len(self._workers)
        self._seeds: dict[str, int] = {}
        self._update = self._wanted = 1  # under way; the newest whose batch is asked for
        self._batch: tuple[int, int] | None = None  # tokens and action tokens of the next one
        self._loading = 0  # engines that have not got the last weights
        self._sums, self._trained = _Sums(), list[int]()
        self._threads = [Process(self._clock, steps) for steps in (self._fetch(), self._learn())]
        ledger.begin(training_stream(cfg, 1, 0))

    def run(self, updates: int) -> VirtualRun:
        """Until so many updates after the warm-up have ended; the engines have not run dry then."""
        assert WARM_UP + updates + self._cfg.ppo.max_staleness < self._cfg.ppo.updates
        self._play()
        for thread in self._threads:
            thread.go_on()
        while self._update <= WARM_UP + updates:
            self._clock.run_next()
        clock, sums, rollout = self._clock, self._sums, self._cfg.rollout
        seconds, engines = clock.now - sums.began, rollout.workers
        return VirtualRun(
            learner_idle=sums.waited_s / seconds,
            engine_idle=1 - clock.engine_s / (engines * seconds),
            rollout_idle=1 - clock.filled_s / (engines * rollout.in_flight * seconds),
            buffer_busy=(self._buffer.busy_s - sums.buffer_s) / seconds,
            update_s=seconds / updates,
            sync_s=sums.sent_s / updates,
            episodes_per_s=updates * self._cfg.ppo.episodes / seconds,
            tokens_per_s=sums.tokens / seconds,
            action_tokens_per_s=sums.answers / seconds,
            trained=self._trained,
        )

    def _look(self) -> None:
        for thread in self._threads:
            thread.look()

    def _play(self) -> None:
        """Give workers what they may play."""
        rollout = self._cfg.rollout
        given = self._ledger.assign(self._versions, rollout.in_flight + rollout.block)
        for index, requests in given.items():
            self._seeds |= {request.id: request.seed for request in requests}
            self._clock.after(
                self._costs.buffer.call_s, partial(self._workers[index].submit, requests)
            )

    def _took(self, block: list[Finished]) -> None:
        self._ledger.finish(block)
        self._play()
        self._look()

    def _fetch(self) -> Generator[Wait, None, None]:
        """The batches of all updates, one after another."""
        for update in count(1):
            yield partial(self._asked_for, update)
            taken: list[Finished] = []
            yield partial(self._take, update, taken)
            self._play()
            yield self._costs.buffer.call_s + self._costs.learner.before_s(self._cfg)
            summaries = [result.summary for result in taken]
            tokens = sum(summary.tokens for summary in summaries)
            self._batch = tokens, sum(summary.action_tokens for summary in summaries)
            self._look()

    def _asked_for(self, update: int) -> bool:
        return self._batch is None and self._wanted >= update

    def _take(self, update: int, taken: list[Finished]) -> bool:
        batch = self._ledger.take(update)
        if batch is None:
            return False
        taken += batch.results
        self._trained += [self._seeds.pop(result.summary.id) for result in taken]
        return True

    def _learn(self) -> Generator[Wait, None, None]:
        """All updates: wait for the batch, learn, wait for the weights before, send one's own."""
        clock, costs, ahead = self._clock, self._costs, self._cfg.ppo.max_staleness > 0
        while True:
            if self._update == WARM_UP + 1:
                clock.forget()
                self._sums = _Sums(clock.now, buffer_s=self._buffer.busy_s)
            self._wanted = max(self._wanted, self._update)
            self._look()
            yield from self._waited(lambda: self._batch is not None)
            assert self._batch is not None
            (tokens, answers), self._batch = self._batch, None
            self._wanted += ahead
            self._look()
            yield from self._busy(costs.learner.update_s(self._cfg, tokens))
            yield from self._waited(lambda: not self._loading)
            yield from self._publish(self._update)
            if not ahead:
                yield from self._waited(lambda: not self._loading)
            self._sums.tokens += tokens
            self._sums.answers += answers
            self._update += 1

    def _waited(self, reached: Callable[[], bool]) -> Generator[Wait, None, None]:
        begin = self._clock.now
        yield reached
        self._sums.waited_s += self._clock.now - begin

    def _busy(self, seconds: float) -> Generator[Wait, None, None]:
        threads = self._costs.learner.threads
        self._clock.threads += threads
        yield seconds
        self._clock.threads -= threads

    def _publish(self, version: int) -> Generator[Wait, None, None]:
        """Send the weights; engines get them then, or meanwhile."""
        sync, begin = self._costs.sync, self._clock.now
        self._loading = len(self._workers)
        if sync.collective:
            self._pause(True)
        yield from self._busy(sync.sent_s)
        self._sums.sent_s += self._clock.now - begin
        self._ledger.trained(version)
        if sync.collective:
            self._pause(False)
            self._arrived(range(len(self._workers)), version)
            return
        playing, size = bool(self._ledger.states()["running"]), self._costs.engines_of_a_node
        for first in range(0, len(self._workers), size):
            node = range(first, min(first + size, len(self._workers)))
            steps = self._load(node, version, playing)
            self._clock.after(sync.travel_s, Process(self._clock, steps).go_on)

    def _pause(self, paused: bool) -> None:
        for worker in self._workers:
            worker.pause(paused)

    def _load(
        self, node: Sequence[int], version: int, playing: bool
    ) -> Generator[Wait, None, None]:
        """The engines of a node load one after another.

        Each plays as soon as it has the weights; where none plays now, all begin together.
        """
        for index in node:
            self._workers[index].pause(True)
            yield self._costs.sync.load_s
            self._workers[index].pause(False)
            if playing:
                self._arrived([index], version)
            elif self._loading == 1:
                self._arrived(range(len(self._workers)), version)
            else:
                self._loading -= 1

    def _arrived(self, workers: Sequence[int], version: int) -> None:
        self._loading = max(0, self._loading - len(workers))
        for index in workers:
            self._versions[index] = self._workers[index].engine.version = version
        self._play()
        self._look()
