"""The buffer with workers in its own process: whom it asks for what, when, and what it forgets."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace

import pytest
from ray.exceptions import RayActorError

from cluster.buffer import BufferedTrajectory, TrajectoryBuffer, shards
from cluster.failures import DeadlineExceeded, RunFailure, TooManyFailures, WorkerLost
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary, to_columns
from tests.support.learner import config

Buffer = TrajectoryBuffer.__ray_metadata__.modified_class
EPISODES = 12  # of an update, in `config`


def summary(name, end="terminated", version=0, tokens=5):
    failure = "a card fell off" if end == "failed" else ""
    return TrajectorySummary(name, end, failure, 1.0, tokens, 3, version, {})


class Method:
    def __init__(self, function):
        self.remote = function


class FakeWorker:
    """Answers calls while their gate is open; episodes end when the test says so."""

    def __init__(self, node="here"):
        self.playing, self.calls, self.number, self.waiting = [], [], 0, False
        self.blocks = asyncio.Queue()
        self.gates = {name: asyncio.Event() for name in ("submit", "receive")}
        for gate in self.gates.values():
            gate.set()
        self.submit, self.drop = Method(self._submit), Method(self._drop)
        self.receive, self.next_block = Method(self._receive), Method(self._next_block)
        self.node = Method(lambda: self._answer(node))
        self.error = None  # of the next `receive`

    async def _answer(self, value):
        return value

    async def _submit(self, requests):
        self.calls.append("submit")
        await self.gates["submit"].wait()
        self.playing += [request.id for request in requests]

    async def _drop(self):
        self.calls.append("drop")
        self.playing.clear()
        if self.waiting:  # as the real one, whose call for a block ends
            self.blocks.put_nowait(to_columns([]))

    async def _receive(self, version, refs):
        self.calls.append(("receive", version))
        await self.gates["receive"].wait()
        if self.error is not None:
            raise self.error
        return 0.5

    def _next_block(self):
        self.number += 1
        return f"block {self.number}", self._block()

    async def _block(self):
        self.waiting = True
        columns = await self.blocks.get()
        self.waiting = False
        if isinstance(columns, Exception):
            raise columns
        return columns

    async def finish(self, *names, version=0, end="terminated"):
        """These episodes, or all, end in one block."""
        ended = list(names or self.playing)
        self.playing = [name for name in self.playing if name not in ended]
        self.blocks.put_nowait(to_columns([summary(name, end, version) for name in ended]))
        await settle()


async def settle():
    """Until nothing more happens by itself."""
    for _ in range(100):
        await asyncio.sleep(0)


def made(workers=1, rate=0.1, deadline=60.0, flight=64, **ppo):
    """(buffer of two ranks, its workers)."""
    cfg = config(**{"updates": 9} | ppo)
    cluster = replace(
        cfg.cluster, max_failure_rate=rate, block_deadline_s=60.0, sync_deadline_s=deadline
    )
    rollout = replace(cfg.rollout, in_flight=flight, block=2)
    learner = replace(cfg.learner, ranks=2)
    staff = [FakeWorker() for _ in range(workers)]
    return Buffer(staff, replace(cfg, cluster=cluster, rollout=rollout, learner=learner)), staff


def asynchronous(test):
    @functools.wraps(test)
    def run(*arguments, **options):
        asyncio.run(asyncio.wait_for(test(*arguments, **options), 20))

    return run


def requests(n, begin=0):
    return [EpisodeRequest(f"x/{i:02d}", "v", i, i) for i in range(begin, begin + n)]


async def begun(call):
    """A call of the buffer's that goes on by itself."""
    task = asyncio.ensure_future(call)
    await settle()
    return task


@asynchronous
async def test_a_workers_queue_is_a_block_longer_than_its_flight():
    buffer, (worker,) = made(flight=3)
    await begun(buffer.collect(requests(9)))
    assert len(worker.playing) == 3 + 2
    await worker.finish("x/00")
    assert len(worker.playing) == 5, "the next one at once"


@asynchronous
async def test_as_many_may_fail_as_the_rate_says():
    buffer, (worker,) = made(rate=0.1)
    call = await begun(buffer.collect(requests(10)))
    await worker.finish("x/07", end="failed")
    await worker.finish()
    assert [s.end for s in await call].count("failed") == 1
    assert len(buffer.first(99)) == 9


