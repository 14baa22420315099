"""The processes that run a worker's environments: forked, called with deadlines, replaced.

Input: variants by name. Output: environments that an episode can play; a call that fails, takes
too long or loses its process raises EnvironmentFailure. An episode whose process ended through no
call of its own gets ProcessLost.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, TypeAlias, cast

from envs.base import EnvironmentFailure
from envs.registry import BUILT_IN
from rollout.awake import time_limit
from rollout.environment_inspection import BETWEEN, OTHER_PROCESS
from rollout.environment_process import HEADER, JSON, pack
from rollout.environment_server import EnvironmentServer, ended_from_outside, retrieve
from rollout.pictures import Picture

Environments: TypeAlias = Mapping[str, tuple[str, dict[str, object]]]
"""Variant name to (environment id, settings)."""

CLOSE_S = 5.0  # for all environments to close at the end
SHARED = 2  # processes of the built-in environments, which neither hang nor crash


class ProcessLost(EnvironmentFailure):
    """The process ended under another episode's call, or was killed: no fault of this episode."""


@dataclass(frozen=True)
class ProcessLimits:
    """Bounds of the processes of a worker's environments.

    processes: most of them; None: SHARED for a built-in environment, else one for each episode
        in flight.
    call_deadline_s: of reset, step and close.
    make_deadline_s: until an environment is made, with its imports.
    memory_gib: that a process may take; 0 is no bound.
    """

    processes: int | None = None
    call_deadline_s: float = 30.0
    make_deadline_s: float = 300.0
    memory_gib: float = 4.0


class EnvironmentStep(NamedTuple):
    """What reset or step returned, checked by `envs.checked`.

    message, restart: of the observation. picture: where the message begins a prompt.
    note: of the verifier about the answer.
    """

    message: str
    restart: int
    picture: Picture | None
    question: str
    reward: float
    terminated: bool
    truncated: bool
    note: str
    metrics: dict[str, float]


class EnvironmentProcess:
    """One process. Its calls run one after another; `episodes` are in it now.

    lost: why it is no more, "" while it is.
    idle: by variant, the slots of environments that wait for their next episode.
    abandoned: calls in it whose episode waits for them no more.
    """

    def __init__(self, server: EnvironmentServer, limits: ProcessLimits) -> None:
        self.episodes = 0
        self.lost = ""
        self.idle: dict[str, list[int]] = defaultdict(list)
        self.abandoned: set[asyncio.Task[tuple[JSON, bytes]]] = set()
        self.slots = count()
        self.limits = limits
        self._server = server
        self._one_call = asyncio.Lock()
        self._calls: set[asyncio.Task[tuple[JSON, bytes]]] = set()
        self._pid = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def call(self, name: str, slot: int, **arguments: object) -> tuple[JSON, bytes]:
        """One call of the environment in a slot; its reply, and a picture's bytes.

        Raises:
            EnvironmentFailure: it failed, took too long or lost its process.
        """
        # Shielded: whoever waits for the reply may give up, the next call must not read it.
        task = asyncio.ensure_future(self._call({"call": name, "slot": slot, **arguments}))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        task.add_done_callback(retrieve)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self.abandoned.add(task)
                task.add_done_callback(self.abandoned.discard)
            raise

    async def give_up(self) -> None:
        """Wait for no reply any more; the process is about to end."""
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _call(self, call: JSON) -> tuple[JSON, bytes]:
        begun = str(call["call"])
        async with self._one_call:
            if self.lost:
                raise ProcessLost(_words(begun, f"its process {self.lost}"))
            try:
                async with time_limit(self._deadline(begun)[0]) as limit:
                    reply, data = await self._exchange(call)
                    while "begun" in reply:  # a call of the environment within this one
                        begun = str(reply["begun"])
                        limit.begin_again(self._deadline(begun)[0])
                        reply, data = await self._read()
            except TimeoutError:
                seconds, key = self._deadline(begun)
                cause = f"took longer than {key} = {seconds:g}"
                await self._end(f"was killed: {begun} {cause}")
                raise EnvironmentFailure(_words(begun, cause)) from None
            except (OSError, EOFError) as error:  # it died, or could not be started
                self.lost = await self._end("died") or f"cannot be started: {error}"
                kind = ProcessLost if ended_from_outside(self.lost) else EnvironmentFailure
                raise kind(_words(begun, f"its process {self.lost}")) from None
            if reply.get("memory"):
                await self._end(f"needed more than env.memory_gib = {self.limits.memory_gib:g}")
                raise EnvironmentFailure(_words(begun, f"its process {self.lost}"))
        if "failure" in reply:
            raise EnvironmentFailure(str(reply["failure"]))
        return reply, data

    def _deadline(self, call: str) -> tuple[float, str]:
        """Seconds of a call, and the key that sets them: imports and checks have longer."""
        if call in ("make", OTHER_PROCESS, *BETWEEN):
            return self.limits.make_deadline_s, "cluster.start_deadline_s"
        return self.limits.call_deadline_s, "cluster.env_deadline_s"

    async def _exchange(self, call: JSON) -> tuple[JSON, bytes]:
        if not self._pid:
            memory = int(self.limits.memory_gib * 2**30)
            self._pid, self._reader, self._writer = await self._server.fork(memory)
        self._writer.write(pack(call))
        await self._writer.drain()
        return await self._read()

    async def _read(self) -> tuple[JSON, bytes]:
        sizes = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        text, data = [await self._reader.readexactly(size) for size in sizes]
        return json.loads(text), data

    async def _end(self, why: str) -> str:
        """End the process, and with it all its episodes; how it ended, "" where it never began."""
        self.lost = why
        if not self._pid:
            return ""
        self._writer.close()
        return await self._server.end(self._pid)


