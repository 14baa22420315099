"""A run under random faults for a while: nothing may hang, leak or be trained twice, or be lost.

`python -m benchmarks.soak --minutes 30 --every 0.5` trains a tiny model on this machine and puts a
random fault into a random part at random moments, one each `--every` minutes on average. It prints
a row of figures, and ends with an error where an episode is not accounted for.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.chaos.phases import steady
from benchmarks.chaos.run import FaultyRun
from benchmarks.faults import MENDED, SIGNALS
from cluster.recorded_blocks import FOLDER, read_blocks
from configs.load import load
from report.metrics import Record, read

SETTINGS = ("ppo.record=true", "eval.every=20", "ppo.max_staleness=1")
END_S = 90.0  # for the run to end by SIGTERM
MIB = 2**20


@dataclass(frozen=True)
class Account:
    """Where the episodes of a run are, by the blocks that its updates have trained on.

    trained: on which an update that stands was trained.
    twice: of them, those that two updates had.
    dropped: that failed, by the records of the updates.
    missing: of the numbers up to the last one trained, those neither trained nor dropped.
    """

    trained: int
    twice: int
    dropped: int
    missing: int


def account(updates: Sequence[Record], trained: Sequence[Sequence[str]], episodes: int) -> Account:
    """Account for every episode.

    Args:
        updates: records of the updates that stand.
        trained: ids of the episodes that each of them had.
        episodes: of an update.
    """
    times = Counter(name for ids in trained for name in ids)
    numbers = {_number(name, episodes) for name in times}
    absent = max(numbers, default=-1) + 1 - len(numbers)
    dropped = sum(int(record["failed"]) for record in updates)
    return Account(
        trained=sum(times.values()),
        twice=sum(count > 1 for count in times.values()),
        dropped=dropped,
        missing=max(0, absent - dropped),
    )


def _number(name: str, episodes: int) -> int:
    """The place of an episode, ppo/UPDATE/INDEX, among all of a run."""
    _, update, index = name.split("/")
    return (int(update) - 1) * episodes + int(index)


def goodput(ends: Sequence[float], begin: float, end: float) -> float:
    """Useful time by time: the updates that stand, each as long as one without a fault takes.

    Args:
        ends: when each of them ended, in their order.
        begin: of the time.
        end: of the time.
    """
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    if not gaps:
        return 0.0
    return min(1.0, len(gaps) * statistics.median(gaps) / (end - begin))


def soak(root: Path, minutes: float, every: float, seed: int) -> Record:
    """Put random faults into a run; its figures.

    Args:
        root: where the run folder is made.
        minutes: how long.
        every: minutes between two faults, on average.
        seed: of the faults.
    """
    draws, faults = random.Random(seed), Counter[str]()
    run = FaultyRun(root, "soak", *SETTINGS)
    try:
        steady(run)
        begin = time.time()
        before, end = _sizes(run), begin + 60 * minutes
        while (pause := draws.expovariate(1 / (60 * every))) + time.time() < end:
            time.sleep(pause)
            run.until(lambda: True, "the next fault")  # an end of the run is an error
            part, name = draws.choice(MENDED), draws.choice([*SIGNALS])
            if targets := run.processes(part):
                draws.choice(targets).send_signal(SIGNALS[name])
                faults[f"{part} {name}"] += 1
        time.sleep(max(0.0, end - time.time()))
        finish = time.time()
        steady(run)  # whatever was lost last has come back
        after = _sizes(run)
        run.driver.send_signal(signal.SIGTERM)
        code = run.driver.wait(END_S)
        left = run.left_behind(30.0)
    finally:
        run.end()
    updates = [record for record in read(run.folder) if record["kind"] == "ppo"]
    blocks = [_ids(run.folder / FOLDER, int(record["update"])) for record in updates]
    ends = [float(r["time"]) for r in updates if begin <= float(r["time"]) <= finish]
    accounted = account(updates, blocks, load(run.folder / "config.yaml").ppo.episodes)
    return {
        "benchmark": "soak",
        "minutes": minutes,
        "every_minutes": every,
        "faults": faults.total(),
        "faults_by_kind": dict(faults),
        "updates": len(updates),
        "goodput": goodput(ends, begin, finish),
        **vars(accounted),
        "driver_growth_mib": max(0.0, (after[0] - before[0]) / MIB),
        "driver_more_files": max(0, after[1] - before[1]),
        "shared_memory_files": len([*Path("/dev/shm").glob("cardinal-w-*")]),
        "processes_left": len(left),
        "exit_code": code,
    }


def _sizes(run: FaultyRun) -> tuple[int, int]:
    """Memory and open files of the driver, the one process that no fault replaces."""
    process: psutil.Process = run.processes("driver")[0]
    return process.memory_info().rss, process.num_fds()


def _ids(folder: Path, update: int) -> list[str]:
    return [trajectory.id for trajectory in read_blocks(folder, update, 0, 1)]


def main(arguments: list[str] | None = None) -> None:
    """Print the figures as one JSON row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=0.5, help="minutes between two faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cardinal-soak-", ignore_cleanup_errors=True) as root:
        row = soak(Path(root), options.minutes, options.every, options.seed)
    print(json.dumps(row), flush=True)
    if row["twice"] or row["missing"] or row["processes_left"]:
        sys.exit("an episode is not accounted for, or a process stayed behind")


if __name__ == "__main__":
    main()