@asynchronous
async def test_training_stops_when_too_many_of_an_update_failed_and_not_before():
    buffer, (worker,) = made(rate=0.1)
    await buffer.publish(0, [])
    await buffer.begin(1, 0)
    call = await begun(buffer.take(1, 0))
    await worker.finish(worker.playing[0], end="failed")
    assert not call.done(), "the first that ends has failed: 1 of 12 may"
    assert len(worker.playing) == EPISODES, "another is played in its place"
    await worker.finish(worker.playing[0], end="failed")
    with pytest.raises(TooManyFailures, match=r"2 of 12 .* a card fell off"):
        await call


@asynchronous
async def test_a_restart_waits_for_requests_on_their_way_and_for_the_last_blocks():
    """Ray may run `submit` and `drop` in another order than they were called in."""
    buffer, (worker,) = made()
    worker.gates["submit"].clear()
    lost = await begun(buffer.collect(requests(3)))
    reset = await begun(buffer.reset())
    assert worker.calls == ["submit"]
    worker.gates["submit"].set()
    await reset
    assert (worker.calls, worker.playing) == (["submit", "drop"], [])
    with pytest.raises(RunFailure, match="a new epoch"):
        await lost


@asynchronous
async def test_a_restart_waits_for_the_last_block_of_the_old_epoch():
    buffer, (worker,) = made()
    await begun(buffer.collect(requests(3)))
    worker.drop = Method(lambda: worker._answer(None))  # its call for a block goes on
    reset = await begun(buffer.reset())
    assert not reset.done()
    await worker.finish()
    await reset
    call = await begun(buffer.collect(requests(3, begin=50)))
    await worker.finish()
    assert [s.id for s in await call] == ["x/50", "x/51", "x/52"]


@asynchronous
async def test_nothing_that_was_collected_or_taken_outlives_a_restart():
    buffer, (worker,) = made()
    call = await begun(buffer.collect(requests(4)))
    await worker.finish()
    await call
    assert buffer.first(9) == [("block 1", [row]) for row in range(4)]
    await buffer.publish(0, [])
    for _ in range(2):  # the second time after rank 1 had died before it took its share
        await buffer.begin(1, 0)
        assert buffer.first(9) == buffer.shards(1)[0] == []
        await settle()
        await worker.finish()
        ((block, rows),) = (await buffer.take(1, 0)).rows
        assert block == f"block {worker.number}", "of this epoch"
        assert len(buffer._batches) == 1
    ((block, others),) = (await buffer.take(1, 1)).rows
    assert sorted([*rows, *others]) == list(range(EPISODES))
    assert buffer._batches == {}, "once every rank has its share"


@pytest.mark.parametrize("playing", [True, False])
@asynchronous
async def test_weights_of_a_dead_learner_count_for_nothing(playing):
    buffer, (worker,) = made()
    await buffer.publish(0, [])
    if playing:
        await begun(buffer.collect(requests(1)))
    worker.gates["receive"].clear()
    late = await begun(buffer.publish(5, []))
    begin = await begun(buffer.begin(3, 24))
    assert not begin.done(), "the engine would load them into the new epoch"
    worker.gates["receive"].set()
    await asyncio.gather(late, begin)
    await settle()
    assert worker.playing == [], "update 3 needs weights of version 2"
    await buffer.publish(2, [])
    await settle()
    assert worker.playing == [f"ppo/000003/{i:06d}" for i in range(EPISODES)]


@asynchronous
async def test_a_publish_that_fails_ends_every_wait_but_none_of_the_next_epoch():
    buffer, (worker,) = made()
    call = await begun(buffer.collect(requests(3)))
    worker.error = RayActorError()
    with pytest.raises(WorkerLost, match=r"rollout worker 0 .* receive weights of version 1"):
        await buffer.publish(1, [])
    with pytest.raises(WorkerLost, match="weights of version 1"):
        await call
    worker.gates["receive"].clear()
    late = await begun(buffer.publish(2, []))
    reset = await begun(buffer.reset())
    worker.gates["receive"].set()
    await reset
    with pytest.raises(WorkerLost, match="weights of version 2"):
        await late
    call = await begun(buffer.collect(requests(3)))
    await worker.finish()
    assert len(await call) == 3


