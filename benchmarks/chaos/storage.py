"""Disks and an object store that are full for a while, under a run that writes to them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from benchmarks.chaos.nodes import OBJECT_STORE_MIB, nodes
from benchmarks.chaos.phases import steady
from benchmarks.chaos.result import Result
from benchmarks.chaos.run import LEFT_S, PATIENCE_S, FaultyRun

DISKS = ("state disk", "run disk")
STORE = "object store"
SPILLS, FULL_TOO = "it spills", "its disk too"  # the disk to which Ray spills
DISK_MIB, OBJECT_MIB = 256, 16
UPDATES = 5  # by which a run is seen to go on


def full_disk(root: Path, part: str) -> Result:
    """Fill the disk that the run's states are on, or all of the run folder; then free it again."""
    disk = root / part.replace(" ", "-")
    with _small_disk(disk) as mounted:
        if not mounted:
            return Result(part, "full", "–", None, None, None, "not measured: needs root, to mount")
        states = (f"learner.checkpoint_root={disk}",) if part == DISKS[0] else ()
        keys = states or ("learner.max_restarts=1",)
        log = root / f"{disk.name}.log"
        run = FaultyRun(root if states else disk, f"{part.split()[0]}-run", *keys, log=log)
        filler = disk / "filler"
        try:
            steady(run)
            at = time.time()
            _fill(filler)
            if states:
                return _goes_on_without_states(run, disk / run.folder.name, filler, at)
            run.driver.wait(PATIENCE_S)
            return _ended(run, part, "–", at, filler.unlink)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            return Result(part, "full", "–", None, None, None, str(error))
        finally:
            run.end()


def full_object_store(root: Path, phase: str) -> Result:
    """Fill the run's object store with what another job holds; then free it again.

    its disk too: the disk to which Ray moves objects is small, and full soon after.
    """
    disk = root / "spilled"
    limited = phase == FULL_TOO
    with _small_disk(disk) if limited else nullcontext(True) as mounted:
        if not mounted:
            return Result(STORE, "full", phase, None, None, None, "not measured: needs root")
        options = {"object_spilling_directory": str(disk)} if limited else {}
        with nodes(1, cpus=2, **options) as cluster:
            keys = (f"cluster.address={cluster.address}", "learner.max_restarts=1")
            name = f"store-{phase.replace(' ', '-')}"
            run = FaultyRun(root, name, *keys, parent=os.getpid())
            try:
                steady(run)
                return _under_full_store(run, cluster.address, phase)
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                return Result(STORE, "full", phase, None, None, None, str(error))
            finally:
                run.end()


def _under_full_store(run: FaultyRun, address: str, phase: str) -> Result:
    """What becomes of a run while another job fills the store, and after it."""
    ray.init(address, namespace="filler", log_to_driver=False)
    held, at = list(_objects(4 * OBJECT_STORE_MIB)), time.time()

    def free() -> None:
        held.clear()
        ray.shutdown()

    try:
        goes_on = ended = False
        while not goes_on and not ended and time.time() - at < PATIENCE_S:
            time.sleep(0.5)
            goes_on = len(run.read("ppo", at)) >= UPDATES
            ended = run.driver.poll() is not None
        full = f"{len(held)} objects of {OBJECT_MIB} MiB"
        if ended:
            return _ended(run, STORE, phase, at, free)
        free()
        freed = time.time()
        run.until(lambda: len(run.read("ppo", freed)) >= 2, "two updates once there is room")
        word = (
            "goes on"
            if goes_on
            else f"makes no {UPDATES} updates in {PATIENCE_S:g} s, then goes on"
        )
        lost = [str(record["cause"])[:160] for record in run.read("failure", at)]
        outcome = f"the run {word} beside {full}" + (f"; losses: {lost}" if lost else "")
        return Result(STORE, "full", phase, None, None, run.played_again_since(at), outcome)
    finally:
        free()


def _objects(mib: int) -> Iterator[ray.ObjectRef[object]]:
    """So many MiB in the object store, or as many as it takes."""
    for _ in range(mib // OBJECT_MIB):
        try:
            yield ray.put(np.zeros(OBJECT_MIB * 2**20, np.uint8))
        except (ObjectStoreFullError, OutOfDiskError):
            return


def _goes_on_without_states(run: FaultyRun, states: Path, filler: Path, at: float) -> Result:
    run.until(lambda: run.read("failure", at), "the failed state is recorded")
    found = float(str(run.read("failure", at)[0]["time"])) - at
    told = time.time()
    run.until(lambda: len(run.read("ppo", told)) >= 2, "two updates without a state")
    cause = str(run.read("failure", at)[0]["cause"])
    filler.unlink()
    freed = time.time()
    run.until(lambda: _newest(states) > freed, "a state is written again")
    outcome = f"the run goes on, `{cause[:160]}`; states again once there is room"
    seconds, again = time.time() - freed, run.played_again_since(at)
    return Result(DISKS[0], "full", "–", found, seconds, again, outcome)


def _ended(run: FaultyRun, part: str, phase: str, at: float, free: Callable[[], None]) -> Result:
    """Of a run that has ended: it can be resumed once there is room."""
    seconds, orphans = time.time() - at, run.left_behind(LEFT_S)
    left = f"{len(orphans)} processes left" if orphans else "no process left"
    run.read("ppo", at)  # the last of them
    free()
    began, said = time.time(), run.last_line()[:200]
    code = run.driver.poll()
    run.resume()
    run.until(lambda: run.read("ppo", began), "an update of the resumed run")
    outcome = f"the run ends, code {code}, `{said}`; {left}; `cardinal resume` goes on"
    again = time.time() - began
    return Result(part, "full", phase, seconds, again, run.played_again(began), outcome)


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A disk in memory; whether it could be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def _fill(file: Path) -> None:
    """Write until there is no room."""
    with file.open("wb", buffering=0) as stream:
        for size in (2**20, 2**10, 1):
            try:
                while stream.write(b"x" * size) == size:
                    pass
            except OSError:
                continue


def _newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("*/*/*")), default=0.0)
