"""A rollout worker: how many episodes run at once, how blocks are cut, what errors do."""

import asyncio
import gc
import weakref

import pytest

from rollout.engine import Completion, EngineFailure, InferenceEngine
from rollout.engine_load import EngineLoad
from rollout.engine_settings import EngineSettings
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory import from_block
from rollout.trajectory_summary import from_columns
from rollout.worker import BLOCK_AGE_S, RolloutWorker, block_age_s
from tests.support import virtual_time

GP = "cardinal/GeneralPoints-v0"
ENVIRONMENTS = {"v": (GP, {"prompt_style": "brief", "verify_iter": 1})}
LIMITS = EpisodeLimits(answer_tokens=16, context_tokens=128, episode_deadline_s=300)


class CountingEngine:
    """Gives one wrong answer to every prompt, and remembers how many prompts it had at once.

    gate: no answer passes while it is closed.
    """

    def __init__(self, renderer):
        self.renderer, self.running, self.most, self.served = renderer, 0, 0, 0
        self.fails_at, self.seconds, self.gate = None, 0.02, asyncio.Event()
        self.gate.set()

    async def generate(self, prompt_ids, **_):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        await self.gate.wait()
        self.running -= 1
        self.served += 1
        if self.served == self.fails_at:
            raise EngineFailure("gone")
        ids = self.renderer.answer("1+1")
        return Completion(prompt_ids, ids, [-0.5] * len(ids), [0] * len(ids), True)

    async def shutdown(self):
        pass

    def total_load(self):
        return EngineLoad(7.0, float(self.most), 1.0, 2.0, 5)


@pytest.fixture
def worker(tiny_model):
    renderer = Renderer.load(tiny_model)
    settings = EngineSettings(tiny_model)
    started = RolloutWorker(settings, renderer, ENVIRONMENTS, LIMITS, ProcessLimits(), 4, 3)
    started.engine = CountingEngine(renderer)
    return started


def run(worker, work):
    async def within():
        try:
            return await asyncio.wait_for(work, 120)
        finally:
            await worker.shutdown()

    return asyncio.run(within())


def requests(n, variant="v"):
    return [EpisodeRequest(f"x/{i}", variant, i, i) for i in range(n)]


async def in_flight(worker):
    """Until four episodes wait for the engine."""
    while worker.engine.running < 4:
        await asyncio.sleep(0.01)


async def blocks_of(worker, episodes):
    """Blocks until so many episodes have finished."""
    blocks, played = [], 0
    while played < episodes:
        blocks.append(await worker.next_block())
        played += len(from_block(blocks[-1][0]))
    return blocks


def test_episodes_run_at_once_and_leave_in_blocks(worker):
    async def work():
        worker.engine.gate.clear()
        await worker.submit(requests(8))
        await in_flight(worker)
        worker.engine.gate.set()
        return await blocks_of(worker, 8)

    blocks = run(worker, work())
    played = [from_block(block) for block, _ in blocks]
    assert max(len(trajectories) for trajectories in played) <= 3
    assert sorted(t.id for ts in played for t in ts) == [f"x/{i}" for i in range(8)]
    assert worker.engine.most == 4
    for trajectories, (_, columns) in zip(played, blocks, strict=True):
        assert [s.id for s in from_columns(columns)] == [t.id for t in trajectories]


