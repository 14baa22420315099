"""The moments of a run at which a fault is put into it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil

from benchmarks.chaos.run import PATIENCE_S, FaultyRun

PHASES = ("idle", "generating", "mid-sync", "mid-checkpoint", "mid-evaluation")
STARTING = "starting"  # of a learner rank, whose group starts again


def await_phase(run: FaultyRun, phase: str, worker: int = 0) -> None:
    """Return while a worker's engine, or the run, is in a phase.

    mid-sync: the engine has a file of weights in its memory. generating, idle: it works, or does
    not, and has none. mid-checkpoint: a state is being written. mid-evaluation: one has begun.
    """
    begin, core = time.monotonic(), run.processes("engine")[worker]
    while time.monotonic() - begin < PATIENCE_S:
        if phase == "mid-checkpoint":
            reached = _writes_a_state(run.folder / "checkpoints" / "state")
        elif phase == "mid-evaluation":
            reached = _evaluates(run)
        elif phase == "mid-sync":
            reached = _receives(core.pid)
        else:
            before = sum(core.cpu_times()[:2])
            time.sleep(0.2)
            works = sum(core.cpu_times()[:2]) - before > 0.05
            reached = not _receives(core.pid) and works == (phase == "generating")
        if reached:
            return
        time.sleep(0.002)
    raise TimeoutError(f"the run was not {phase} within {PATIENCE_S:g} s")


def _receives(pid: int) -> bool:
    return "cardinal-w-" in Path(f"/proc/{pid}/maps").read_text()


def _writes_a_state(folder: Path) -> bool:
    """Whether there is one that the cursor does not name."""
    try:
        newest = json.loads((folder / "cursor.json").read_text())["state"]
    except FileNotFoundError:
        return False
    return any(path.is_dir() and path.name > newest for path in folder.iterdir())


def _evaluates(run: FaultyRun) -> bool:
    """Whether an evaluation after an update has begun, and has not ended."""
    found = [r for r in run.read("phase", 0.0) if str(r["phase"]).startswith("eval")]
    return bool(found) and found[-1]["event"] == "begin" and bool(run.read("ppo", 0.0))


def starting_rank(run: FaultyRun) -> psutil.Process:
    """A rank whose process has just begun, in the place of one that is killed for it."""
    old = {process.pid for process in run.processes("rank")}
    for process in run.processes("rank"):
        process.kill()
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE_S:
        new = [process for process in run.processes("rank") if process.pid not in old]
        if new:
            return new[0]
        time.sleep(0.01)
    raise TimeoutError(f"no new rank within {PATIENCE_S:g} s")


def steady(run: FaultyRun) -> None:
    """Wait until the run has made two updates from now on, with all parts there."""
    now = time.time()
    run.until(lambda: len(run.read("ppo", now)) >= 2, "two updates")
    run.until(lambda: len(run.processes("engine")) == 2, "two engines")