@pytest.mark.parametrize("playing", [True, False])
@asynchronous
async def test_engines_of_a_node_load_in_turn_while_they_play_and_else_together(playing):
    buffer, workers = made(workers=2)
    if playing:
        await begun(buffer.collect(requests(2)))
    for worker in workers:
        worker.gates["receive"].clear()
    publish = await begun(buffer.publish(1, []))
    assert [("receive", 1) in worker.calls for worker in workers] == [True, not playing]
    for worker in workers:
        worker.gates["receive"].set()
    await publish
    assert all(("receive", 1) in worker.calls for worker in workers)


@asynchronous
async def test_an_engine_that_takes_no_weights_is_named_with_the_deadline():
    buffer, workers = made(workers=2, deadline=0.05)
    workers[1].gates["receive"].clear()
    with pytest.raises(DeadlineExceeded, match=r"rollout worker 1 .* within 0.05 s.*sync_deadline"):
        await buffer.publish(1, [])


@asynchronous
async def test_only_the_engine_that_has_the_weights_plays_for_the_next_update():
    buffer, workers = made(workers=2)
    await buffer.publish(0, [])
    await buffer.begin(1, 0)
    await settle()
    assert [len(worker.playing) for worker in workers] == [6, 6]
    for worker in workers:
        await worker.finish()
    assert (await buffer.take(1, 0)).states["trained"] == 0
    await begun(buffer.collect(requests(2)))  # they play while the weights come
    workers[1].gates["receive"].clear()
    publish = await begun(buffer.publish(1, []))
    assert [len(worker.playing) for worker in workers] == [6, 1], "and leaves the other its part"
    workers[1].gates["receive"].set()
    assert (await publish)[1] == [0.5, 0.5]
    await settle()
    assert [len(worker.playing) for worker in workers] == [7, 7]
    for worker in workers:
        await worker.finish(*[n for n in worker.playing if n[0] == "p"], version=1)
    assert (await buffer.take(2, 0)).states["trained"] == EPISODES


@asynchronous
async def test_weights_over_another_channel_count_as_soon_as_all_have_them():
    buffer, (worker,) = made()
    await buffer.begin(1, 0)
    await settle()
    assert worker.playing == []
    await buffer.published(0)
    await settle()
    assert len(worker.playing) == EPISODES


@asynchronous
async def test_nothing_is_played_beyond_the_last_update():
    buffer, (worker,) = made(updates=2, max_staleness=5)
    await buffer.publish(0, [])
    await buffer.begin(1, 0)
    await settle()
    assert len(worker.playing) == 2 * EPISODES


@asynchronous
async def test_what_is_too_old_is_played_again_at_once():
    buffer, (worker,) = made()
    await buffer.publish(2, [])
    await buffer.begin(3, 24)
    call = await begun(buffer.take(3, 0))
    late = worker.playing[0]
    await worker.finish(late, version=1)
    await worker.finish(version=2)
    assert worker.playing == [late]
    await worker.finish(version=2)
    assert (await call).staleness == [EPISODES]


@asynchronous
async def test_the_first_failure_is_what_everybody_is_told():
    buffer, workers = made(workers=2)
    call = await begun(buffer.collect(requests(4)))
    for worker in workers:
        worker.blocks.put_nowait(RayActorError())
        await settle()
    for wait in (call, buffer.collect(requests(1))):
        with pytest.raises(WorkerLost, match=r"rollout worker 0 .* finish a block"):
            await wait


@asynchronous
async def test_what_breaks_in_the_buffer_itself_ends_the_wait():
    buffer, (worker,) = made()
    call = await begun(buffer.collect(requests(2)))
    worker.blocks.put_nowait({"id": "no columns"})
    with pytest.raises(RunFailure, match="the trajectory buffer broke: "):
        await call


def test_ranks_get_equally_many_tokens_longest_first():
    lengths = {"a": 3, "b": 9, "c": 4, "d": 3, "e": 1}
    stored = [BufferedTrajectory(n, 0, summary(n, tokens=t)) for n, t in lengths.items()]
    dealt = [[rows.block for rows in share] for share in shards(stored, 2)]
    assert dealt == [["b", "e"], ["c", "a", "d"]]
    assert shards(stored[::-1], 2) == shards(stored, 2), "whatever order they came in"
