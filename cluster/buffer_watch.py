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
from ray.exceptions import ActorDiedError

from cluster.failures import DeadlineExceeded, RunFailure, WorkerLost
from cluster.handles import BufferHandle, kill, restart
from cluster.wait import is_dead, wait_for
from configs.schema import ClusterConfig
from report.metrics import Record

WHO, WHAT = "the trajectory buffer", "give a sign of life"
BEATS, BEAT_S = 4, 1.0  # in a heartbeat; at most so long, for Ray tells a death at the next one
LOOK_S = 0.5


class BufferWatch:
    """Asks for a sign of life, one at a time, and has a buffer that gives none restarted.

    heartbeat_s: how long it may be silent.
    start_s: how long its process may take to start.
    replaceable: whether a new one could bring weights to the engines; else its loss is raised.
    """

    def __init__(
        self,
        buffer: BufferHandle,
        heartbeat_s: float,
        start_s: float,
        replaceable: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer, self._replaceable, self._clock = buffer, replaceable, clock
        self._heartbeat_s, self._start_s = heartbeat_s, start_s
        self._sign: ObjectRef[None] | None = None
        self._asked = clock() - heartbeat_s
        self._starting_since: float | None = clock()
        self._loss: Record | None = None  # from which it has not come back yet

    def check(self) -> None:
        """Look, without waiting.

        Raises:
            DeadlineExceeded: it does not start in time, or is silent and cannot be replaced.
            WorkerLost: it is dead, and Ray does not restart it.
        """
        now = self._clock()
        if self._sign is not None and ray.wait([self._sign], timeout=0)[0]:
            sign, self._sign = self._sign, None
            try:
                wait_for(sign, WHO, WHAT, self._heartbeat_s, "heartbeat_s")
            except WorkerLost as failure:
                self._lose(failure)
            else:
                self._serve()
        elif self._sign is None and now - self._asked >= min(BEAT_S, self._heartbeat_s / BEATS):
            self._sign, self._asked = self._buffer.heartbeat.remote(), now
        if self._starting_since is not None:
            if now - self._starting_since >= self._start_s:
                raise DeadlineExceeded(WHO, WHAT, self._start_s, "start_deadline_s")
        elif self._sign is not None and now - self._asked >= self._heartbeat_s:
            self._lose(DeadlineExceeded(WHO, WHAT, self._heartbeat_s, "heartbeat_s"))

    def _serve(self) -> None:
        self._starting_since = None
        if self._loss is not None:
            self._buffer.note.remote(self._loss)
            self._loss = None

    def _lose(self, failure: RunFailure) -> None:
        for_good = isinstance(failure.__cause__, ActorDiedError)
        if for_good or not self._replaceable:
            raise failure
        if self._loss is not None:
            return  # Ray is still at it
        if not is_dead(failure):
            restart(self._buffer.actor)
        self._sign, self._starting_since = None, self._clock()
        cause = str(failure).removeprefix(f"{WHO} ")
        self._loss = {"kind": "failure", "who": WHO, "cause": cause, "at": time.time()}
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
    watch = BufferWatch(buffer, cluster.heartbeat_s, cluster.start_deadline_s, replaceable=False)
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
