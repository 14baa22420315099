"""The driver's look at the trajectory buffer: whether it still gives signs of life.

Whoever waits for the buffer is told of its death by Ray, but of a hang only at a deadline for the
work that it was to do. Ray restarts a lost one under the handle that everybody has; the learner
group then begins an epoch with it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray import ObjectRef

from cluster.failures import DeadlineExceeded, RunFailure, WorkerLost
from cluster.handles import BufferHandle, kill, restart
from cluster.wait import is_dead, is_gone, wait_for
from cluster.workers.part import Part, State
from configs.schema import ClusterConfig
from report.metrics import Record
from rollout.awake import Awake

WHO, WHAT = "the trajectory buffer", "give a sign of life"
BEATS, BEAT_S = 4, 1.0  # in a heartbeat; at most so long, for Ray tells a death at the next one
LOOK_S = 0.5  # between looks


class BufferWatch:
    """Asks for a sign of life, one at a time, and has a buffer that gives none restarted.

    heartbeat_s: how long it may be silent; looked at every LOOK_S, it is found by then.
    start_s: how long its process may take to start; one that takes longer is restarted too.
    most_losses: one after another that are borne (`learner.max_restarts`); 0 where a new one could
        not bring weights to the engines.
    """

    def __init__(
        self,
        buffer: BufferHandle,
        heartbeat_s: float,
        start_s: float,
        most_losses: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer, self._most, self._clock = buffer, most_losses, Awake(clock)
        self._heartbeat_s, self._start_s = heartbeat_s, start_s
        self._beat_s = min(BEAT_S, heartbeat_s / BEATS)
        # It may stop right after a sign: a beat and a look go by until it is asked for the next,
        # and a look until that is missed. Of a short heartbeat that would leave too little.
        self._answer_s = max(heartbeat_s / 2, heartbeat_s - self._beat_s - 2 * LOOK_S)
        self._now = 0.0
        self._part = Part(most_losses, self._now)
        self._sign: ObjectRef[None] | None = None
        self._asked = self._now - heartbeat_s
        self._losses: list[Record] = []  # from which it has not come back yet

    def check(self) -> None:
        """Look, without waiting.

        Raises:
            DeadlineExceeded: it is silent, or does not start in time, and cannot be replaced.
            WorkerLost: it is dead, and Ray does not restart it.
            RunFailure: it was lost too often in a row.
        """
        self._now = now = self._clock()
        if self._sign is not None and ray.wait([self._sign], timeout=0)[0]:
            sign, self._sign = self._sign, None
            try:
                wait_for(sign, WHO, WHAT, self._heartbeat_s, "heartbeat_s")
            except WorkerLost as failure:
                self._die(failure)
            else:
                self._serve()
        elif self._sign is None and now - self._asked >= self._beat_s:
            self._sign, self._asked = self._buffer.heartbeat.remote(), now
        if self._part.state == State.STARTING:
            if now - self._part.since >= self._start_s:
                self._lose(DeadlineExceeded(WHO, WHAT, self._start_s, "start_deadline_s"))
        elif self._sign is not None and now - self._asked >= self._answer_s:
            self._lose(DeadlineExceeded(WHO, WHAT, self._heartbeat_s, "heartbeat_s"))

    def _serve(self) -> None:
        if self._part.state == State.STARTING:
            self._part.move(State.SERVING, self._now)
        for loss in self._losses:
            self._buffer.note.remote(loss)
        self._losses.clear()

    def _die(self, failure: WorkerLost) -> None:
        if is_gone(failure):
            raise failure
        if not self._losses:  # else Ray is still at it
            self._lose(failure)

    def _lose(self, failure: RunFailure) -> None:
        if self._most == 0:
            raise failure
        cause = str(failure).removeprefix(f"{WHO} ")
        silent_s = failure.seconds if isinstance(failure, DeadlineExceeded) else 0.0
        self._part.lose(cause, self._now, silent_s)
        if self._part.given_up is not None:
            raise RunFailure(
                f"{WHO} was lost {self._part.losses} times, the last ones soon after each other "
                f"(learner.max_restarts={self._most}); first: {self._part.given_up}"
            )
        if not is_dead(failure):
            restart(self._buffer.actor)
        self._sign = None
        for state in (State.REPLACING, State.STARTING):
            self._part.move(state, self._now)
        self._losses.append({"kind": "failure", "who": WHO, "cause": cause, "at": time.time()})
        print(f"{failure}; it is restarted, and the learner group with it", file=sys.stderr)


class StartWatch:
    """Has engines start, and sees at once that one does not, long before a rank waits for them."""

    def __init__(self, buffer: BufferHandle) -> None:
        self._start: ObjectRef[list[str]] | None = buffer.start.remote()

    def failure(self) -> str | None:
        """Why an engine does not start, without waiting; None where nothing is known of one.

        Of a buffer that dies meanwhile `BufferWatch` knows.
        """
        if self._start is None or not ray.wait([self._start], timeout=0)[0]:
            return None
        start, self._start = self._start, None
        try:
            wait_for(start, WHO, "start all engines", 0.0, "start_deadline_s")
        except RunFailure as failure:
            return None if is_dead(failure) else str(failure)
        return None


@contextmanager
def watched(buffer: BufferHandle, cluster: ClusterConfig) -> Iterator[None]:
    """End a buffer that hangs, so that whoever waits for it inside is told of its death."""
    watch = BufferWatch(buffer, cluster.heartbeat_s, cluster.start_deadline_s, most_losses=0)
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            try:
                watch.check()
            except RunFailure as failure:
                print(failure, file=sys.stderr)
                kill(buffer.actor)
                return

    thread = threading.Thread(target=look, name="buffer watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
