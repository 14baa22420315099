"""A run under random faults for a while: nothing may hang, leak or be trained twice, or be lost.

`python -m benchmarks.soak` trains a tiny model on this machine: 2 minutes without a fault, 15 with
one every three minutes, 18 with those that are left of 50, at random moments. It prints a row of
figures, and ends with an error where one of them misses its limit.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.chaos.phases import steady
from benchmarks.chaos.run import FaultyRun
from benchmarks.faults import MENDED, SIGNALS
from cluster.checkpoints.cursor import Cursor
from cluster.exit_codes import ExitCode
from cluster.stream.recorded_blocks import FOLDER, read_blocks
from configs.load import load
from report.metrics import Record, read
from rollout.bucket_file import PREFIX

SETTINGS = ("ppo.record=true", "eval.every=20", "ppo.max_staleness=1")
EVERY_MINUTES = 3.0  # between two faults, while goodput is measured
GOODPUT = 0.8  # then, at least
CURVE_MINUTES = (1, 2, 3, 5, 10, 30, 60)
HANG_S = 300.0  # without an update
STEADY_S = 60.0  # at the end, before sizes are compared
END_S = 90.0  # for the run to end by SIGTERM
GROWN_MIB, MORE_FILES, MORE_PROCESSES = 100.0, 20, 4  # that a part may grow by
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


def account(failed: Sequence[str], trained: Sequence[Sequence[str]], episodes: int) -> Account:
    """Account for every episode by its id.

    Args:
        failed: ids of those that failed, by the records of the updates that stand.
        trained: ids of the episodes that each of these updates had.
        episodes: of an update.
    """
    times = Counter(name for ids in trained for name in ids)
    numbers = {_number(name, episodes) for name in times}
    dropped = {_number(name, episodes) for name in failed} - numbers
    known = len(numbers) + sum(number <= max(numbers, default=-1) for number in dropped)
    return Account(
        trained=sum(times.values()),
        twice=sum(count > 1 for count in times.values()),
        dropped=len(dropped),
        missing=max(numbers, default=-1) + 1 - known,
    )


def _number(name: str, episodes: int) -> int:
    """The place of an episode, ppo/UPDATE/INDEX, among all of a run."""
    _, update, index = name.split("/")
    return (int(update) - 1) * episodes + int(index)


@dataclass(frozen=True)
class Stretch:
    """A part of the time, Unix, s: from begin to end."""

    begin: float
    end: float

    def updates(self, ends: Sequence[float]) -> int:
        """How many updates ended in it."""
        return sum(self.begin < end <= self.end for end in ends)

    def goodput(self, ends: Sequence[float], seconds: float) -> float:
        """Useful time by time: the updates that stand, each as long as one without a fault.

        Args:
            ends: when each of them ended.
            seconds: that an update takes without a fault.
        """
        return min(1.0, self.updates(ends) * seconds / (self.end - self.begin))


def undisturbed(begin: float, faults: Sequence[float]) -> list[Stretch]:
    """The minute before each next fault, by when the run has recovered from the last one.

    Args:
        begin: of the time with these faults.
        faults: seconds after it.
    """
    ends = [begin + fault + 60 * EVERY_MINUTES for fault in faults]
    return [Stretch(end - 60.0, end) for end in ends]


def pace(stretches: Sequence[Stretch], ends: Sequence[float]) -> float:
    """Seconds that an update takes in these stretches."""
    seconds = sum(stretch.end - stretch.begin for stretch in stretches)
    return seconds / max(1, sum(stretch.updates(ends) for stretch in stretches))


def curve(goodput: float, every_minutes: float) -> dict[str, float]:
    """Goodput by minutes between two faults, computed: each costs as much as at the measured."""
    lost = (1 - goodput) * every_minutes
    return {str(minutes): max(0.0, 1 - lost / minutes) for minutes in CURVE_MINUTES}


def moments(draws: random.Random, begin: float, end: float, number: int) -> list[float]:
    """So many random moments, in order."""
    return sorted(draws.uniform(begin, end) for _ in range(number))


@dataclass(frozen=True)
class Minutes:
    """Of each part of a soak."""

    quiet: float
    rare: float
    random: float

    @property
    def total(self) -> float:
        """Of all."""
        return self.quiet + self.rare + self.random


@dataclass(frozen=True)
class Size:
    """What a process takes: memory of its own (bytes), open files; started tells it from others."""

    title: str
    started: float
    memory: int
    files: int

    @classmethod
    def of(cls, process: psutil.Process) -> Size:
        """Its size now; none of a process that has ended meanwhile."""
        try:
            memory = process.memory_full_info().uss
            name = " ".join(process.cmdline()[:1]) or process.name()
            return cls(Path(name).name, process.create_time(), memory, process.num_fds())
        except psutil.Error:
            return cls("", 0.0, 0, 0)


class Soak:
    """A run, and the faults that are put into it.

    faults: so far, by part and signal.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.run = FaultyRun(root, "soak", *SETTINGS)
        self.faults = Counter[str]()
        self._draws = random.Random(seed)
        self._parts: list[str] = []  # to be hit before one is hit again

    def wait(self, end: float) -> None:
        """Wait until a time.

        Raises:
            TimeoutError: the run ended, or made no update for too long.
        """
        while (left := end - time.time()) > 0:
            begin = time.time()
            time.sleep(min(left, 1.0))
            self.run.check("the soak was over")
            if not self.run.read("ppo", begin - HANG_S):
                raise TimeoutError(f"no update within {HANG_S:g} s; see {self.run.log}")

    def quiet(self, seconds: float) -> Stretch:
        """Let the run go on without a fault."""
        begin = time.time()
        self.wait(begin + seconds)
        return Stretch(begin, time.time())

    def disturb(self, seconds: float, at: Sequence[float]) -> Stretch:
        """Put a fault into the run at each of these seconds after the begin."""
        begin = time.time()
        for moment in at:
            self.wait(begin + moment)
            self._fault()
        self.wait(begin + seconds)
        return Stretch(begin, time.time())

    def random(self, seconds: float, number: int) -> Stretch:
        """Put so many faults into the run at random moments."""
        return self.disturb(seconds, moments(self._draws, 0.0, seconds, number))

    def _fault(self) -> None:
        """Put a fault into one process; part after part in random order."""
        while True:
            self._parts = self._parts or self._draws.sample(MENDED, len(MENDED))
            part, name = self._parts.pop(), self._draws.choice([*SIGNALS])
            if targets := self.run.processes(part):
                self._draws.choice(targets).send_signal(SIGNALS[name])
                self.faults[f"{part} {name}"] += 1
                return
            self.wait(time.time() + 1.0)  # the part is being replaced

    def sizes(self) -> dict[int, Size]:
        """Of the processes that run now."""
        return {process.pid: Size.of(process) for process in self.run.living()}

    def end(self) -> tuple[int | None, list[str]]:
        """End the run as a scheduler does: its exit code, and the processes that stay behind."""
        self.run.living()
        self.run.driver.send_signal(signal.SIGTERM)
        try:
            code = self.run.driver.wait(END_S)
        except subprocess.TimeoutExpired:
            return None, self.run.left_behind(0.0)
        return code, self.run.left_behind(30.0)


