"""A real run that is killed at random moments, again and again, ends as one that never was."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks.chaos.phases import await_phase
from benchmarks.chaos.run import FaultyRun
from cluster.exit_codes import ExitCode
from cluster.stream.recorded_blocks import FOLDER, read_blocks
from report.metrics import read

STEPS, UPDATES, EPISODES = 40, 30, 16
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
SFT, EXPORTS = "SFT", "between the phases"
LIVES = [  # of one run each: moments at which it is killed, one after another
    (SFT, EXPORTS, "generating", "mid-checkpoint", "idle"),
    (SFT, "sync begins", "mid-evaluation", "mid-sync", "generating"),
    (SFT, "mid-sync", "sync ends", "mid-checkpoint", "mid-evaluation"),
    (EXPORTS, "generating", "mid-checkpoint", "sync ends", "sync begins"),
]
END_S = 600.0


def await_moment(run: FaultyRun, moment: str, since: float, draws: random.Random) -> None:
    """Return at a random time within a moment, once the run has gone on since it was killed."""
    if moment == SFT:
        run.until(lambda: run.read("sft", since), "a step of SFT")
    elif moment == EXPORTS:
        run.until(lambda: _steps(run) == STEPS, "the end of SFT")
    else:
        run.until(lambda: run.read("ppo", since) and run.processes("engine"), "an update")
        await_phase(run, moment)
    time.sleep(draws.uniform(0.0, 0.3))


def _steps(run: FaultyRun) -> int:
    return max((int(str(record["step"])) for record in run.read("sft", 0.0)), default=0)


def learned(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Loss and gradient norm of each step and update."""
    return {
        (r["kind"], r.get("step", r.get("update"))): [r["loss"], r["grad_norm"]]
        for r in read(folder)
        if r["kind"] in ("sft", "ppo")
    }


def trained(folder: Path, update: int) -> list[tuple[str, list[int]]]:
    """The episodes of an update in their order, and the tokens of each."""
    blocks = read_blocks(folder / FOLDER, update, 0, 1)
    return [(t.id, [int(x) for s in t.segments for x in s.token_ids]) for t in blocks]


def finish(run: FaultyRun) -> Path:
    code = run.driver.wait(END_S)
    assert code == ExitCode.DONE, run.last_line()
    return run.folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The folder of a run that nobody kills."""
    run = FaultyRun(tmp_path_factory.mktemp("smooth"), "smooth", *KEYS)
    try:
        return finish(run)
    finally:
        run.end()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(len(LIVES)))
def test_killed_at_random_moments_it_ends_as_if_nothing_had_been(expected, tmp_path, seed):
    """Once the driver is killed and the run resumed, else the rank: its group starts again."""
    run, draws, since = FaultyRun(tmp_path, "killed", *KEYS), random.Random(seed), 0.0
    drivers = draws.randrange(len(LIVES[seed]))
    try:
        for number, moment in enumerate(LIVES[seed]):
            await_moment(run, moment, since, draws)
            part, since = "driver" if number == drivers else "rank", time.time()
            for process in run.processes(part):
                process.kill()
            print(f"{moment}: {part} killed after {len(run.read('ppo', 0.0))} updates")
            if part == "driver":
                run.driver.wait()
                run.resume()
        folder = finish(run)
    finally:
        run.end()
    assert learned(folder) == learned(expected)
    episodes = [trained(folder, update) for update in range(1, UPDATES + 1)]
    assert episodes == [trained(expected, update) for update in range(1, UPDATES + 1)]
    names = [name for update in episodes for name, _ in update]
    assert len(set(names)) == len(names)
    assert len(names) <= UPDATES * EPISODES
