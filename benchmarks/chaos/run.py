"""A real run in a process of its own, into which faults are put, and what can be seen of it.

A tiny model, two rollout workers and one rank, with a checkpoint after every update.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import psutil

from benchmarks.chaos.steps import Steps
from cluster.run.run_folder import CONFIG
from cluster.stream.queue_lengths import QUEUED
from configs.load import load
from configs.paths import ROOT
from report.spans import read_spans

HEARTBEAT_S = 10.0
START_S = 120.0  # an engine's takes up to 60 on a busy machine
PATIENCE_S = 900.0  # of any one wait here, on a busy machine
LEFT_S = 90.0  # for the last processes to end, Ray's own that look for their parent now and then
ENVIRONMENT = "rollout.environment_server"
TITLES = {
    "actor": "ray::RolloutActor",
    "rank": "ray::RayTrainWorker",
    "buffer": "ray::Traject",
    "controller": "ray::TrainController",
}
NEWS = ("raylet", "gcs_server")  # of Ray, by which a death becomes known
SETTINGS = (
    "model.init.layers=4",
    "model.init.hidden=192",
    "sft.steps=0",
    "ppo.updates=100000",
    "rollout.workers=2",
    "rollout.cpus=0.5",
    "learner.cpus=0.5",
    "learner.checkpoint_every=1",
    "learner.max_restarts=100",
    "rollout.max_restarts=100",
    "eval.episodes=8",
    "eval.sampled_questions=0",
    f"cluster.start_deadline_s={START_S:g}",
    f"cluster.heartbeat_s={HEARTBEAT_S:g}",
)


class FaultyRun:
    """A run in a process of its own, and its processes by part.

    parent: the process below which all of them are; the driver, if None.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *overrides: str,
        configuration: str = "gp_l_debug",
        log: Path | None = None,
        parent: int | None = None,
    ) -> None:
        self.folder, self._parent = root / name, parent
        keys = (*SETTINGS, f"name={name}", f"cluster.root={root}", *overrides)
        self.log = log or root / f"{name}.log"
        self._begin("train", configuration, *keys)
        self._file = self._offset = 0
        self.records: list[dict[str, object]] = []
        self._replaced: list[dict[str, object]] = []
        self.seen: dict[int, psutil.Process] = {}
        updates, ranks = partial(self.read, "ppo"), partial(self.processes, "rank")
        self.steps = Steps(updates, ranks, time.time())
        self.looks = [self.steps.look]  # at each turn of a wait

    def _begin(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "cluster.cli", *arguments]
        with self.log.open("a") as log:
            self.driver = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def resume(self) -> None:
        """Begin again where it has ended."""
        self._begin("resume", str(self.folder))

    def engine_pids(self) -> list[int]:
        """The ids of the engines' processes."""
        return [process.pid for process in self.processes("engine")]

    def processes(self, part: str) -> list[psutil.Process]:
        """The living processes of a part, in the order of their start."""
        if part == "driver":
            return [psutil.Process(self.driver.pid)]
        tree = self._tree()
        if part == "engine":
            return [p for p in tree if "EngineCore" in _title(p)]
        if part == "environment":  # a fork of a server, which has its title
            return [p for p in tree if ENVIRONMENT in _title(p) and ENVIRONMENT in _parent(p)]
        return [p for p in tree if _title(p).startswith(TITLES[part])]

    def finders(self) -> list[int]:
        """Ids of the processes by which the loss of a part becomes known, one after another."""
        ray = [p.pid for p in self._tree() if Path(_title(p).split(" ")[0]).name in NEWS]
        found = [p.pid for part in ("buffer", "driver", "controller") for p in self.processes(part)]
        return ray + found

    def living(self) -> list[psutil.Process]:
        """All processes of the run, the driver too."""
        return [*self.processes("driver"), *self._tree()]

    def _tree(self) -> list[psutil.Process]:
        try:
            tree = psutil.Process(self._parent or self.driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen |= {process.pid: process for process in tree}
        return sorted(tree, key=lambda process: process.pid)

    def read(self, kind: str, since: float) -> list[dict[str, object]]:
        """Records of a kind, of something that happened after a Unix time."""
        file = self.folder / "metrics.jsonl"
        if file.exists():
            with file.open("rb") as stream:
                lines, number = stream.read(), os.fstat(stream.fileno()).st_ino
            if number != self._file:  # a restarted learner has written it anew
                self._replaced = self.records
                self._file, self._offset, self.records = number, 0, []
            new = lines[self._offset : lines.rfind(b"\n") + 1]
            self._offset += len(new)
            self.records += [json.loads(line) for line in new.splitlines()]
        happened = [r for r in self.records if r["kind"] == kind]
        return [r for r in happened if float(str(r.get("at", r["time"]))) > since]

    def until(self, reached: Callable[[], object], what: str) -> None:
        """Wait for something to be so.

        Raises:
            TimeoutError: names it.
        """
        begin = time.monotonic()
        while not reached():
            self.check(what)
            for look in self.looks:
                look()
            if time.monotonic() - begin > PATIENCE_S:
                raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s; see {self.log}")
            time.sleep(0.1)

    def played_again(self, restarted: float) -> int:
        """Episodes whose play had begun, or ended, for updates that a restart has undone.

        They are those that the ledger had last, and those of updates that are made again.

        Args:
            restarted: when the learner group began its epoch, or the run was resumed.
        """
        self.until(lambda: self.read("ppo", restarted), "the first update after a restart")
        first = int(str(self.read("ppo", restarted)[0]["update"]))
        undone = sum(r["kind"] == "ppo" and int(str(r["update"])) >= first for r in self._replaced)
        return undone * load(self.folder / CONFIG).ppo.episodes + in_flight(self.folder, restarted)

    def played_again_since(self, at: float) -> int:
        """Of a run that should go on: none, unless its learner group has started again."""
        restarts = self.read("restart", at)
        return self.played_again(float(str(restarts[0]["time"]))) if restarts else 0

    def check(self, what: str) -> None:
        """See that the run has not ended.

        Raises:
            TimeoutError: it has, before what should have happened.
        """
        if self.driver.poll() is not None:
            raise TimeoutError(f"the run ended before {what}: {self.last_line()}")

    def last_line(self) -> str:
        """What the run said last."""
        lines = [line for line in self.log.read_text().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def left_behind(self, seconds: float, some: Collection[int] | None = None) -> list[str]:
        """Processes still there so long after; all that were seen, or some by their ids."""
        seen = [process for pid, process in self.seen.items() if some is None or pid in some]
        psutil.wait_procs(seen, timeout=seconds)
        return [_title(process) for process in seen if lives(process)]

    def end(self) -> None:
        """End the driver and all that was ever seen below it."""
        self._tree()
        for process in self.seen.values():
            if lives(process):
                process.kill()
        self.driver.kill()
        self.driver.wait()


def in_flight(folder: Path, until: float) -> int:
    """Episodes that the ledger had as running, ready or taken, when it last had any before then."""
    numbers = [
        sum(int(count.values[state]) for state in QUEUED if state != "queued")
        for count in read_spans(folder).counts
        if count.name == "episodes" and count.time <= until
    ]
    return next((number for number in reversed(numbers) if number), 0)


def lives(process: psutil.Process) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _parent(process: psutil.Process) -> str:
    """The title of a process's parent."""
    try:
        parent = process.parent()
    except psutil.NoSuchProcess:
        return ""
    return _title(parent) if parent else ""


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""
