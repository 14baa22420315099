"""Rollouts and learner at once, on a cluster whose engines and learner only take time.

`python -m benchmarks.simulated_cluster` prints JSON rows: idle shares of both sides and throughput
by staleness, in virtual time on the real ledger and in real time on the real buffer and object
store too; what ledger and buffer cost a trajectory; whether memory and queue stay flat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

import psutil
import ray

from benchmarks.simulation.actors import start_workers
from benchmarks.simulation.costs import constant_speeds
from benchmarks.simulation.durations import matched
from benchmarks.simulation.learner import SimulatedLearner
from benchmarks.simulation.virtual import VirtualCluster
from benchmarks.simulation.virtual_worker import Finished
from cluster.handles import BufferHandle
from cluster.job import Job
from cluster.run.lease import Token
from cluster.stream.buffer import TrajectoryBuffer
from cluster.stream.ledger import Batch, Ledger
from configs.paths import ROOT
from configs.schema import ClusterConfig, LearnerConfig, PPOConfig, RolloutConfig, RunConfig
from report.metrics import Record
from rollout.episode import EpisodeRequest

STALENESS = (0, 1, 2, 4)  # in virtual time; on processes: 0 and 2
UPDATES = 1_000_000  # more than a run takes: its engines never run dry
SAMPLE_S = 5.0  # between two looks at memory
WARM_UP = 2  # updates before anything is measured
MIB = 2**20
P = ParamSpec("P")
T = TypeVar("T")


def configuration(args: argparse.Namespace, staleness: int) -> RunConfig:
    """The run of which engines and learner are simulated."""
    return RunConfig(
        ppo=PPOConfig(updates=UPDATES, episodes=args.episodes, max_staleness=staleness),
        rollout=RolloutConfig(workers=args.engines, in_flight=args.in_flight, block=args.block),
        learner=LearnerConfig(ranks=args.ranks),
        cluster=ClusterConfig(object_store_gib=0.5),
    )


def row(name: str, cfg: RunConfig, **figures: object) -> None:
    """Print one row."""
    sizes = {
        "engines": cfg.rollout.workers,
        "in_flight": cfg.rollout.in_flight,
        "ranks": cfg.learner.ranks,
        "episodes": cfg.ppo.episodes,
        "staleness": cfg.ppo.max_staleness,
    }
    shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(
        json.dumps({"benchmark": "simulated_cluster", "name": name, **sizes, **shown}), flush=True
    )


class TimedLedger(Ledger[Finished]):
    """A ledger that knows for how many seconds of CPU it was asked, and how many have finished."""

    spent, played = 0.0, 0

    def assign(self, versions: list[int | None], capacity: int) -> dict[int, list[EpisodeRequest]]:
        """As Ledger.assign."""
        return self._timed(super().assign, versions, capacity)

    def finish(self, results: list[Finished]) -> list[tuple[EpisodeRequest, Finished]]:
        """As Ledger.finish."""
        self.played += len(results)
        return self._timed(super().finish, results)

    def take(self, update: int) -> Batch[Finished] | None:
        """As Ledger.take."""
        return self._timed(super().take, update)

    def _timed(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        begin = time.process_time()
        result = method(*args, **kwargs)
        self.spent += time.process_time() - begin
        return result


def in_virtual_time(args: argparse.Namespace) -> None:
    """Idle shares by staleness, and what the ledger costs."""
    for staleness in STALENESS:
        cfg = configuration(args, staleness)
        ledger = TimedLedger()
        costs = constant_speeds(cfg, matched(cfg, args.rate))
        run = VirtualCluster(cfg, costs, ledger).run(args.updates)
        row(
            "virtual time",
            cfg,
            learner_idle=run.learner_idle,
            rollout_idle=run.rollout_idle,
            episodes_per_second=run.episodes_per_s,
            ledger_microseconds_a_trajectory=1e6 * ledger.spent / ledger.played,
        )


def growth(values: list[float]) -> float:
    """By how much the second half's median is above the first's; 0 where it is below."""
    half = len(values) // 2
    return max(0.0, statistics.median(values[half:]) - statistics.median(values[:half] or values))


@dataclass
class Memory:
    """What processes and the object store held, a sample every SAMPLE_S, MiB."""

    seconds: list[float] = field(default_factory=list)
    buffer: list[float] = field(default_factory=list)
    objects: list[float] = field(default_factory=list)


@contextmanager
def watched(process: psutil.Process) -> Iterator[Memory]:
    """Sample memory on a thread."""
    memory, over, begin = Memory(), threading.Event(), time.monotonic()
    total = ray.cluster_resources()["object_store_memory"]

    def watch() -> None:
        while True:
            memory.seconds.append(time.monotonic() - begin)
            memory.buffer.append(process.memory_info().rss / MIB)
            free = ray.available_resources().get("object_store_memory", total)
            memory.objects.append((total - free) / MIB)
            if over.wait(SAMPLE_S):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def buffer_process() -> psutil.Process:
    """The process of the trajectory buffer that this session has started last."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if "ray::TrajectoryBuffer" in " ".join(process.cmdline()):
                found.append(process)
    return max(found, key=lambda process: process.create_time())