def growth(before: dict[int, Size], after: dict[int, Size], driver: int) -> Record:
    """By how much the processes have grown that no fault replaced, and their number."""
    same = [p for p in before if p in after and after[p].started == before[p].started > 0]
    grown = {pid: (after[pid].memory - before[pid].memory) / MIB for pid in same}
    files = {pid: after[pid].files - before[pid].files for pid in same}
    most = max(grown, key=lambda pid: grown[pid])
    return {
        "driver_growth_mib": grown[driver],
        "driver_more_files": files[driver],
        "most_growth_mib": grown[most],
        "most_growth_of": before[most].title,
        "most_more_files": max(files.values()),
        "more_processes": len(after) - len(before),
    }


def soak(root: Path, minutes: Minutes, faults: int, seed: int) -> Record:
    """Put faults into a run; its figures.

    Args:
        root: where the run folder is made.
        minutes: without a fault, with one every three minutes, with random ones.
        faults: in all.
        seed: of their parts and moments.
    """
    rare = [60 * EVERY_MINUTES * i for i in range(int(minutes.rare // EVERY_MINUTES))]
    soaked, load_before = Soak(root, seed), os.getloadavg()[0]
    try:
        steady(soaked.run)
        quiet = soaked.quiet(60 * minutes.quiet)
        before = soaked.sizes()
        measured = soaked.disturb(60 * minutes.rare, rare)
        often = soaked.random(60 * minutes.random, max(0, faults - len(rare)))
        steady(soaked.run)
        soaked.wait(time.time() + STEADY_S)  # what was lost last has come back
        after = soaked.sizes()
        code, left = soaked.end()
    finally:
        soaked.run.end()
    folder = soaked.run.folder
    cursor = Cursor.load(folder / "checkpoints")
    updates = [r for r in read(folder) if r["kind"] == "ppo" and cursor.covers(r)]
    ends = [float(record["time"]) for record in updates]
    # What else the machine does differs from minute to minute, and is no fault's cost.
    seconds = pace(undisturbed(measured.begin, rare) or [quiet], ends)
    rate = measured.goodput(ends, seconds) if rare else None
    return {
        "benchmark": "soak",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": load_before,
        "minutes": (often.end - quiet.begin) / 60,
        "faults": soaked.faults.total(),
        "faults_by_kind": dict(soaked.faults),
        "updates": len(updates),
        "update_seconds": seconds,
        "goodput": rate,
        "goodput_every_minutes": EVERY_MINUTES,
        "goodput_computed_by_minutes": None if rate is None else curve(rate, EVERY_MINUTES),
        "goodput_random": often.goodput(ends, seconds),
        "longest_without_update_s": max((b - a for a, b in pairwise(ends)), default=0.0),
        **vars(_accounted(folder, updates)),
        **growth(before, after, soaked.run.driver.pid),
        "shared_memory_files": len(list(orphans(Path("/dev/shm")))),
        "processes_left": left,
        "exit_code": code,
    }


def _accounted(folder: Path, updates: Sequence[Record]) -> Account:
    trained = [_ids(folder / FOLDER, int(record["update"])) for record in updates]
    failed = [name for record in updates for name in record["failed_ids"]]
    return account(failed, trained, load(folder / "config.yaml").ppo.episodes)


def _ids(folder: Path, update: int) -> list[str]:
    return [trajectory.id for trajectory in read_blocks(folder, update, 0, 1)]


def orphans(folder: Path) -> Iterator[Path]:
    """Files of weights that no living actor has locked."""
    for file in folder.glob(f"{PREFIX}*"):
        try:
            with file.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # in use, another user's, or gone
            continue
        yield file


def shortfalls(row: Record, faults: int, minutes: float) -> list[str]:
    """What of a row misses its limit, a sentence each."""
    at_most = {
        "longest_without_update_s": HANG_S,
        "twice": 0,
        "missing": 0,
        "driver_growth_mib": GROWN_MIB,
        "most_growth_mib": GROWN_MIB,
        "most_more_files": MORE_FILES,
        "more_processes": MORE_PROCESSES,
        "shared_memory_files": 0,
    }
    at_least = {"faults": faults, "minutes": minutes, "updates": 2}
    if row["goodput"] is not None:
        at_least |= {"goodput": GOODPUT}
    sentences = [f"{k} is {row[k]}, at most {m}" for k, m in at_most.items() if not row[k] <= m]
    sentences += [f"{k} is {row[k]}, at least {m}" for k, m in at_least.items() if row[k] < m]
    if row["processes_left"]:
        sentences.append(f"processes stayed behind: {row['processes_left']}")
    if row["exit_code"] != ExitCode.TAKEN_AWAY:
        expected = int(ExitCode.TAKEN_AWAY)
        sentences.append(f"after SIGTERM the exit code is {row['exit_code']}, not {expected}")
    return sentences


def main(arguments: list[str] | None = None) -> None:
    """Print the figures as one JSON row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", type=float, default=2.0, help="minutes without a fault")
    parser.add_argument("--rare", type=float, default=15.0, help="minutes, one every three")
    parser.add_argument("--random", type=float, default=18.0, help="minutes, at random moments")
    parser.add_argument("--faults", type=int, default=50, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    minutes = Minutes(options.quiet, options.rare, options.random)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        row = soak(root, minutes, options.faults, options.seed)
    except TimeoutError as error:
        sys.exit(f"{error} (run folder: {root})")
    print(json.dumps(row), flush=True)
    if sentences := shortfalls(row, options.faults, minutes.total):
        sys.exit("; ".join(sentences) + f" (run folder: {root})")
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
