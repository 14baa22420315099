"""A rollout worker: how many episodes run at once, how blocks are cut, what errors do."""

import asyncio

import pytest

from rollout.engine import Completion, EngineFailure, EngineLoad, EngineSettings
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory import from_block
from rollout.trajectory_summary import from_columns
from rollout.worker import RolloutWorker

GP = "cardinal/GeneralPoints-v0"
ENVIRONMENTS = {"v": (GP, {"prompt_style": "brief", "verify_iter": 1})}
LIMITS = EpisodeLimits(answer_tokens=16, context_tokens=128, episode_deadline_s=20)


class CountingEngine:
    """Gives one wrong answer to every prompt, and remembers how many prompts it had at once."""

    def __init__(self, renderer):
        self.renderer, self.running, self.most, self.served = renderer, 0, 0, 0
        self.fails_at = None

    async def generate(self, prompt_ids, **_):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.002)
        self.running -= 1
        self.served += 1
        if self.served == self.fails_at:
            raise EngineFailure("gone")
        ids = self.renderer.answer("1+1")
        return Completion(prompt_ids, ids, [-0.5] * len(ids), [0] * len(ids), True)

    def pop_load(self):
        return EngineLoad(float(self.most), 1.0)


@pytest.fixture
def worker(tiny_model):
    renderer = Renderer.load(tiny_model)
    settings = EngineSettings(tiny_model)
    started = RolloutWorker(settings, renderer, ENVIRONMENTS, LIMITS, ProcessLimits(), 4, 3)
    started.engine = CountingEngine(renderer)
    return started


def requests(n, variant="v"):
    return [EpisodeRequest(f"x/{i}", variant, i, i) for i in range(n)]


def test_episodes_run_at_once_and_leave_in_blocks(worker):
    async def work():
        await worker.submit(requests(8))
        return [await worker.next_block() for _ in range(3)]

    blocks = asyncio.run(work())
    played = [from_block(block) for block, _ in blocks]
    assert [len(trajectories) for trajectories in played] == [3, 3, 2]
    assert sorted(t.id for ts in played for t in ts) == [f"x/{i}" for i in range(8)]
    assert worker.engine.most == 4
    for trajectories, (_, columns) in zip(played, blocks, strict=True):
        assert [s.id for s in from_columns(columns)] == [t.id for t in trajectories]


def test_a_lost_engine_is_raised_and_starts_nothing_more(worker):
    worker.engine.fails_at = 2

    async def drain():
        while True:
            await worker.next_block()

    async def work():
        await worker.submit(requests(40))
        with pytest.raises(EngineFailure, match="gone"):
            await drain()
        await asyncio.sleep(0.05)

    asyncio.run(work())
    assert worker.engine.served < 12


def test_a_block_of_nothing_is_refused(worker):
    with pytest.raises(ValueError, match="nothing is queued or in flight"):
        asyncio.run(worker.next_block())


def test_reconfigured_it_forgets_its_episodes_and_runs_the_new_ones(worker):
    async def work():
        await worker.submit(requests(9))
        await asyncio.sleep(0)
        await worker.reconfigure({"w": ENVIRONMENTS["v"]}, LIMITS, ProcessLimits())
        await worker.submit(requests(2, "w"))
        block, _ = await worker.next_block()
        return [(t.id, t.variant) for t in from_block(block)]

    assert sorted(asyncio.run(work())) == [("x/0", "w"), ("x/1", "w")]


def test_load_is_the_engines(worker):
    assert worker.pop_load() == EngineLoad(0.0, 1.0)
