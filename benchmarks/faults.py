"""Faults on a real run: SIGKILL and SIGSTOP of each part in each phase, and what each costs.

`python -m benchmarks.faults --write docs/faults.md` trains a tiny model on this machine with two
rollout workers, puts one fault after another into the run, and writes the table of the page.
`--only actor` and so on choose parts; `tests/end_to_end/test_faults.py` runs it too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from configs.paths import ROOT

HEARTBEAT_S = 10.0
PATIENCE_S = 400.0  # of any one wait here, on a busy machine
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
PHASES = ("idle", "generating", "mid-sync")
TITLES = {"actor": "ray::RolloutActor", "rank": "ray::RayTrainWorker", "buffer": "ray::Traject"}
MENDED, FATAL = ("engine", "actor", "rank"), ("buffer", "driver")
TABLE_BEGIN, TABLE_END = "<!-- table: begin -->", "<!-- table: end -->"
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
    f"cluster.heartbeat_s={HEARTBEAT_S:g}",
)


@dataclass(frozen=True)
class Result:
    """One fault; seconds from the signal on, None where it does not apply."""

    part: str
    signal: str
    phase: str
    detected_s: float | None
    full_speed_s: float | None
    replayed: int | None
    outcome: str

    def row(self) -> str:
        """Of the table."""
        numbers = [
            f"{s:.1f}" if s is not None else "–" for s in (self.detected_s, self.full_speed_s)
        ]
        replayed = "–" if self.replayed is None else str(self.replayed)
        cells = [self.part, self.signal, self.phase, *numbers, replayed, self.outcome]
        return f"| {' | '.join(cells)} |"


class FaultyRun:
    """A run in a process of its own, and its processes by part."""

    def __init__(self, root: Path, name: str, *overrides: str) -> None:
        self.folder = root / name
        keys = (*SETTINGS, f"name={name}", f"cluster.root={root}", *overrides)
        command = [sys.executable, "-m", "cluster.cli", "train", "gp_l_debug", *keys]
        self.log = root / f"{name}.log"
        with self.log.open("w") as log:
            self.driver = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self._offset = 0
        self.records: list[dict[str, object]] = []
        self.seen: dict[int, psutil.Process] = {}

    def processes(self, part: str) -> list[psutil.Process]:
        """The living processes of a part, in the order of their start."""
        if part == "driver":
            return [psutil.Process(self.driver.pid)]
        tree = self._tree()
        if part == "engine":
            return [p for p in tree if "EngineCore" in _title(p)]
        return [p for p in tree if _title(p).startswith(TITLES[part])]

    def _tree(self) -> list[psutil.Process]:
        try:
            tree = psutil.Process(self.driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen |= {process.pid: process for process in tree}
        return sorted(tree, key=lambda process: process.pid)

    def read(self, kind: str, since: float) -> list[dict[str, object]]:
        """Records of a kind, of something that happened after a Unix time."""
        file = self.folder / "metrics.jsonl"
        if file.exists():
            lines = file.read_bytes()
            if len(lines) < self._offset:  # a restarted learner has written it anew
                self._offset, self.records = 0, []
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
            if self.driver.poll() is not None:
                raise TimeoutError(f"the run ended before {what}: {self.last_line()}")
            if time.monotonic() - begin > PATIENCE_S:
                raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s; see {self.log}")
            time.sleep(0.1)

    def last_line(self) -> str:
        """What the run said last."""
        lines = [line for line in self.log.read_text().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def left_behind(self, seconds: float) -> list[str]:
        """Processes that are still there so long after the driver's end."""
        psutil.wait_procs([*self.seen.values()], timeout=seconds)
        return [_title(process) for process in self.seen.values() if _lives(process)]

    def end(self) -> None:
        """End the driver and all that was ever seen below it."""
        self._tree()
        for process in self.seen.values():
            if _lives(process):
                process.kill()
        self.driver.kill()
        self.driver.wait()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


def await_phase(run: FaultyRun, phase: str, worker: int) -> None:
    """Return while a worker's engine is in a phase.

    mid-sync: it has a file of weights in its memory. generating, idle: it works, or does not, and
    has none.
    """
    core = run.processes("engine")[worker]
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE_S:
        maps = Path(f"/proc/{core.pid}/maps")
        if phase == "mid-sync":
            if "cardinal-w-" in maps.read_text():
                return
            time.sleep(0.002)
            continue
        before = sum(core.cpu_times()[:2])
        time.sleep(0.2)
        spent = sum(core.cpu_times()[:2]) - before
        if "cardinal-w-" not in maps.read_text() and (spent > 0.05) == (phase == "generating"):
            return
    raise TimeoutError(f"engine {worker} was not {phase} within {PATIENCE_S:g} s")


def steady(run: FaultyRun) -> None:
    """Wait until the run has made two updates from now on, with all parts there."""
    now = time.time()
    run.until(lambda: len(run.read("ppo", now)) >= 2, "two updates")
    run.until(lambda: len(run.processes("engine")) == 2, "two engines")