def test_a_collection_passes_over_what_was_there_at_the_start_but_not_over_garbage(
    worker, monkeypatch
):
    class Cycle:
        def __init__(self):
            self.own = self

    dead = weakref.ref(Cycle())
    kept = Cycle()

    async def start(_):
        return worker.engine

    monkeypatch.setattr(InferenceEngine, "start", start)
    gc.disable()  # or a collection by chance would find the garbage
    try:
        asyncio.run(worker.start())
        assert dead() is None
        assert gc.get_freeze_count() > 0
        assert not any(tracked is kept for tracked in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.enable()


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

    run(worker, work())
    assert worker.engine.served < 12


def test_where_nothing_is_in_flight_a_block_is_empty_and_comes_soon(worker):
    (block, columns), seconds = virtual_time.timed(worker.next_block())
    assert (from_block(block), from_columns(columns)) == ([], [])
    assert seconds == pytest.approx(BLOCK_AGE_S)


def test_what_has_finished_does_not_wait_for_the_rest_of_its_block(worker):
    """The second of three episodes does not end."""
    calls, generate = [], worker.engine.generate

    async def slow(prompt_ids, **options):
        calls.append(prompt_ids)
        if len(calls) == 2:
            await asyncio.Event().wait()
        return await generate(prompt_ids, **options)

    worker.engine.generate = slow

    async def work():
        await worker.submit(requests(3))
        finished = []
        while len(finished) < 2:
            block, _ = await worker.next_block()
            finished += from_block(block)
        return finished

    assert len(run(worker, work())) == 2


def test_dropped_episodes_never_come_back(worker):
    async def work():
        worker.engine.gate.clear()
        await worker.submit(requests(9))
        await in_flight(worker)
        waiting = asyncio.ensure_future(worker.next_block())
        await worker.drop()
        empty, _ = await waiting
        worker.engine.gate.set()
        await worker.submit(requests(2))
        after = await blocks_of(worker, 2)
        return from_block(empty), sorted(t.id for block, _ in after for t in from_block(block))

    assert run(worker, work()) == ([], ["x/0", "x/1"])


def test_who_waited_for_a_dropped_episode_is_given_no_later_one(worker):
    """A buffer that has died still waits here; the next one's episodes are not for it."""

    async def work():
        worker.engine.gate.clear()
        await worker.submit(requests(4))
        waiting = asyncio.ensure_future(worker.next_block())
        await in_flight(worker)
        await worker.drop()
        await worker.submit([EpisodeRequest("y/0", "v", 0, 0)])
        block, columns = await waiting
        assert from_block(block) == []
        assert from_columns(columns) == []
        worker.engine.gate.set()
        return await blocks_of(worker, 1)

    ((block, _),) = run(worker, work())
    assert [t.id for t in from_block(block)] == ["y/0"]


@pytest.fixture
def dropping(worker):
    """A function that has x/0 … x/3 dropped; they are cancelled until their gate opens.

    They then end, cancelled or not: an episode's own deadline can come at the same moment.
    """
    gate, generate, asked = asyncio.Event(), worker.engine.generate, []

    async def until_cancelled(prompt_ids, **options):
        asked.append(prompt_ids)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gate.wait()
            return await generate(prompt_ids, **options)

    async def begin():
        worker.engine.generate = until_cancelled
        await worker.submit(requests(6))
        while len(asked) < 4:
            await asyncio.sleep(0.01)
        worker.engine.generate = generate
        drop = asyncio.ensure_future(worker.drop())
        await asyncio.sleep(0)
        return drop, gate

    return begin


def test_what_is_submitted_while_others_are_dropped_is_played(worker, dropping):
    async def work():
        drop, gate = await dropping()
        await worker.submit([EpisodeRequest("y/0", "v", 0, 0)])
        ((block, _),) = await blocks_of(worker, 1)
        await worker.submit([EpisodeRequest("y/1", "v", 1, 1)])
        while not worker._done:
            await asyncio.sleep(0.01)
        assert not drop.done()
        gate.set()
        await drop
        ((after, _),) = await blocks_of(worker, 1)
        return [t.id for played in (block, after) for t in from_block(played)]

    assert run(worker, work()) == ["y/0", "y/1"]


def test_who_waits_for_a_dropped_episode_is_not_kept_until_all_are_cancelled(worker, dropping):
    async def work():
        waiting = asyncio.ensure_future(worker.next_block())
        drop, gate = await dropping()
        block, _ = await waiting
        assert not drop.done()
        gate.set()
        await drop
        return from_block(block), worker._done

    assert run(worker, work()) == ([], [])


@pytest.mark.parametrize("error", [ConnectionError(), EngineFailure()])
def test_a_dropped_episodes_error_is_forgotten_but_for_a_lost_engine(worker, monkeypatch, error):
    async def failing(*_):
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    monkeypatch.setattr("rollout.worker.run_episode", failing)

    async def work():
        await worker.submit(requests(1))
        await asyncio.sleep(0)
        await worker.drop()

    run(worker, work())
    assert (worker._error is error) == isinstance(error, EngineFailure)


def test_reconfigured_it_forgets_its_episodes_and_runs_the_new_ones(worker):
    async def work():
        await worker.submit(requests(9))
        await asyncio.sleep(0)
        await worker.reconfigure({"w": ENVIRONMENTS["v"]}, LIMITS, ProcessLimits())
        await worker.submit(requests(2, "w"))
        blocks = await blocks_of(worker, 2)
        return [(t.id, t.variant) for block, _ in blocks for t in from_block(block)]

    assert sorted(run(worker, work())) == [("x/0", "w"), ("x/1", "w")]


def test_the_next_run_keeps_what_has_been_imported_and_no_process_that_has_played(worker):
    def server():
        return worker._environments._server

    async def work():
        worker.begin_environments()
        begun = server()
        await worker.reconfigure(dict(ENVIRONMENTS), LIMITS, ProcessLimits())
        assert server() is begun
        await worker.submit(requests(1))
        await blocks_of(worker, 1)
        await worker.reconfigure(ENVIRONMENTS, LIMITS, ProcessLimits())
        assert server() is not begun, "else an environment's state would pass to the next run"
        for verify_iter in (1, True):
            others = {"v": (GP, {"prompt_style": "brief", "verify_iter": verify_iter})}
            before = server()
            await worker.reconfigure(others, LIMITS, ProcessLimits())
            assert (server() is before) == (verify_iter is not True)
        before = server()
        await worker.reconfigure(others, LIMITS, ProcessLimits(processes=1))
        assert server() is not before

    run(worker, work())


def test_load_is_the_engines(worker):
    assert worker.total_load() == EngineLoad(7.0, 0.0, 1.0, 2.0, 5)


def test_many_workers_send_no_more_partial_blocks_than_the_buffer_can_bear():
    assert [block_age_s(workers) for workers in (1, 2, 4, 32, 512)] == [0.2, 0.2, 0.4, 3.2, 5.0]


def test_a_block_waits_as_long_as_the_worker_was_told(worker):
    worker._block_age_s = 0.7
    assert virtual_time.timed(worker.next_block())[1] == pytest.approx(0.7)
