"""A run under random faults for a while: nothing may hang, leak or be trained twice, or be lost.

`python -m benchmarks.soak` trains a tiny model on this machine: 2 minutes without a fault, 15 with
one every three minutes, 18 with those that are left of 50, at random moments, and 2 without one. It
prints a row of figures, and ends with an error where one of them misses its limit.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import random
import re
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

from benchmarks.chaos.account import Account, account
from benchmarks.chaos.goodput import EVERY_MINUTES, Load, Stretch, measured
from benchmarks.chaos.phases import steady
from benchmarks.chaos.run import FaultyRun
from benchmarks.faults import MENDED, SIGNALS
from cluster.checkpoints.cursor import Cursor
from cluster.exit_codes import ExitCode
from cluster.stream.recorded_blocks import FOLDER, read_blocks
from configs.load import load
from report.metrics import Record, read
from report.statistics import wilson
from rollout.bucket_file import PREFIX

GAME = "examples/own_environment/sums.yaml"
SETTINGS = (  # under which it is learned while the faults come
    "env.settings.largest=9",
    "env.settings.tries=1",
    "sft.steps=40",
    "sft.optimizer.warmup=0",
    "ppo.optimizer.schedule=constant",
    "ppo.optimizer.warmup=0",
    "ppo.optimizer.lr=3e-4",
    "ppo.record=true",
    "ppo.max_staleness=1",
    "eval.every=20",
    "eval.episodes=16",
    "eval.variants.larger=null",
    "eval.variants.one_try=null",
    "cluster.start_deadline_s=240",  # on a busy machine demonstrations took more than 120
)
UPDATES = 20  # of whose episodes success is that at the start, or at the end
GOODPUT = 0.8  # at one fault every three minutes, at least
PACES_DIFFER = 0.1  # goodput by the one pace from that by the other, at most,
LOADS_DIFFER = 1.25  # unless the one's minutes had so much more load than the other's
# After the last fault, without an update; a rank that stops while it starts is found after 245.
# Faults that come faster than a learner group starts may hold updates up for longer.
HANG_S = 360.0
STEADY_S = 60.0  # at the end, before sizes are compared
END_S = 90.0  # for the run to end by SIGTERM
# An engine grows by 400 MiB over its first 6,000 answers, and by 15 over the next 130,000; and one
# fault is no measure of goodput.
WHOLE_MINUTES = 20.0
GROWN_MIB, MORE_FILES, MORE_PROCESSES = 100.0, 20, 4  # that a part may grow by
RAY_LOGS = re.compile(r"/session_[^/]+/logs/")  # in the path of one
MIB = 2**20


def moments(draws: random.Random, begin: float, end: float, number: int) -> list[float]:
    """So many random moments, in order."""
    return sorted(draws.uniform(begin, end) for _ in range(number))


@dataclass(frozen=True)
class Minutes:
    """Of each part of a soak; quiet ones come before the others and after them.

    every: from one of the rare faults to the next.
    """

    quiet: float
    rare: float
    random: float
    every: float = EVERY_MINUTES

    @property
    def total(self) -> float:
        """Of all."""
        return 2 * self.quiet + self.rare + self.random


@dataclass(frozen=True)
class Size:
    """What a process takes: memory of its own (bytes), open files; started tells it from others.

    Of Ray's logs, one or two a process that ever was, its monitor holds 200 open at most: they do
    not count.
    """

    title: str
    started: float
    memory: int
    files: int

    @classmethod
    def of(cls, process: psutil.Process) -> Size:
        """Its size now; none of a process that has ended meanwhile."""
        try:
            memory = process.memory_full_info().uss
            logs = sum(bool(RAY_LOGS.search(file.path)) for file in process.open_files())
            files = process.num_fds() - logs
            return cls(_title(process), process.create_time(), memory, files)
        except psutil.Error:
            return cls("", 0.0, 0, 0)


def _title(process: psutil.Process) -> str:
    """Its program; of an interpreter, the script that it runs."""
    words = [Path(word).name for word in process.cmdline() if not word.startswith("-")]
    script = words[1:2] if words and words[0].startswith("python") else words[:1]
    return " ".join(script) or process.name()


class Soak:
    """A run, and the faults that are put into it.

    faults: so far, by part and signal.
    times: when they came, Unix, s.
    loads: of the machine, all the time.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.run = FaultyRun(root, "soak", *SETTINGS, configuration=GAME)
        self.faults, self.loads = Counter[str](), list[Load]()
        self.times: list[float] = []
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
            self.loads.append((time.time(), os.getloadavg()[0]))
            self.run.check("the soak was over")
            since = begin - HANG_S
            if max(self.times, default=0.0) < since and not self.run.read("ppo", since):
                raise TimeoutError(
                    f"no update within {HANG_S:g} s, nor a fault; see {self.run.log}"
                )

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
                self.times.append(time.time())
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
    opened = max(files, key=lambda pid: files[pid])
    return {
        "driver_growth_mib": grown[driver],
        "driver_more_files": files[driver],
        "most_growth_mib": grown[most],
        "most_growth_of": before[most].title,
        "most_more_files": files[opened],
        "most_more_files_of": before[opened].title,
        "more_processes": len(after) - len(before),
    }


