"""A rollout worker and the trajectory buffer in virtual time.

The worker keeps its episodes in flight on one engine and delivers them in blocks; the buffer takes
the blocks of all workers one after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.costs import BufferCosts, Costs, TurnTokens
from benchmarks.simulation.virtual_engine import VirtualEngine
from configs.schema import RunConfig
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary


@dataclass(frozen=True)
class Finished:
    """A finished episode, as the ledger stores it."""

    summary: TrajectorySummary


Deliver = Callable[[list[Finished]], None]


@dataclass
class _Episode:
    """An episode in flight.

    version: of the engine when it began.
    cached: of the engine that has read its context.
    turn, context: which turn is next, and its tokens so far.
    """

    request: EpisodeRequest
    turns: list[TurnTokens]
    version: int
    cached: int
    turn: int = 0
    context: int = 0

    def result(self) -> Finished:
        """What the ledger gets of it."""
        answers = sum(turn.answer for turn in self.turns)
        name, oldest = self.request.id, self.version
        summary = TrajectorySummary(name, "terminated", "", 0.0, self.context, answers, oldest, {})
        return Finished(summary)


class VirtualWorker:
    """One worker with its engine; `deliver` takes its blocks."""

    def __init__(self, cfg: RunConfig, costs: Costs, clock: Clock, deliver: Deliver) -> None:
        self._cfg, self._costs, self._clock, self._deliver = cfg, costs, clock, deliver
        self.engine = VirtualEngine(costs.engine)
        self._queue: deque[EpisodeRequest] = deque()
        self._done: list[Finished] = []
        self._in_flight = self._timers = 0
        self._busy = False

    def submit(self, requests: Sequence[EpisodeRequest]) -> None:
        """Queue episodes."""
        self._queue += requests
        self._fill()

    def pause(self, paused: bool) -> None:
        """No sequence advances until it is called again."""
        self.engine.advance(self._clock.work)
        self.engine.pause(paused)
        self._changed()

    def _fill(self) -> None:
        while self._queue and self._in_flight < self._cfg.rollout.in_flight:
            request, version = self._queue.popleft(), self.engine.version
            self._count(1)
            self._begin_turn(
                _Episode(request, self._costs.workload(request.seed), version, version)
            )

    def _count(self, more: int) -> None:
        self._in_flight += more
        self._clock.in_flight += more

    def _begin_turn(self, episode: _Episode) -> None:
        """Ask for an answer; under other weights than those of the last one all is read again."""
        tokens, version = episode.turns[episode.turn], self.engine.version
        episode.context += tokens.prompt
        uncached = tokens.prompt if episode.cached == version else episode.context
        self.engine.advance(self._clock.work)
        self.engine.add(uncached, episode.context, tokens.answer, lambda: self._end_turn(episode))
        self._changed()

    def _end_turn(self, episode: _Episode) -> None:
        episode.context += episode.turns[episode.turn].answer
        episode.cached, episode.turn = self.engine.version, episode.turn + 1
        ended = episode.turn == len(episode.turns)
        happen = self._end_episode if ended else self._begin_turn
        if self._costs.environment_s:
            self._clock.after(self._costs.environment_s, lambda: happen(episode))
        else:
            happen(episode)

    def _end_episode(self, episode: _Episode) -> None:
        self._count(-1)
        self._done.append(episode.result())
        self._fill()
        age = self._costs.buffer.block_age_s
        if not age or len(self._done) >= self._cfg.rollout.block or not self._in_flight:
            self._send()
        elif len(self._done) == 1:
            number = self._timers
            self._clock.after(age, lambda: self._send() if number == self._timers else None)

    def _send(self) -> None:
        block, self._done = self._done, []
        self._timers += 1
        self._deliver(block)

    def _changed(self) -> None:
        """Have the engine's next request end when it will; note whether the engine is busy."""
        clock, changes, end = self._clock, self.engine.changes, self.engine.next_end()
        if self._busy != self.engine.busy:
            self._busy = self.engine.busy
            change = 1 if self._busy else -1
            clock.busy_engines += change
            clock.threads += change * self._costs.engine.threads
        if self.engine.busy:
            clock.at(end, lambda: self._end_next(changes))

    def _end_next(self, changes: int) -> None:
        if changes != self.engine.changes:
            return
        self.engine.advance(self._clock.work)
        finish = self.engine.end_next()
        finish()
        self._changed()


class VirtualBuffer:
    """One process: blocks wait until those before them have been taken; then `took` has them."""

    def __init__(self, costs: BufferCosts, clock: Clock, took: Deliver) -> None:
        self._costs, self._clock, self._took = costs, clock, took
        self._free = 0.0  # from when on
        self.busy_s = 0.0

    def deliver(self, block: list[Finished]) -> None:
        """A worker has finished a block."""
        costs = self._costs
        seconds = costs.block_s + len(block) * costs.trajectory_s
        self._free = max(self._free, self._clock.work + costs.call_s) + seconds
        self.busy_s += seconds
        self._clock.at(self._free, lambda: self._took(block))
