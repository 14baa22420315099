"""Faults on a real run: SIGKILL and SIGSTOP of each part in each phase, full disks and stores.

`python -m benchmarks.faults --write docs/faults.md` trains a tiny model on this machine with two
rollout workers, puts one fault after another into the run, and writes the table of the page.
`--only actor` and so on choose parts; `tests/end_to_end/test_faults.py` runs it too.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from benchmarks.chaos.nodes import node_with, nodes, raylet_of, replace_node
from benchmarks.chaos.phases import PHASES, STARTING, await_phase, starting_rank, steady
from benchmarks.chaos.result import Result
from benchmarks.chaos.run import HEARTBEAT_S, LEFT_S, FaultyRun, lives
from benchmarks.chaos.steps import BEFORE, slowed
from benchmarks.chaos.storage import (
    DISKS,
    FULL_TOO,
    SPILLS,
    STORE,
    full_disk,
    full_object_store,
)
from benchmarks.chaos.waits import Waits
from cluster.run.run_folder import LOSSES

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
WORKERS = ("engine", "actor")
MENDED = (*WORKERS, "rank", "buffer", "environment", "controller")
RAYLET = "raylet"  # of a node that is not the driver's
MACHINE, FROZEN_S = "machine", 60.0  # with all processes of a run
PARTS = (*MENDED, "driver", *DISKS, STORE, RAYLET, MACHINE)
Fault = tuple[str, str, str]  # part, signal, phase
EVALUATES, A_NODE_EACH = "eval.every=5", "rollout.cpus=1"
TABLE_BEGIN, TABLE_END = "<!-- table: begin -->", "<!-- table: end -->"


def mended(run: FaultyRun, fault: Fault, number: int) -> Result:
    """Put a fault into a part that is replaced, and see what it costs; workers take turns."""
    (part, name, phase), worker = fault, number % 2
    steady(run, BEFORE + 1 if part in WORKERS else 2)
    if phase == STARTING:
        target = starting_rank(run)
    else:
        found = run.processes(part)
        target = found[min(worker, len(found) - 1)]
        await_phase(run, phase, worker)
    waits, engines, at = Waits(run.finders()), run.engine_pids(), time.time()
    target.send_signal(SIGNALS[name])
    run.looks.append(waits.look)
    try:
        if part in ("rank", "buffer", "controller"):
            result = _group_restarted(run, part, name, phase, at, engines)
        elif part == "environment":
            result = _played_again(run, target, name, phase, at)
        else:
            result = _replaced(run, part, name, phase, at)
    finally:
        run.looks.remove(waits.look)
    return replace(result, waited_s=waits.by(at + (result.detected_s or 0.0)))


def _replaced(run: FaultyRun, part: str, name: str, phase: str, at: float) -> Result:
    """A worker is lost, and another one in its place serves."""
    run.until(lambda: _of_workers(run, "restart", at), f"a {part} is replaced after {name} {phase}")
    failure, restart = (_of_workers(run, kind, at)[0] for kind in ("failure", "restart"))
    found, again = (float(str(record["at"])) for record in (failure, restart))
    return Result(
        part,
        name,
        phase,
        found - at,
        again - at,
        int(str(failure["episodes"])),
        f"replaced; proof: {restart['proof']}",
        start_s=float(str(restart["start_seconds"])),
        slowed=slowed(run.steps.seen, at, again),
    )


def _group_restarted(
    run: FaultyRun, part: str, name: str, phase: str, at: float, engines: list[int]
) -> Result:
    """The learner group begins an epoch, because a rank or the buffer was lost."""
    losses = run.folder / LOSSES  # written by who finds it; Ray Train does not say when it did
    run.until(lambda: losses.exists() and losses.stat().st_mtime > at, f"the {part} is lost")
    found = losses.stat().st_mtime - at
    run.until(lambda: run.read("restart", at), "the learner group restarts")
    run.until(lambda: run.read("ppo", float(str(run.read("restart", at)[0]["time"]))), "an update")
    seconds = time.time() - at
    if part == "buffer":
        run.until(lambda: _seen(run, at), "the loss of the buffer is recorded")
        found = float(str(_seen(run, at)[0]["at"])) - at
    kept = set(engines) <= set(run.engine_pids())
    outcome = f"group restarted, engines {'kept' if kept else 'replaced too'}"
    title = "learner rank" if part == "rank" else part
    begun = float(str(run.read("restart", at)[0]["time"]))
    new = {process.create_time() for each in ("rank", part) for process in run.processes(each)}
    start_s = begun - min(created for created in new if created > at)
    again = run.played_again(begun)
    return Result(title, name, phase, found, seconds, again, outcome, start_s=start_s)


def _played_again(
    run: FaultyRun, target: psutil.Process, name: str, phase: str, at: float
) -> Result:
    """An environment's process is lost, and the run goes on without a loss of a worker."""
    run.until(lambda: not lives(target), "the environment's process is gone")
    gone = time.time()
    run.until(lambda: len(run.read("ppo", gone)) >= 2, "two updates")
    updates = run.read("ppo", at)
    failed = sum(int(str(update["failed"])) for update in updates)
    seconds = float(str(run.read("ppo", gone)[0]["time"])) - at
    lost = run.read("failure", at)
    outcome = f"in another process, {failed} episodes failed" + "; a worker was lost" * bool(lost)
    return Result("environment", name, phase, gone - at, seconds, None, outcome)


