"""The buffer with workers in its own process: whom it asks for what, when, and what it forgets."""

from __future__ import annotations

import asyncio

import pytest

from cluster.failures import EpochOver, RunFailure, SourceLost, TooManyFailures
from cluster.handles import Finished
from cluster.stream.shares import shards
from cluster.workers.part import State
from rollout.trajectory_summary import to_columns
from tests.support.buffers import EPISODES, begun, entered, made, requests
from tests.support.fake_worker import Epoch, asynchronous, settle, summary


@asynchronous
async def test_a_workers_queue_is_a_block_longer_than_its_flight():
    _, run, (worker,) = await made(flight=3)
    await begun(run.collect(requests(9)))
    assert len(worker.playing) == 3 + 2
    await worker.finish("x/00")
    assert len(worker.playing) == 5, "the next one at once"


@asynchronous
async def test_what_is_handed_out_says_who_played_it():
    buffer, run, workers = await made(workers=2)
    collecting = await begun(run.collect(requests(2)))
    await workers[0].finish("x/00")
    await workers[1].finish("x/01")
    await collecting
    assert [rows.worker for rows in buffer.first(2)] == [0, 1]


@asynchronous
async def test_requests_come_with_the_call_for_a_block_or_at_once_where_one_is_waited_for():
    _, run, (worker,) = await made(flight=3)
    await begun(run.collect(requests(9)))
    for name in ("x/00", "x/01", "x/02"):
        await worker.finish(name)
    assert (len(worker.playing), worker.calls) == (5, 0)
    await worker.finish("x/03", "x/04", "x/05")
    await begun(run.collect(requests(1, 20)))
    assert worker.playing == ["x/06", "x/07", "x/08", "x/20"]
    assert worker.calls == 1


@asynchronous
async def test_requests_that_have_not_left_are_given_back_with_their_worker():
    buffer, run, workers = await made(workers=2)
    collecting = asyncio.ensure_future(run.collect(requests(4)))
    while not buffer._next_requests:
        await asyncio.sleep(0)
    part = buffer._supervisor._parts[0]
    part.lose("it fell", 0.0)
    buffer.lost(0, "it fell")
    await settle()
    assert [worker.playing for worker in workers] == [[], ["x/01", "x/03", "x/00", "x/02"]]
    for state in (State.REPLACING, State.STARTING, State.SERVING):
        part.move(state, 0.0)
    again = await begun(run.collect(requests(1, 9)))
    assert workers[0].playing == ["x/09"], "and nothing of what it was given before"
    collecting.cancel()
    again.cancel()


@asynchronous
async def test_requests_that_have_not_left_wait_for_each_other():
    _, run, (worker,) = await made()
    calls = [asyncio.ensure_future(run.collect(requests(2, begin))) for begin in (0, 5)]
    await settle()
    assert (worker.playing, worker.calls) == (["x/00", "x/01", "x/05", "x/06"], 0)
    for call in calls:
        call.cancel()


@asynchronous
async def test_requests_that_have_not_left_belong_to_their_epoch():
    buffer, run, (worker,) = await made()
    lost = asyncio.ensure_future(run.collect(requests(3)))
    while not buffer._next_requests:
        await asyncio.sleep(0)
    run = await entered(buffer)
    await begun(run.collect(requests(1, 9)))
    assert worker.playing == ["x/09"]
    with pytest.raises(EpochOver):
        await lost


@asynchronous
async def test_collected_trajectories_are_dealt_out_once(monkeypatch):
    buffer, run, (worker,) = await made()
    dealt = []

    def deal(*arguments):
        dealt.append(arguments)
        return shards(*arguments)

    monkeypatch.setattr("cluster.stream.shares.shards", deal)
    for n in (4, 6):
        call = await begun(run.collect(requests(n)))
        await worker.finish()
        await call
        rows = [row for rank in range(2) for _, rows, _ in buffer.shard(rank) for row in rows]
        assert sorted(rows) == list(range(n))
    assert len(dealt) == 2, "once for all ranks"


@pytest.mark.parametrize(("bound", "by_block"), [(0, False), (1, True)])
@asynchronous
async def test_who_shares_a_block_decides_on_ranks_only_where_time_does_anyway(
    monkeypatch, bound, by_block
):
    _, run, (worker,) = await made(max_staleness=bound)
    asked = []

    def deal(*arguments, **options):
        asked.append(options)
        return shards(*arguments, **options)

    monkeypatch.setattr("cluster.stream.shares.shards", deal)
    await run.publish(0, [])
    await run.begin(1, 0)
    await settle()
    await worker.finish()
    await run.take(1, 0)
    assert asked == [{"by_block": by_block}]


