"""Environments that a worker must live with cost the episodes of others nothing."""

import statistics

import pytest

from rollout.engine_settings import EngineSettings
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory import from_block
from rollout.worker import RolloutWorker
from tests.rollout.test_worker import CountingEngine, run
from tests.support.plugins import PLUGIN

EIGHT = {  # environments that a worker must live with
    "slow": {"kind": "slow", "seconds": 0.5},
    "hanging": {"kind": "slow", "seconds": 600.0},
    "segfault": {"kind": "segfault"},
    "nan": {"kind": "nan"},
    "huge": {"kind": "huge"},
    "picture": {"kind": "picture"},
    "leak": {"kind": "leak"},
    "endless": {"kind": "endless"},
}
GOOD = 8  # episodes beside them


@pytest.fixture
def mixed(tiny_model):
    """A function that makes a worker of the good environment and those eight."""

    def make(call_deadline_s):
        environments = {"good": (PLUGIN, {})} | {name: (PLUGIN, s) for name, s in EIGHT.items()}
        limits = EpisodeLimits(16, 128, episode_deadline_s=300, max_turns=12)
        processes = ProcessLimits(call_deadline_s=call_deadline_s, memory_gib=0.5)
        renderer = Renderer.load(tiny_model)
        settings = EngineSettings(tiny_model)
        worker = RolloutWorker(settings, renderer, environments, limits, processes, 16, 1)
        worker.engine = CountingEngine(renderer)
        return worker

    return make


async def play(worker, number, beside=(), unended=0):
    """One round: its trajectories, but for so many that do not end."""
    requests = [EpisodeRequest(f"{number}/{name}", name, 0, 0) for name in beside]
    requests += [EpisodeRequest(f"{number}/{i}", "good", i, i) for i in range(GOOD)]
    await worker.submit(requests)
    played = []
    while len(played) < len(requests) - unended:
        block, _ = await worker.next_block()
        played += from_block(block)
    return played


def test_no_episode_waits_for_eight_broken_environments(mixed):
    worker = mixed(call_deadline_s=200.0)
    played = run(worker, play(worker, 0, EIGHT, unended=1))
    assert sum(t.end == "terminated" for t in played if t.variant == "good") == GOOD
    others = {t.variant: t for t in played if t.variant != "good"}
    ended = dict.fromkeys(set(EIGHT) - {"hanging"}, "failed")
    assert {name: t.end for name, t in others.items()} == ended | {
        "slow": "terminated",
        "endless": "truncated",
    }
    assert len(others["endless"].turns) == 12
    assert len({t.failure for t in others.values() if t.end == "failed"}) == 5


@pytest.mark.slow
def test_eight_broken_environments_cost_the_other_episodes_no_time(mixed):
    """At most 10 %, as the best of up to six comparisons: the machine does other things, too."""
    worker = mixed(call_deadline_s=2.0)
    worker.engine.seconds = 0.1

    def seconds(played):
        return statistics.median(t.metrics["seconds"] for t in played if t.variant == "good")

    async def work():
        await play(worker, 0, EIGHT)  # processes start
        ratios = []
        for number in range(1, 7):
            alone = await play(worker, 2 * number)
            together = await play(worker, 2 * number + 1, EIGHT)
            ratios.append(seconds(together) / seconds(alone))
            if ratios[-1] <= 1.1:
                break
        return ratios, {t.failure for t in together}

    ratios, causes = run(worker, work())
    assert min(ratios) <= 1.1, ratios
    assert "environment step: took longer than cluster.env_deadline_s = 2" in causes