@dataclass
class PlayedEnvironment:
    """An environment that an episode plays, in a slot of a process."""

    process: EnvironmentProcess
    slot: int

    async def reset(self, seed: int) -> EnvironmentStep:
        """Begin an episode; raises EnvironmentFailure."""
        return unpack_step(*await self.process.call("reset", self.slot, seed=seed))

    async def step(self, answer: str) -> EnvironmentStep:
        """Grade an answer; raises EnvironmentFailure."""
        return unpack_step(*await self.process.call("step", self.slot, answer=answer))


def unpack_step(fields: JSON, data: bytes) -> EnvironmentStep:
    """What `environment_process.pack_step` packed."""
    values = cast("dict[str, Any]", fields)  # of its own types, by `pack_step`
    shown = values.pop("picture", None)
    if shown is None:
        return EnvironmentStep(**values, picture=None)
    key, height, width = shown
    return EnvironmentStep(**values, picture=Picture(key, height, width, data))


def most_processes(env_ids: Set[str], limit: int | None, episodes: int) -> int:
    """How many processes hold the environments of so many episodes at once."""
    default = SHARED if env_ids <= set(BUILT_IN) else episodes
    return min(limit or default, episodes)


class EnvironmentPool:
    """Processes for the environments of at most `episodes` episodes at once."""

    def __init__(self, environments: Environments, limits: ProcessLimits, episodes: int) -> None:
        self._environments, self._limits = environments, limits
        for name, (_, settings) in environments.items():
            if json.loads(json.dumps(settings)) != settings:
                raise ValueError(f"settings of {name}: {settings}: keys must be texts")
        ids = {env_id for env_id, _ in environments.values()}
        self._most = most_processes(ids, limits.processes, episodes)
        modules = [BUILT_IN[env_id].partition(":")[0] for env_id in sorted(ids & set(BUILT_IN))]
        self._server = EnvironmentServer(modules)
        self._processes: list[EnvironmentProcess] = []
        self._closing: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Have their modules imported, while an engine starts."""
        self._server.begin()

    def unused(self, environments: Environments, limits: ProcessLimits) -> bool:
        """Whether it is for these, and has played nothing: no run's state passes to the next."""
        wanted = json.dumps(environments), limits  # a text tells 1 and true apart
        return not self._processes and (json.dumps(self._environments), self._limits) == wanted

    def name(self, variant: str) -> str:
        """The Gymnasium id of a variant."""
        return self._environments[variant][0].rpartition(":")[2]

    @asynccontextmanager
    async def borrow(self, variant: str) -> AsyncIterator[PlayedEnvironment]:
        """An environment for one episode; it is used again unless the block raises.

        Raises:
            EnvironmentFailure: it cannot be made.
        """
        env_id, settings = self._environments[variant]
        process = self._process(variant)
        process.episodes += 1
        idle = process.idle[variant]
        slot, new = (idle.pop(), False) if idle else (next(process.slots), True)
        try:
            if new:
                await process.call("make", slot, env=env_id, settings=settings)
            yield PlayedEnvironment(process, slot)
        except BaseException:
            self._close_later(process, slot)
            raise
        else:
            idle.append(slot)
        finally:
            process.episodes -= 1

    def _process(self, variant: str) -> EnvironmentProcess:
        """The one with the fewest episodes, if possible with an idle environment; or a new one.

        One with an abandoned call is left alone: an episode there would wait for that call, and
        end with it. If all have one, a new process may be one more than there should be.
        """
        self._processes = [process for process in self._processes if not process.lost]
        free = [process for process in self._processes if not process.abandoned]
        best = min(free, key=lambda p: (p.episodes, not p.idle[variant]), default=None)
        if best is None or (best.episodes and len(self._processes) < self._most):
            best = EnvironmentProcess(self._server, self._limits)
            self._processes.append(best)
        return best

    def _close_later(self, process: EnvironmentProcess, slot: int) -> None:
        task = asyncio.ensure_future(_close(process, slot))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the environments, and end their processes."""
        for process in self._processes:
            for slots in process.idle.values():
                for slot in slots:
                    self._close_later(process, slot)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_S)
        for process in self._processes:
            await process.give_up()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._server.close()


async def _close(process: EnvironmentProcess, slot: int) -> None:
    if process.lost:
        return
    try:
        await process.call("close", slot)
    except EnvironmentFailure as failure:  # of no episode: it is shown, and costs nothing
        print(failure, file=sys.stderr)


def _words(call: str, cause: str) -> str:
    return f"environment {call}: {cause}"