@asynchronous
async def test_as_many_may_fail_as_the_rate_says():
    buffer, run, (worker,) = await made(rate=0.1)
    call = await begun(run.collect(requests(10)))
    await worker.finish("x/07", "x/03", end="failed")
    await worker.finish()
    assert [s.end for s in await call].count("failed") == 2
    assert len(buffer.first(99)) == 8


@asynchronous
async def test_training_stops_when_too_many_of_an_update_failed_and_not_before():
    _, run, (worker,) = await made(rate=0.1)
    await run.publish(0, [])
    await run.begin(1, 0)
    call = await begun(run.take(1, 0))
    await worker.finish(worker.playing[0], end="failed")
    await worker.finish(*worker.playing[:2], end="failed")
    assert not call.done(), "all that ended have failed: 3 of 12 may"
    assert len(worker.playing) == EPISODES, "others are played in their place"
    await worker.finish(worker.playing[0], end="failed")
    with pytest.raises(TooManyFailures, match=r"4 of 12 .* a card fell off"):
        await call


@asynchronous
async def test_requests_of_an_epoch_that_is_over_are_not_played_in_whatever_order_they_come():
    buffer, run, (worker,) = await made()
    worker.gates["submit"].clear()
    lost = await begun(run.collect(requests(3)))
    await entered(buffer)
    worker.gates["submit"].set()
    await settle()
    assert worker.playing == []
    with pytest.raises(EpochOver):
        await lost


@asynchronous
async def test_the_last_block_of_an_epoch_that_is_over_is_dropped_and_counted():
    buffer, run, (worker,) = await made()
    await begun(run.collect(requests(3)))
    late = Finished(epoch=1, columns=to_columns([summary(f"x/{i:02d}") for i in range(3)]))
    again = await entered(buffer)
    call = await begun(again.collect(requests(3)))  # of the same names
    worker.blocks.put_nowait(late)
    await settle()
    assert not call.done()
    await worker.finish()
    assert [s.id for s in await call] == ["x/00", "x/01", "x/02"]
    assert buffer._states()["dropped foreign"] == 3


OF_AN_EPOCH = {"begin": (1, 0), "take": (1, 0), "publish": (1, []), "published": (1,)}


@pytest.mark.parametrize(("call", "arguments"), OF_AN_EPOCH.items())
@asynchronous
async def test_no_call_of_an_epoch_that_is_over_is_answered(call, arguments):
    buffer, run, _ = await made()
    await entered(buffer)
    with pytest.raises(EpochOver):
        await getattr(run, call)(*arguments)
    assert buffer._states()["dropped foreign"] == 1


@asynchronous
async def test_nothing_that_was_collected_or_taken_outlives_a_restart():
    buffer, run, (worker,) = await made()
    call = await begun(run.collect(requests(4)))
    await worker.finish()
    await call
    assert buffer.first(9) == [("block 1", [row], 0) for row in range(4)]
    for _ in range(2):  # the second time after rank 1 had died before it took its share
        run = await entered(buffer)
        await run.publish(0, [])
        await run.begin(1, 0)
        assert buffer.first(9) == buffer.shard(0) == []
        await settle()
        await worker.finish()
        ((block, rows, _),) = (await run.take(1, 0)).rows
        assert block == f"block {worker.number}", "of this epoch"
        assert 1 in buffer._shares
    ((block, others, _),) = (await run.take(1, 1)).rows
    assert sorted([*rows, *others]) == list(range(EPISODES))
    assert 1 not in buffer._shares, "once every rank has its share"


@asynchronous
async def test_a_restarted_learner_goes_on_counting_what_was_trained_on():
    buffer, run, (worker,) = await made()
    for restarts in range(3):
        await run.publish(0, [])
        await run.begin(1, 0)
        await settle()
        await worker.finish()
        await run.take(1, 0)
        await run.publish(1, [])
        assert buffer._states()["trained"] == (restarts + 1) * EPISODES
        run = await entered(buffer)
        assert buffer._states() == {
            "queued": 0,
            "running": 0,
            "ready": 0,
            "taken": 0,
            "trained": (restarts + 1) * EPISODES,
        }


@pytest.mark.parametrize("playing", [True, False])
@asynchronous
async def test_weights_of_a_dead_learner_count_for_nothing(playing):
    buffer, run, (worker,) = await made()
    await run.publish(0, [])
    if playing:
        await begun(run.collect(requests(1)))
    worker.gates["receive"].clear()
    late = await begun(run.publish(5, []))
    reset = await begun(buffer.reset())
    assert not reset.done(), "the engine would load them into the new epoch"
    worker.gates["receive"].set()
    await asyncio.gather(late, reset)
    run = Epoch(buffer)
    await run.begin(3, 24)
    await settle()
    assert worker.playing == [], "update 3 needs weights of version 2"
    await run.publish(2, [])
    await settle()
    assert worker.playing == [f"ppo/000003/{i:06d}" for i in range(EPISODES)]


