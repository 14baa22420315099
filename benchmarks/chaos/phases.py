"""The moments of a run at which a fault is put into it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.chaos.run import PATIENCE_S, FaultyRun
from rollout.bucket_file import PREFIX

OBJECT_STORE = "plasma"  # Ray's file of it
NONE, WRITTEN, LOADS = "none", "written", "loads"  # weights on their way to an engine
SYNC: dict[str, Callable[[str, str], bool]] = {  # by what was so a look before, and what is now
    "sync begins": lambda before, now: before == NONE != now,
    "mid-sync": lambda before, now: now == LOADS,
    "sync ends": lambda before, now: before == LOADS != now,
}
PHASES = ("idle", "generating", *SYNC, "mid-checkpoint", "mid-evaluation")
STARTING = "starting"  # of a learner rank, whose group starts again


def await_phase(run: FaultyRun, phase: str, worker: int = 0) -> None:
    """Return while a worker's engine, or the run, is in a phase.

    mid-sync: the engine has a file of weights open. sync begins, ends: it has just opened it, or
    its actor has written the first of it; the engine has just closed it. generating, idle: it
    works, or does not, and has none. mid-checkpoint: a state is being written. mid-evaluation: one
    has begun.
    """
    reached, begin = _look(run, phase, worker), time.monotonic()
    while not reached():
        if time.monotonic() - begin > PATIENCE_S:
            raise TimeoutError(f"the run was not {phase} within {PATIENCE_S:g} s")
        time.sleep(0.002)


def _look(run: FaultyRun, phase: str, worker: int) -> Callable[[], bool]:
    """A function that says whether the phase is there."""
    if phase == "mid-checkpoint":
        return lambda: _writes_a_state(run.folder / "checkpoints" / "state")
    if phase == "mid-evaluation":
        return lambda: _evaluates(run)
    core, works = run.processes("engine")[worker], phase == "generating"
    if phase not in SYNC:
        return lambda: _between_syncs(core) and _works(core) == works and _between_syncs(core)
    last = weights(core)

    def turned() -> bool:
        nonlocal last
        before, last = last, weights(core)
        return SYNC[phase](before, last)

    return turned


def _between_syncs(core: psutil.Process) -> bool:
    """Whether no weights are on their way, nor just written."""
    return weights(core) == NONE


def _works(core: psutil.Process) -> bool:
    before = sum(core.cpu_times()[:2])
    time.sleep(0.2)
    return bool(sum(core.cpu_times()[:2]) - before > 0.05)


def weights(core: psutil.Process, proc: Path = Path("/proc")) -> str:
    """Where weights on their way to an engine are: by the files that it and its actor have open.

    A file that the engine loads is open twice there, the other time as its mapping, which may last.
    """
    if max(Counter(_files(proc / str(core.pid))).values(), default=0) > 1:
        return LOADS
    return WRITTEN if any(PREFIX in file for file in _files(proc / str(core.ppid()))) else NONE


def _files(process: Path) -> Iterator[str]:
    """Those with weights that a process has open."""
    for file in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            name = Path(file.readlink()).name
            if name.startswith((PREFIX, OBJECT_STORE)):
                yield name


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


def steady(run: FaultyRun, updates: int = 2) -> None:
    """Wait until the run has made so many updates from now on, with all parts there."""
    now = time.time()
    run.until(lambda: len(run.read("ppo", now)) >= updates, f"{updates} updates")
    run.until(lambda: len(run.processes("engine")) == 2, "two engines")