def driver(run: FaultyRun, fault: Fault, number: int) -> Result:
    """Put a fault into the driver: the run ends and is resumed, or goes on without it."""
    _, name, phase = fault
    steady(run)
    await_phase(run, phase)
    parts = [process for part in MENDED for process in run.processes(part)]
    begin, at = time.monotonic(), time.time()
    run.driver.send_signal(SIGNALS[name])
    if name == "SIGSTOP":
        return _driver_stopped(run, phase, at)
    run.driver.wait()
    _, stayed = psutil.wait_procs(parts, timeout=LEFT_S)
    seconds = time.monotonic() - begin
    run.read("ppo", at)  # the last of them
    old, began = set(run.seen), time.time()
    run.resume()  # as soon as a scheduler might
    run.until(lambda: run.read("ppo", began), "an update of the resumed run")
    again, replayed = time.time() - began, run.played_again(began)
    start_s = float(str(run.read("sync", began)[0]["time"])) - began
    orphans = [f"process {process.pid}" for process in stayed] + run.left_behind(0.0, old)
    left = f"{len(orphans)} processes left: {orphans}" if orphans else "no process left"
    outcome = f"all processes end; {left}; `cardinal resume` goes on"
    return Result("driver", name, phase, seconds, again, replayed, outcome, start_s=start_s)


def _driver_stopped(run: FaultyRun, phase: str, at: float) -> Result:
    """It is stopped for longer than any part may be silent, then goes on."""
    stopped = at + 2 * HEARTBEAT_S
    run.until(lambda: run.read("ppo", stopped), "an update without a driver")
    run.driver.send_signal(signal.SIGCONT)
    again = time.time() + HEARTBEAT_S  # by when it would have ended what it takes for hung
    run.until(lambda: len(run.read("ppo", again)) >= 2, "two updates with the driver back")
    lost = [f"{record['who']} {record['cause']}"[:160] for record in run.read("failure", at)]
    outcome = f"the run goes on without it, and with it again; losses: {lost or 'none'}"
    return Result("driver", "SIGSTOP", phase, None, None, run.played_again_since(at), outcome)


def raylet(cluster: Cluster, run: FaultyRun, fault: Fault, number: int) -> Result:
    """Put a fault into the raylet of a worker's node; a spare node has room for the worker."""
    (_, name, phase), worker = fault, number % 2
    steady(run, BEFORE + 1)
    node = node_with(cluster, run.processes("engine")[worker])
    await_phase(run, phase, worker)
    at = time.time()
    raylet_of(node).send_signal(SIGNALS[name])
    result = _replaced(run, RAYLET, name, phase, at)
    others = [str(r["who"]) for r in run.read("failure", at)][1:]
    replace_node(cluster, node)
    lost = f", and with it {', '.join(others)}" if others else ""
    return replace(result, outcome=f"on another node: {result.outcome}{lost}")


def machine(root: Path) -> Result:
    """Stop all processes of a run for longer than any may be silent, then let all go on."""
    run = FaultyRun(root, MACHINE, EVALUATES)
    try:
        steady(run)
        await_phase(run, "generating")
        stopped, at = run.living(), time.time()
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        time.sleep(FROZEN_S)
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        later = time.time() + 2 * HEARTBEAT_S  # by when a silence would have been taken for a loss
        run.until(lambda: len(run.read("ppo", later)) >= 2, "two updates once all go on")
        again = float(str(run.read("ppo", at + FROZEN_S)[0]["time"])) - at - FROZEN_S
        lost = [f"{record['who']} {record['cause']}"[:160] for record in run.read("failure", at)]
        outcome = f"the run goes on after {FROZEN_S:g} s; losses: {lost or 'none'}"
        restarted = run.played_again_since(at)
        return Result(MACHINE, "SIGSTOP", "generating", None, again, restarted, outcome)
    except TimeoutError as error:
        return Result(MACHINE, "SIGSTOP", "generating", None, None, None, str(error))
    finally:
        run.end()


