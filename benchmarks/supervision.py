"""What a run without faults pays for being watched: processor time of all looks, in % of a core.

`python -m benchmarks.supervision` has actors that do nothing in the places of rollout workers and
buffer, first unwatched, then watched as those of a run are, and signs as Ray Train's controller
gives. It prints a row, and ends with an error above 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import ray
from ray.train.v2._internal.execution.controller.state import InitializingState, RunningState

from cluster.driver.buffer_watch import LOOK_S, BufferWatch
from cluster.driver.group_watch import GroupWatch, Signs
from cluster.driver.learner_group import HEALTH_CHECK_S
from cluster.failures import RunFailure
from cluster.handles import BufferHandle, RolloutWorkerHandle
from cluster.run.lease import Lease, Token
from cluster.workers.supervisor import Supervisor
from configs.load import load
from configs.paths import ROOT
from report.metrics import Record
from rollout.awake import Awake
from rollout.engine_watch import EngineWatch, processor_seconds

LIMIT = 0.01  # of a core
SETTLE_S = 10.0  # after which what a new process does at first is over


class IdleEngine:
    """An engine that is there and answers."""

    def death(self) -> str | None:
        """It lives."""
        return None

    async def probe(self) -> None:
        """An answer."""


@ray.remote(num_cpus=0)
class Worker:
    """A rollout worker's signs of life; its engine's processes are this one."""

    async def start(self) -> int:
        """As if an engine had started: from now on it is watched."""
        spent = partial(processor_seconds, [psutil.Process()])
        self._watch = EngineWatch(IdleEngine(), 30.0, spent, Awake())
        return os.getpid()

    async def heartbeat(self, seconds: float) -> int:
        """See `cluster.actors.RolloutActor`."""
        await self._watch.race(asyncio.sleep(seconds))
        return os.getpid()

    async def reconfigure(self, *_: object) -> None:
        """Nothing to take up."""

    async def node(self) -> str:
        """Where it is."""
        return "here"

    def processor_seconds(self) -> float:
        """So far."""
        return time.process_time()


class IdleFleet:
    """What a supervisor tells where nothing is lost."""

    def lost(self, index: int, cause: str) -> Record:
        """It is no measure of a run without faults."""
        raise AssertionError(f"worker {index} was lost: {cause}")

    async def prepare(self, index: int) -> Record:
        """Never asked for."""
        return {}

    async def present(self) -> None:
        """A worker that was slow answers again."""

    async def fail(self, failure: RunFailure) -> None:
        """It is no measure either."""
        raise AssertionError(str(failure))


@ray.remote(num_cpus=0)
class Buffer:
    """The trajectory buffer's signs of life, and the supervisor in it."""

    async def watch(self, workers: list[RolloutWorkerHandle]) -> None:
        """Begin to watch them."""
        self._supervisor = Supervisor(workers, load("gp_l_debug"), True, IdleFleet())
        await self._supervisor.start()

    async def heartbeat(self) -> None:
        """See `cluster.stream.buffer.TrajectoryBuffer`."""

    def processor_seconds(self) -> float:
        """So far."""
        return time.process_time()


class Driver:
    """The driver's looks at the buffer and at Ray Train's controller, whose signs it gives too."""

    def __init__(self, folder: Path, token: Token, buffer: BufferHandle) -> None:
        cluster = load("gp_l_debug").cluster
        self._signs = Signs(token)
        self._group = GroupWatch(folder, cluster, 0)
        self._buffer = BufferWatch(buffer, cluster.heartbeat_s, cluster.start_deadline_s, 0)
        self._group.begin()
        self._signs.after_controller_state_update(InitializingState(), RunningState())

    def watch(self, seconds: float) -> None:
        """Look as often as in a run."""
        end = time.monotonic() + seconds
        signed = 0.0
        while (now := time.monotonic()) < end:
            if now - signed >= HEALTH_CHECK_S:
                self._signs.after_worker_group_poll_status(None)
                signed = now
            self._buffer.check()
            self._group.check()
            time.sleep(LOOK_S)


def measure(workers: int, seconds: float) -> Record:
    """Processor time of the driver, the buffer and a worker, unwatched and watched, by the second.

    Args:
        workers: that the supervisor watches.
        seconds: of each of the two.
    """
    actors = [Worker.remote() for _ in range(workers)]
    buffer = Buffer.remote()
    everybody = [buffer, *actors]

    def spent() -> list[float]:
        calls = [actor.processor_seconds.remote() for actor in everybody]
        return [time.process_time(), *ray.get(calls)]

    with tempfile.TemporaryDirectory(prefix="supervision-") as root, Lease(Path(root)) as token:
        spent()  # all are there
        time.sleep(min(SETTLE_S, seconds))
        begin = spent()
        time.sleep(seconds)
        between = spent()
        ray.get(buffer.watch.remote(actors))
        driver = Driver(Path(root), token, buffer)
        driver.watch(2.0)  # what is made once
        watched = spent()
        driver.watch(seconds)
        end = spent()
    shares = [
        (d - c - (b - a)) / seconds for a, b, c, d in zip(begin, between, watched, end, strict=True)
    ]
    return {
        "benchmark": "supervision",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "workers": workers,
        "seconds": seconds,
        "driver_share": shares[0],
        "buffer_share": shares[1],
        "worker_share": max(shares[2:]),
        "all_share": sum(shares),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(arguments)
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env=environment)
    try:
        row = measure(options.workers, options.seconds)
    finally:
        ray.shutdown()
    print(json.dumps(row), flush=True)
    if row["all_share"] > LIMIT:
        sys.exit(f"all_share is {row['all_share']:.4f} of a core, at most {LIMIT}")


if __name__ == "__main__":
    main()
