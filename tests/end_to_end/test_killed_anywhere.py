"""A real run that is killed at random moments, again and again, ends as one that never was."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks.chaos.phases import await_phase
from benchmarks.chaos.run import FaultyRun
from cluster.exit_codes import ExitCode
from cluster.recorded_blocks import read_blocks
from report.metrics import read

STEPS, UPDATES, EPISODES = 60, 90, 16
KEYS = (
    f"sft.steps={STEPS}",
    "sft.batch_size=8",
    "sft.demonstrations=64",
    "sft.log_every=1",
    f"ppo.updates={UPDATES}",
    f"ppo.episodes={EPISODES}",
    f"ppo.minibatch={EPISODES // 2}",
    "ppo.record=true",
    "ppo.max_staleness=0",
    "eval.every=3",
    "rollout.workers=1",
)
SFT, EXPORTS = "sft", "between the phases"
PPO = ("generating", "sync begins", "mid-sync", "sync ends", "mid-checkpoint", "mid-evaluation")
MOMENTS = [SFT, SFT, SFT, EXPORTS, *PPO, *PPO, "generating", "mid-checkpoint", "mid-sync", "idle"]
DRIVER_TOO = 4  # each so many-th time the driver is killed; else the rank, whose group restarts
END_S = 600.0


def await_moment(run: FaultyRun, moment: str, since: float, draws: random.Random) -> None:
    """Return at a random time within a moment, once the run has gone on since it was killed."""
    if moment == SFT:
        run.until(lambda: run.read("sft", since), "a step of SFT")
    elif moment == EXPORTS:
        run.until(lambda: run.read("sft", since)[-1:] and _steps(run) == STEPS, "the end of SFT")
    else:
        run.until(lambda: run.read("ppo", since), "an update")
        await_phase(run, moment)
    time.sleep(draws.uniform(0.0, 0.3))


def _steps(run: FaultyRun) -> int:
    return max((int(str(record["step"])) for record in run.read("sft", 0.0)), default=0)


def learned(folder: Path) -> list[tuple[object, ...]]:
    """What each step and update came to."""
    return [
        (r["kind"], r.get("step", r.get("update")), r["loss"], r["grad_norm"])
        for r in read(folder)
        if r["kind"] in ("sft", "ppo")
    ]


def trained(folder: Path, update: int) -> list[tuple[str, list[int]]]:
    """The episodes of an update, and the tokens of each."""
    blocks = read_blocks(folder / "blocks", update, 0, 1)
    return [(t.id, [int(x) for s in t.segments for x in s.token_ids]) for t in blocks]


def finish(run: FaultyRun) -> Path:
    code = run.driver.wait(END_S)
    assert code == ExitCode.DONE, run.last_line()
    return run.folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_random_moments_it_ends_as_if_nothing_had_been(tmp_path):
    smooth = FaultyRun(tmp_path, "smooth", *KEYS)
    try:
        expected = finish(smooth)
    finally:
        smooth.end()
    run, draws, since = FaultyRun(tmp_path, "killed", *KEYS), random.Random(0), 0.0
    try:
        for number, moment in enumerate(MOMENTS):
            await_moment(run, moment, since, draws)
            (target,) = run.processes("driver" if number % DRIVER_TOO == 3 else "rank")
            since = time.time()
            target.kill()
            print(f"{moment}: {target.pid} killed after {len(run.read('ppo', 0.0))} updates")
            if target.pid == run.driver.pid:
                run.driver.wait()
                run.left_behind(END_S)
                run.resume()
        folder = finish(run)
    finally:
        run.end()
    assert learned(folder) == learned(expected)
    episodes = [trained(folder, update) for update in range(1, UPDATES + 1)]
    assert episodes == [trained(expected, update) for update in range(1, UPDATES + 1)]
    names = [name for update in episodes for name, _ in update]
    assert len(set(names)) == len(names) == UPDATES * EPISODES