def soak(root: Path, minutes: Minutes, faults: int, seed: int) -> Record:
    """Put faults into a run; its figures.

    Args:
        root: where the run folder is made.
        minutes: without a fault, with one now and then, with random ones.
        faults: in all.
        seed: of their parts and moments.
    """
    rare = [60 * minutes.every * i for i in range(int(minutes.rare // minutes.every))]
    soaked = Soak(root, seed)
    try:
        steady(soaked.run)
        begin = soaked.quiet(60 * minutes.quiet)
        before = soaked.sizes()
        disturbed = soaked.disturb(60 * minutes.rare, rare)
        often = soaked.random(60 * minutes.random, max(0, faults - len(rare)))
        steady(soaked.run)
        soaked.wait(time.time() + STEADY_S)  # what was lost last has come back
        end = soaked.quiet(60 * minutes.quiet)
        after = soaked.sizes()
        code, left = soaked.end()
    finally:
        soaked.run.end()
    folder = soaked.run.folder
    cursor = Cursor.load(folder / "checkpoints")
    updates = [r for r in read(folder) if r["kind"] == "ppo" and cursor.covers(r)]
    ends = [float(record["time"]) for record in updates]
    goodput = measured([begin, end], disturbed, rare, ends, soaked.loads, minutes.every)
    return {
        "benchmark": "soak",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "minutes": (end.end - begin.begin) / 60,
        "faults": soaked.faults.total(),
        "faults_by_kind": dict(soaked.faults),
        "updates": len(updates),
        **goodput,
        "goodput_random": often.goodput(ends, goodput["update_seconds"]),
        "longest_without_update_s": max((b - a for a, b in pairwise(ends)), default=0.0),
        "longest_after_fault_s": longest_after(soaked.times, ends),
        **learning(updates, disturbed.begin),
        **vars(_accounted(folder, updates)),
        **growth(before, after, soaked.run.driver.pid),
        "shared_memory_files": len(list(orphans(Path("/dev/shm")))),
        "processes_left": left,
        "exit_code": code,
    }


def longest_after(faults: Sequence[float], ends: Sequence[float]) -> float:
    """Seconds from an update, or the last fault before the next one, to that, at the longest."""
    gaps = (b - max([a, *(f for f in faults if f < b)]) for a, b in pairwise(ends))
    return max(gaps, default=0.0)


def learning(updates: Sequence[Record], faults: float) -> Record:
    """Success of the episodes of the first updates, of the last before a fault, and of the last.

    Args:
        updates: that stand, in order.
        faults: when the first of them came, Unix, s.
    """
    before = [record for record in updates if record["time"] < faults]
    parts = {
        "start": updates[:UPDATES],
        "first_fault": before[-UPDATES:],
        "end": updates[-UPDATES:],
    }
    found: Record = {}
    for name, records in parts.items():
        episodes = sum(record["episodes"] for record in records)
        solved = sum(record["success"] * record["episodes"] for record in records)
        found[f"success_{name}"] = solved / max(1, episodes)
        found[f"success_{name}_interval"] = wilson(min(solved, episodes), episodes)
    return found


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
        "longest_after_fault_s": HANG_S,
        "twice": 0,
        "missing": 0,
        "most_more_files": MORE_FILES,
        "more_processes": MORE_PROCESSES,
        "shared_memory_files": 0,
    }
    at_least = {"faults": faults, "minutes": minutes, "updates": 2}
    whole = minutes >= WHOLE_MINUTES
    if whole:
        at_most |= {"driver_growth_mib": GROWN_MIB, "most_growth_mib": GROWN_MIB}
    measured = whole and row["goodput"] is not None
    if measured and row["goodput_every_minutes"] >= EVERY_MINUTES:
        at_least |= {"goodput": GOODPUT}
    sentences = [f"{k} is {row[k]}, at most {m}" for k, m in at_most.items() if not row[k] <= m]
    sentences += [f"{k} is {row[k]}, at least {m}" for k, m in at_least.items() if row[k] < m]
    if row["success_end_interval"][0] <= row["success_start_interval"][1]:
        begin, end = row["success_start"], row["success_end"]
        sentences.append(f"success_end is {end}, no more than {begin} and what chance explains")
    if measured and _paces_differ(row):
        loads = f"load_quiet {row['load_quiet']:.1f}, load_between {row['load_between']:.1f}"
        sentences.append(
            f"goodput_quiet is {row['goodput_quiet']}, at most {PACES_DIFFER} from "
            f"{row['goodput']} where loads are alike ({loads})"
        )
    if row["processes_left"]:
        sentences.append(f"processes stayed behind: {row['processes_left']}")
    if row["exit_code"] != ExitCode.TAKEN_AWAY:
        expected = int(ExitCode.TAKEN_AWAY)
        sentences.append(f"after SIGTERM the exit code is {row['exit_code']}, not {expected}")
    return sentences


def _paces_differ(row: Record) -> bool:
    """Whether goodput depends on the pace it is measured by, and other work does not explain it."""
    paces = [(row["update_seconds_quiet"], row["load_quiet"])]
    (_, lightly), (_, heavily) = sorted([*paces, (row["update_seconds"], row["load_between"])])
    differ = abs(row["goodput"] - row["goodput_quiet"]) > PACES_DIFFER
    return bool(differ and heavily < LOADS_DIFFER * lightly)


def main(arguments: list[str] | None = None) -> None:
    """Print the figures as one JSON row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", type=float, default=2.0, help="minutes without a fault, twice")
    parser.add_argument("--rare", type=float, default=15.0, help="minutes, one now and then")
    parser.add_argument("--every", type=float, default=EVERY_MINUTES, help="minutes, of these")
    parser.add_argument("--random", type=float, default=18.0, help="minutes, at random moments")
    parser.add_argument("--faults", type=int, default=50, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    minutes = Minutes(options.quiet, options.rare, options.random, options.every)
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