def _seen(run: FaultyRun, since: float) -> list[dict[str, object]]:
    """Losses that somebody saw at a known time: not those that Ray Train has told."""
    return [r for r in run.read("failure", since) if "at" in r]


def _of_workers(run: FaultyRun, kind: str, since: float) -> list[dict[str, object]]:
    return [r for r in run.read(kind, since) if str(r["who"]).startswith("rollout worker")]


def in_one_run(
    root: Path,
    faults: list[Fault],
    put: Callable[[FaultyRun, Fault, int], Result],
    *keys: str,
    parent: int | None = None,
) -> Iterator[Result]:
    """One fault after another; a run that one of them ends, or holds up, is followed by another."""
    run = None
    try:
        for number, fault in enumerate(faults):
            if run is None:
                run = FaultyRun(root, f"{fault[0]}-{number}", EVALUATES, *keys, parent=parent)
            try:
                yield put(run, fault, number)
            except TimeoutError as error:
                run.end()
                run = None
                yield Result(*fault, None, None, None, str(error))
    finally:
        if run is not None:
            run.end()


def measure(root: Path, faults: list[Fault]) -> Iterator[Result]:
    """Faults of parts that are replaced in one run, and so on; a full disk's in one of its own."""
    yield from in_one_run(root, [fault for fault in faults if fault[0] in MENDED], mended)
    yield from in_one_run(root, [fault for fault in faults if fault[0] == "driver"], driver)
    if lost := [fault for fault in faults if fault[0] == RAYLET]:
        with nodes(4, cpus=1, roles=True) as cluster:  # the learner's, two workers', a spare one
            put, keys = (
                partial(raylet, cluster),
                (f"cluster.address={cluster.address}", A_NODE_EACH),
            )
            yield from in_one_run(root, lost, put, *keys, parent=os.getpid())
    for part, _, phase in faults:
        if part == MACHINE:
            yield machine(root)
        elif part == STORE:
            yield full_object_store(root, phase)
        elif part in DISKS:
            yield full_disk(root, part)


def chosen(parts: list[str], signals: list[str], phases: list[str]) -> list[Fault]:
    """All faults of these; a disk is full whatever the phase, and only a rank starts again."""
    phased = [part for part in parts if part in (*MENDED, "driver", RAYLET)]
    faults = [(p, s, f) for p in phased for s in signals for f in phases]
    faults = [(p, s, f) for p, s, f in faults if f != STARTING or p == "rank"]
    gone = [(MACHINE, "SIGSTOP", "generating")] if MACHINE in parts else []
    full = [(part, "full", "–") for part in parts if part in DISKS]
    full += [(STORE, "full", phase) for phase in (SPILLS, FULL_TOO) if STORE in parts]
    return faults + gone + full


def write(page: Path, results: list[Result]) -> None:
    """Replace the page's rows of the faults that were measured; those of others stay."""
    text = page.read_text()
    before, old = text.split(TABLE_BEGIN)
    old, after = old.split(TABLE_END)
    new = {_fault(result.row()): result.row() for result in results}
    rows = [row for row in old.splitlines() if row.startswith("| ")][2:]
    rows = [new.pop(_fault(row), row) for row in rows] + [*new.values()]
    head = (
        "| part | fault | phase | found after, s | of that, waits, s | full speed after, s "
        "| of that, start-up, s | others' step, × | episodes played again | load | outcome |\n"
        + "| --- " * 11
        + "|"
    )
    stamp = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores."
    table = "\n".join([head, *rows])
    page.write_text(f"{before}{TABLE_BEGIN}\n{stamp}\n\n{table}\n{TABLE_END}{after}")


def _fault(row: str) -> str:
    """Part, fault and phase of a row."""
    return " | ".join(row.split(" | ")[:3])


def main(arguments: list[str] | None = None) -> None:
    """Print each row as it comes; write the page's table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*PARTS], choices=PARTS)
    phases = (*PHASES, STARTING)
    parser.add_argument("--phases", nargs="*", default=[*phases], choices=phases)
    parser.add_argument("--signals", nargs="*", default=[*SIGNALS], choices=[*SIGNALS])
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cardinal-faults-", ignore_cleanup_errors=True) as root:
        faults = chosen(options.only, options.signals, options.phases)
        for result in measure(Path(root), faults):
            print(result.row(), flush=True)
            if options.write:
                write(options.write, [result])


if __name__ == "__main__":
    main()
