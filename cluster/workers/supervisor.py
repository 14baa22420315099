"""Keeps the rollout workers of a run at work: finds those that died or hang, and replaces them.

Runs in the trajectory buffer's process, on its event loop. Ray restarts the actor, on its node or,
where that is gone, on another (`max_restarts`), under the handle that everybody has. What a new
actor needs before it serves is the buffer's business (`Fleet`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from ray import ObjectRef

from cluster.environments import environments
from cluster.failures import DeadlineExceeded, RunFailure, WorkerLost
from cluster.handles import RolloutWorkerHandle, restart
from cluster.wait import is_dead, is_gone, wait_for_async
from cluster.workers.part import Part, State
from configs.schema import RunConfig
from report.metrics import Record
from rollout.engine import EngineFailure

BEATS = 4  # of an actor in its heartbeat
PAUSE_S = 2.0  # after an answer, in which no call waits that an end of the actor would fail
SIGN = "give a sign of life"
AGAIN_S = 0.2  # between looks at whether Ray has restarted an actor
T = TypeVar("T")


class WorkerGone(RunFailure):
    """The worker is lost, and is being replaced; whoever waited for it goes on without it."""


class Fleet(Protocol):
    """What the supervisor tells, and what it asks for."""

    def lost(self, index: int, cause: str) -> Record:
        """A worker is gone; returns what that means for its episodes, for the record."""

    async def prepare(self, index: int) -> Record:
        """Bring a new worker to where the others are; returns how that was proven."""

    async def present(self) -> None:
        """A worker serves, or serves again."""

    async def fail(self, failure: RunFailure) -> None:
        """The run cannot continue."""


class Supervisor:
    """The workers by index, each a `Part`.

    takes_over: the workers have served before, under a buffer that was lost: one of them may be
        lost too.
    incidents: what has happened since they were read last: records for metrics.jsonl.
    """

    def __init__(
        self,
        workers: list[RolloutWorkerHandle],
        cfg: RunConfig,
        replaceable: bool,
        fleet: Fleet,
        takes_over: bool = False,
    ) -> None:
        self.workers, self._cfg, self._fleet = workers, cfg, fleet
        self._replaceable, self._takes_over = replaceable, takes_over
        now = time.monotonic()
        self._parts = [Part(cfg.rollout.max_restarts, now) for _ in workers]
        self._lives = [0] * len(workers)  # of each actor, another one once it is restarted
        self._answered = [0.0] * len(workers)  # when each last did what was asked of it
        self._signed = [0.0] * len(workers)  # when each last gave another sign of life
        self.nodes = [""] * len(workers)
        self._gone: list[asyncio.Future[RunFailure]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Future[list[None]] | None = None
        self.incidents: list[Record] = []

    async def start(self) -> None:
        """Start all engines, once; every caller waits for it.

        Raises:
            RunFailure: an engine does not start, though its actor lives: another try would end as
                this one.
        """
        if self._starting is None:
            self._gone = [asyncio.get_running_loop().create_future() for _ in self.workers]
            everyone = range(len(self.workers))
            self._starting = asyncio.gather(*(self._first_start(index) for index in everyone))
        await self._starting

    async def _first_start(self, index: int) -> None:
        part = self._parts[index]
        try:
            if self._takes_over:
                await self._give_sign(index)
            await self._start_engine(index)
        except RunFailure as failure:
            restarts = self._replaceable and is_dead(failure) and not is_gone(failure)
            if not (self._takes_over or restarts):
                raise
            part.lose(str(failure), time.monotonic())
            self.note("failure", index, str(failure))
            self._run(self._bring_back(index, is_dead(failure)))
        else:
            part.move(State.SERVING, time.monotonic())
            self._run(self._watch(index, self._gone[index]))

    async def _give_sign(self, index: int) -> None:
        sign, seconds = self.workers[index].heartbeat.remote(0.0), self._cfg.cluster.heartbeat_s
        await wait_for_async(sign, _name(index), SIGN, seconds, "heartbeat_s")

    def present(self) -> list[int]:
        """The workers that are at work."""
        return [index for index, part in enumerate(self._parts) if part.present]

    def serves(self, index: int) -> bool:
        """Whether a worker may be given episodes: it is not even suspect."""
        return self._parts[index].state == State.SERVING

    async def ask(self, index: int, what: str, ref: ObjectRef[T], seconds: float, key: str) -> T:
        """A worker's answer, unless it is lost meanwhile; arguments as of `wait.wait_for`.

        Raises:
            WorkerGone: it is lost, and is being replaced.
            RunFailure: an error of its own, which a new worker would raise too.
        """
        gone = self._gone[index]
        answer = asyncio.ensure_future(wait_for_async(ref, _name(index), what, seconds, key))
        await _first(answer, gone)
        if not gone.done():
            try:
                result = answer.result()
            except RunFailure as failure:
                if not _tells_of_a_loss(failure):
                    raise
                await self._lose(index, failure)
            else:
                self._answered[index] = asyncio.get_running_loop().time()
                return result
        answer.add_done_callback(_forget)
        if not self._replaceable:
            raise gone.result()
        raise WorkerGone(str(gone.result())) from gone.result().__cause__

    def _with_last_sign(self, index: int, failure: RunFailure) -> RunFailure:
        """It has missed a deadline, and may have answered other calls meanwhile."""
        sign = max(self._answered[index], self._signed[index])
        if not isinstance(failure, DeadlineExceeded) or not sign:  # it has given none yet
            return failure
        return failure.with_last_sign(asyncio.get_running_loop().time() - sign)

    async def _watch(self, index: int, gone: asyncio.Future[RunFailure]) -> None:
        """Ask a worker for signs of life, until it is lost; not while it answers other calls.

        Its answer comes after a beat; an end of the actor or of its engine comes at once.
        """
        part, seconds = self._parts[index], self._cfg.cluster.heartbeat_s
        beat, loop = seconds / BEATS, asyncio.get_running_loop()
        pause = min(beat, PAUSE_S)
        sign = loop.time()
        while not gone.done():
            silent = loop.time() - self._answered[index]
            if silent < pause:
                await _first(gone, timeout=pause - silent)
                continue
            # It may have been stopped right after its last sign. What is longer is no silence of
            # its own: this process was frozen, or late.
            silent = min(loop.time() - sign, beat)
            call = self.workers[index].heartbeat.remote(beat)
            answer = asyncio.ensure_future(self._sign(index, call, silent))
            await _first(answer, gone, timeout=2 * beat - silent)
            if not answer.done() and part.state == State.SERVING:
                part.move(State.SUSPECT, time.monotonic())
            await _first(answer, gone)
            if gone.done():
                answer.add_done_callback(_forget)
                return
            if failure := answer.exception():
                assert isinstance(failure, RunFailure), failure
                await self._lose(index, failure)
                continue
            sign = self._signed[index] = loop.time()
            if part.state == State.SUSPECT:
                part.move(State.SERVING, time.monotonic())
                await self._fleet.present()

    async def _sign(self, index: int, call: ObjectRef[int], silent: float) -> int:
        """A sign of life of a worker that has been silent for so long; to answer others is one."""
        seconds, loop = self._cfg.cluster.heartbeat_s, asyncio.get_running_loop()
        answer = asyncio.ensure_future(call)
        answer.add_done_callback(_forget)  # it may fail when nobody waits for it any more
        while True:
            asked, left, waiting = loop.time(), seconds - silent, asyncio.shield(answer)
            try:
                return await wait_for_async(waiting, _name(index), SIGN, left, "heartbeat_s")
            except DeadlineExceeded:
                if self._answered[index] <= asked:
                    raise DeadlineExceeded(_name(index), SIGN, seconds, "heartbeat_s") from None
                # Until it was due: for what it is later this process was frozen.
                silent = max(0.0, asked + left - self._answered[index])

    async def _lose(self, index: int, failure: RunFailure) -> None:
        """Take a worker for lost, and have it replaced."""
        part, gone = self._parts[index], self._gone[index]
        if gone.done():
            return
        told, served = self._with_last_sign(index, failure), part.present
        gone.set_result(told)
        if not served:
            return  # it had not served yet: `_bring_back` is at it
        silent_s = failure.seconds if isinstance(failure, DeadlineExceeded) else 0.0
        part.lose(str(failure), time.monotonic(), silent_s)
        self.note("failure", index, str(told), **self._fleet.lost(index, str(told)))
        if self._replaceable:
            self._run(self._bring_back(index, is_dead(failure)))
        else:
            await self._fleet.fail(failure)

    async def _bring_back(self, index: int, dead: bool) -> None:
        """Replace a worker, as often as it may be lost in a row."""
        part, begin = self._parts[index], time.monotonic()
        while part.given_up is None:
            await asyncio.sleep(part.backoff_s)
            part.move(State.REPLACING, time.monotonic())
            start = asyncio.get_running_loop().time()
            try:
                await self._restart_actor(index, dead)
                part.move(State.STARTING, time.monotonic())
                proof = await self._start_and_prepare(index, start)
            except RunFailure as failure:
                part.lose(str(failure), time.monotonic())
                self.note("failure", index, str(failure))
                dead = is_dead(failure)
                continue
            part.move(State.SERVING, time.monotonic())
            seconds = time.monotonic() - begin
            self.note("restart", index, f"serves again after {seconds:.1f} s", **proof)
            await self._fleet.present()
            return
        await self._fleet.fail(
            RunFailure(
                f"{_name(index)} was lost {part.losses} times, the last ones soon after each other "
                f"(rollout.max_restarts={self._cfg.rollout.max_restarts}); first: {part.given_up}"
            )
        )

    async def _start_and_prepare(self, index: int, start: float) -> Record:
        gone = self._gone[index] = asyncio.get_running_loop().create_future()
        await self._start_engine(index)
        start_seconds = asyncio.get_running_loop().time() - start
        self._run(self._watch(index, gone))
        try:
            proof = await self._fleet.prepare(index)
        except RunFailure as failure:
            if not gone.done():
                gone.set_result(failure)  # or its watch would go on beside that of the next one
            raise
        if gone.done():  # while nothing was asked of it
            raise gone.result()
        return proof | {"start_seconds": start_seconds}

    async def _restart_actor(self, index: int, dead: bool) -> None:
        """Wait until Ray has a new actor; one that is not dead is ended first."""
        worker, old = self.workers[index], self._lives[index]
        name, key = _name(index), "start_deadline_s"
        seconds, begin = self._cfg.cluster.start_deadline_s, time.monotonic()
        if not dead:
            restart(worker)
        while True:
            left = begin + seconds - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(name, "be restarted", seconds, key)
            try:
                sign = worker.heartbeat.remote(0.0)
                life = await wait_for_async(sign, name, "be restarted", left, key)
            except WorkerLost as failure:
                if is_gone(failure):
                    raise
                await asyncio.sleep(AGAIN_S)
                continue
            if life != old:
                self._lives[index] = life
                return
            restart(worker)  # it could not be reached, and can now
            await asyncio.sleep(AGAIN_S)

    async def _start_engine(self, index: int) -> None:
        """Start an actor's engine, for this run; learn its life and its node."""
        worker, name, key = self.workers[index], _name(index), "start_deadline_s"
        seconds = self._cfg.cluster.start_deadline_s
        start = worker.start.remote()
        self._lives[index] = await wait_for_async(start, name, "start its engine", seconds, key)
        run = worker.reconfigure.remote(self._cfg, environments(self._cfg))
        await wait_for_async(run, name, "take up a run", seconds, key)
        node = worker.node.remote()
        self.nodes[index] = await wait_for_async(node, name, "name its node", seconds, key)
        self._signed[index] = asyncio.get_running_loop().time()

    def note(self, kind: str, index: int, cause: str, **fields: object) -> None:
        """Add to the incidents something that befell a worker."""
        who = _name(index)
        cause = cause.removeprefix(f"{who} ")
        incident = {"kind": kind, "who": who, "cause": cause, "at": time.time()}
        self.incidents.append(incident | fields)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - a task's boundary; else nobody would know
                await self._fleet.fail(RunFailure(f"the supervisor broke: {error!r}"))

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _first(*waiting: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Wait until one of them is done, or so many seconds."""
    await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _name(index: int) -> str:
    return f"rollout worker {index}"


def _tells_of_a_loss(failure: RunFailure) -> bool:
    """Whether the worker is dead or hangs; otherwise it has raised an error of its own."""
    if isinstance(failure, DeadlineExceeded):
        return True
    cause = getattr(failure.__cause__, "cause", None)
    return is_dead(failure) or isinstance(cause, EngineFailure)


def _forget(answer: asyncio.Future[T]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not answer.cancelled():
        answer.exception()