def in_real_time(args: argparse.Namespace, staleness: int, seconds: float) -> Record:
    """A run over processes; returns its throughput."""
    cfg = configuration(args, staleness)
    speeds = matched(cfg, args.rate)
    workers = start_workers(cfg, speeds, args.processes)
    actor = TrajectoryBuffer.remote(workers, cfg)  # type: ignore[attr-defined]
    buffer = BufferHandle(actor)
    ray.get(buffer.start.remote())
    buffer = replace(buffer, epoch=ray.get(buffer.reset.remote()))
    process = buffer_process()
    learner = SimulatedLearner(Job(cfg, Token("", 0, ""), "", workers, buffer), speeds)
    begin, spent = time.monotonic(), _cpu_s(process)
    with watched(process) as memory:
        learner.run(seconds)
    wall, spent = time.monotonic() - begin, _cpu_s(process) - spent
    ray.kill(actor)
    for worker in workers:
        worker.shutdown.remote()
    return report(cfg, learner.records, memory, wall, spent)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def report(
    cfg: RunConfig, records: list[Record], memory: Memory, wall: float, buffer_s: float
) -> Record:
    """Print the row of a run over processes; returns it."""
    measured = records[WARM_UP:] or records[-1:]
    seconds = sum(r["seconds"] for r in measured)
    taken = len(measured) * cfg.ppo.episodes
    filled = [r["running"] * r["busy_seconds"] / r["seconds"] for r in measured]
    last = records[-1]["ledger"]
    played = sum(n for state, n in last.items() if state not in ("queued", "running"))
    queue = [
        r["ledger"]["queued"] + r["ledger"]["running"] + r["ledger"]["ready"] for r in measured
    ]
    figures: Record = {
        "seconds": wall,
        "updates": len(records),
        "learner_idle": _weighted(measured, "learner_idle"),
        "engine_idle": statistics.mean(
            idle for r in measured for idle in r["engine_idle"] if idle is not None
        ),
        "rollout_idle": max(0.0, 1 - statistics.mean(filled) / cfg.rollout.in_flight),
        "episodes_per_minute": 60 * taken / seconds,
        "buffer_microseconds_a_trajectory": 1e6 * buffer_s / played,
        "oldest": max(age for r in measured for age, n in enumerate(r["staleness"]) if n),
        "buffer_mib": memory.buffer[-1],
        "buffer_growth_mib": growth(memory.buffer),
        "objects_mib": max(memory.objects),
        "objects_growth_mib": growth(memory.objects),
        "queue": statistics.median(queue),
        "queue_growth": growth(queue),
    }
    row("processes", cfg, **figures)
    return figures


def _weighted(records: list[Record], name: str) -> float:
    return sum(r[name] * r["seconds"] for r in records) / sum(r["seconds"] for r in records)


def main(arguments: list[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=4, help="sequences of an engine")
    parser.add_argument("--block", type=int, default=RolloutConfig.block, help="trajectories")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=2048, help="of an update")
    parser.add_argument("--rate", type=float, default=175.0, help="episodes a second, full engines")
    parser.add_argument("--updates", type=int, default=8, help="measured in virtual time")
    parser.add_argument("--seconds", type=float, default=180.0, help="at staleness 2")
    parser.add_argument("--synchronous", type=float, default=90.0, help="seconds at staleness 0")
    parser.add_argument("--processes", type=int, default=2, help="that hold the engines")
    args = parser.parse_args(arguments)
    in_virtual_time(args)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=2**29,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        for staleness, seconds in ((0, args.synchronous), (2, args.seconds)):
            if seconds:
                in_real_time(args, staleness, seconds)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