@asynchronous
async def test_a_publish_that_is_refused_ends_every_wait_but_none_of_the_next_epoch():
    buffer, run, (worker,) = await made()
    call = await begun(run.collect(requests(3)))
    worker.error = RunFailure("no room for weights")
    for wait in (run.publish(1, []), call):
        with pytest.raises(RunFailure, match="no room"):
            await wait
    run = await entered(buffer)
    worker.gates["receive"].clear()
    late = await begun(run.publish(2, []))
    reset = await begun(buffer.reset())
    worker.gates["receive"].set()
    await reset
    with pytest.raises(RunFailure, match="no room"):
        await late
    call = await begun(Epoch(buffer).collect(requests(3)))
    await worker.finish()
    assert len(await call) == 3


@asynchronous
async def test_weights_that_are_lost_with_their_rank_end_no_other_wait():
    _, run, (worker,) = await made()
    call = await begun(run.collect(requests(3)))
    worker.error = SourceLost("the weights are gone with rank 0")
    with pytest.raises(SourceLost):
        await run.publish(1, [])
    await worker.finish()
    assert len(await call) == 3


@pytest.mark.parametrize("playing", [True, False])
@asynchronous
async def test_engines_of_a_node_load_in_turn_whether_they_play_or_not(playing):
    _, run, workers = await made(workers=2)
    if playing:
        await begun(run.collect(requests(2)))
    for worker in workers:
        worker.gates["receive"].clear()
    publish = await begun(run.publish(1, []))
    assert [worker.received for worker in workers] == [[1], []]
    for worker in workers:
        worker.gates["receive"].set()
    await publish
    assert [worker.received for worker in workers] == [[1], [1]]


@asynchronous
async def test_only_the_engine_that_has_the_weights_plays_for_the_next_update():
    _, run, workers = await made(workers=2)
    await run.publish(0, [])
    await run.begin(1, 0)
    await settle()
    assert [len(worker.playing) for worker in workers] == [6, 6]
    for worker in workers:
        await worker.finish()
    assert (await run.take(1, 0)).states["trained"] == 0
    await begun(run.collect(requests(2)))  # they play while the weights come
    workers[1].gates["receive"].clear()
    publish = await begun(run.publish(1, []))
    assert [len(worker.playing) for worker in workers] == [6, 1], "and leaves the other its part"
    workers[1].gates["receive"].set()
    assert (await publish)[1] == [0.5, 0.5]
    await settle()
    assert [len(worker.playing) for worker in workers] == [7, 7]
    for worker in workers:
        await worker.finish(*[n for n in worker.playing if n[0] == "p"], version=1)
    assert (await run.take(2, 0)).states["trained"] == EPISODES


@asynchronous
async def test_weights_over_another_channel_count_as_soon_as_all_have_them():
    _, run, (worker,) = await made()
    await run.begin(1, 0)
    await settle()
    assert worker.playing == []
    await run.published(0)
    await settle()
    assert len(worker.playing) == EPISODES


@asynchronous
async def test_nothing_is_played_beyond_the_last_update():
    _, run, (worker,) = await made(updates=2, max_staleness=5)
    await run.publish(0, [])
    await run.begin(1, 0)
    await settle()
    assert len(worker.playing) == 2 * EPISODES


@asynchronous
async def test_what_is_too_old_is_played_again_at_once():
    _, run, (worker,) = await made()
    await run.publish(2, [])
    await run.begin(3, 24)
    call = await begun(run.take(3, 0))
    late = worker.playing[0]
    await worker.finish(late, version=1)
    await worker.finish(version=2)
    assert worker.playing == [late]
    await worker.finish(version=2)
    assert (await call).staleness == [EPISODES]


@asynchronous
async def test_an_update_has_as_many_episodes_in_groups_as_without():
    _, run, (worker,) = await made(group_size=3)
    await run.publish(0, [])
    await run.begin(1, 0)
    await settle()
    assert len(worker.playing) == EPISODES


@asynchronous
async def test_episodes_of_the_last_weights_are_kept_to_compare_a_new_engine_with():
    buffer, run, (worker,) = await made()
    await run.publish(4, [])
    call = await begun(run.collect(requests(2)))
    await worker.finish("x/00", version=3)
    await worker.finish("x/01", version=4)
    await call
    (request, rows) = buffer._weights._samples[0]
    assert (request.id, *rows, len(buffer._weights._samples)) == ("x/01", "block 2", [0], 0, 1)