def mended(run: FaultyRun, part: str, name: str, phase: str, worker: int) -> Result:
    """Put a fault into a part that is replaced, and see what it costs."""
    steady(run)
    target = run.processes(part)[worker if part != "rank" else 0]
    await_phase(run, phase, worker)
    at = time.time()
    target.send_signal(SIGNALS[name])
    try:
        if part == "rank":
            return _rank_mended(run, target, name, phase, at)
        run.until(lambda: run.read("restart", at), f"a {part} serves again after {name} {phase}")
    except TimeoutError as error:
        return Result(part, name, phase, None, None, None, str(error))
    failure, restart = run.read("failure", at)[0], run.read("restart", at)[0]
    return Result(
        part,
        name,
        phase,
        float(str(failure["at"])) - at,
        float(str(restart["at"])) - at,
        int(str(failure["episodes"])),
        f"replaced; proof: {restart['proof']}",
    )


def _rank_mended(
    run: FaultyRun, target: psutil.Process, name: str, phase: str, at: float
) -> Result:
    run.until(lambda: not _lives(target), "the old rank is gone")
    # Of a killed one it is not seen when Ray Train finds it, only when the group is back.
    found = time.time() - at if name == "SIGSTOP" else None
    engines = [process.pid for process in run.processes("engine")]
    run.until(lambda: run.read("restart", at), "the learner group restarts")
    run.until(lambda: run.read("ppo", float(str(run.read("restart", at)[0]["time"]))), "an update")
    seconds = time.time() - at
    kept = engines == [process.pid for process in run.processes("engine")]
    outcome = f"group restarted, engines {'kept' if kept else 'replaced too'}"
    return Result("learner rank", name, phase, found, seconds, 64, outcome)


def fatal(run: FaultyRun, part: str, name: str, phase: str) -> Result:
    """Put a fault into a part without which the run ends, and see how."""
    steady(run)
    target = run.processes(part)[0]
    await_phase(run, phase, 0)
    run.processes("actor")
    begin = time.monotonic()
    target.send_signal(SIGNALS[name])
    try:
        code = run.driver.wait(PATIENCE_S if (part, name) != ("driver", "SIGSTOP") else 20)
    except subprocess.TimeoutExpired:
        run.end()
        return Result(part, name, phase, None, None, None, "nothing, until it continues")
    seconds = time.monotonic() - begin
    orphans = run.left_behind(30.0)
    left = f"{len(orphans)} processes left" if orphans else "no process left"
    said = "" if part == "driver" else f", `{run.last_line()[:160]}`"
    return Result(
        part, name, phase, seconds, None, None, f"the run ends, code {code}{said}; {left}"
    )


def measure(
    root: Path, parts: list[str], phases: list[str], signals: list[str]
) -> Iterator[Result]:
    """All faults of parts that are replaced in one run, then a run for each of the others."""
    todo = [(p, s, f) for p in parts if p in MENDED for s in signals for f in phases]
    if todo:
        run = FaultyRun(root, "mended")
        try:
            for number, (part, name, phase) in enumerate(todo):
                yield mended(run, part, name, phase, number % 2)
        finally:
            run.end()
    for part in (p for p in parts if p in FATAL):
        for name in signals:
            run = FaultyRun(root, f"{part}-{name}")
            try:
                yield fatal(run, part, name, "generating")
            finally:
                run.end()


def write(page: Path, results: list[Result]) -> None:
    """Replace the page's rows of the parts that were measured; those of others stay."""
    text = page.read_text()
    before, old = text.split(TABLE_BEGIN)
    old, after = old.split(TABLE_END)
    measured = {result.part for result in results}
    rows = [row for row in old.splitlines() if row.startswith("| ")][2:]
    rows = [row for row in rows if row.split(" | ")[0].removeprefix("| ") not in measured]
    rows += [result.row() for result in results]
    head = (
        "| part | fault | phase | found after, s | full speed after, s | episodes played again "
        "| outcome |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    load = f"{os.getloadavg()[0]:.0f}"
    stamp = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load {load} at the end."
    table = "\n".join([head, *rows])
    page.write_text(f"{before}{TABLE_BEGIN}\n{stamp}\n\n{table}\n{TABLE_END}{after}")


def main(arguments: list[str] | None = None) -> None:
    """Print each row as it comes; write the page's table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*MENDED, *FATAL], choices=[*MENDED, *FATAL])
    parser.add_argument("--phases", nargs="*", default=[*PHASES], choices=PHASES)
    parser.add_argument("--signals", nargs="*", default=[*SIGNALS], choices=[*SIGNALS])
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory(prefix="cardinal-faults-", ignore_cleanup_errors=True) as root:
        for result in measure(Path(root), options.only, options.phases, options.signals):
            print(result.row(), flush=True)
            results.append(result)
    if options.write and results:
        write(options.write, results)


if __name__ == "__main__":
    main()
