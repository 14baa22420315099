"""What a failure in the buffer ends: its epoch, or the run; and what it lets go of."""

from __future__ import annotations

import pytest

from cluster.failures import EpochOver, RunFailure, RunStopped, TooManyFailures
from cluster.handles import Finished
from tests.support.buffers import EPISODES, begun, entered, made, requests
from tests.support.fake_worker import asynchronous, settle


@asynchronous
async def test_an_epoch_after_one_with_too_many_failures_plays_on():
    """As when the learner group restarts just then: nobody was there to be told."""
    buffer, run, (worker,) = await made(rate=0.1)
    await run.publish(0, [])
    await run.begin(1, 0)
    await settle()
    await worker.finish(*worker.playing[:4], end="failed")
    assert worker.number == 1, "no block is asked for after a failure, or it might fail for ever"
    run = await entered(buffer)
    await run.publish(0, [])
    await run.begin(1, 0)
    call = await begun(run.take(1, 0))
    assert len(worker.playing) == EPISODES
    await worker.finish()
    assert (await call).failed == []


@asynchronous
async def test_training_stops_where_all_fail_whatever_share_may():
    _, run, (worker,) = await made(rate=1.0)
    await run.publish(0, [])
    await run.begin(1, 0)
    call = await begun(run.take(1, 0))
    for _ in range(EPISODES - 1):
        await worker.finish(worker.playing[0], end="failed")
    assert not call.done(), "fewer than an update's"
    await worker.finish(worker.playing[0], end="failed")
    with pytest.raises(
        TooManyFailures, match=r"^all of 12 .* the first, ppo/000001/000000: a card"
    ):
        await call


@asynchronous
async def test_training_goes_on_where_one_ends_well_and_all_others_may_fail():
    _, run, (worker,) = await made(rate=1.0)
    await run.publish(0, [])
    await run.begin(1, 0)
    call = await begun(run.take(1, 0))
    await worker.finish(worker.playing[0])
    for _ in range(2 * EPISODES):
        await worker.finish(worker.playing[0], end="failed")
    assert not call.done()
    await worker.finish()
    assert len((await call).failed) == 2 * EPISODES


@asynchronous
async def test_an_evaluation_of_which_nothing_is_left_ends_the_run():
    _, run, (worker,) = await made(rate=1.0)
    call = await begun(run.collect(requests(3)))
    await worker.finish("x/01", end="failed")
    await worker.finish(end="failed")
    with pytest.raises(TooManyFailures, match="all of 3 trajectories failed"):
        await call
    call = await begun(run.collect(requests(0)))
    assert await call == []


@asynchronous
async def test_what_ends_the_run_ends_every_epoch():
    buffer, run, _ = await made()
    call = await begun(run.collect(requests(2)))
    await buffer.fail(RunFailure("worker 0 was lost for good"))
    await buffer.fail(RunFailure("and so was worker 1"))
    run = await entered(buffer)
    for wait in (call, run.collect(requests(2)), run.publish(0, [])):
        with pytest.raises(RunFailure, match=r"for good|new epoch"):
            await wait


@asynchronous
async def test_a_run_that_is_to_stop_is_so_in_the_next_epoch_too():
    buffer, _, (worker,) = await made()
    await buffer.stop()
    run = await entered(buffer)
    await run.publish(0, [])
    assert worker.received == [0], "of an update that ends"
    await run.begin(1, 0)
    with pytest.raises(RunStopped):
        await run.take(1, 0)


@asynchronous
async def test_blocks_that_were_collected_are_kept_until_their_epoch_needs_them_no_more():
    buffer, run, (worker,) = await made()
    call = await begun(run.collect(requests(4)))
    await worker.finish()
    await call
    buffer.release(0)
    assert len(buffer.first(9)) == 4, "an epoch that is over has no say"
    assert buffer.shard(0)
    run.release()
    assert buffer.first(9) == buffer.shard(0) == []


@asynchronous
async def test_each_engines_load_is_at_its_place():
    buffer, _, _ = await made(workers=3)
    buffer._supervisor._parts[1].lose("it fell", 0.0)
    assert await buffer.loads() == ["load", None, "load"]


@asynchronous
async def test_weights_over_another_channel_end_the_update_that_made_them():
    buffer, run, (worker,) = await made()
    await run.published(0)
    await run.begin(1, 0)
    await settle()
    await worker.finish()
    await run.take(1, 0)
    await run.published(1)
    assert (buffer._states()["taken"], buffer._states()["trained"]) == (0, EPISODES)


@asynchronous
async def test_a_batch_that_is_complete_as_its_epoch_ends_is_not_handed_out():
    buffer, run, (worker,) = await made()
    await run.publish(0, [])
    await run.begin(1, 0)
    await settle()
    await worker.finish()
    async with buffer._changed:  # so that the call and the restart both wait for it
        call = await begun(run.take(1, 0))
        reset = await begun(buffer.reset())
    await reset
    with pytest.raises(EpochOver):
        await call


@asynchronous
async def test_an_engine_that_joined_unproven_plays_for_the_proof_with_the_next_weights():
    """At staleness 1 no batch compares it: what it plays is asked for, and is its own."""
    buffer, run, workers = await made(workers=3, max_staleness=1)
    await run.publish(4, [])
    buffer._weights._unproven[1] = 6
    assert await run.play_unproven(4, []) == [1]
    workers[1].gates["receive"].clear()
    publishing = await begun(run.publish(5, []))
    playing = await begun(run.play_unproven(5, requests(2)))
    assert not any(worker.playing for worker in workers), "it has older weights"
    workers[1].gates["receive"].set()
    await publishing
    await settle()
    assert [worker.playing for worker in workers] == [[], ["x/00/1", "x/01/1"], []]
    await workers[1].finish("x/00/1", version=5)
    await workers[1].finish("x/01/1", version=5, end="failed")
    assert await playing == [1]
    (rows,) = buffer.first(9)
    assert rows.worker == 1
    assert await run.play_unproven(5, []) == [1], "until it is compared"
    buffer._weights._unproven[1] = 7
    buffer.proven(1)
    assert await run.play_unproven(5, []) == [1], "another engine serves by now"
    buffer.proven(1)
    assert await run.play_unproven(5, requests(2)) == []
    assert buffer.first(9) == []
    with pytest.raises(EpochOver):
        await buffer.play_unproven(run.number - 1, 5, requests(2))


@asynchronous
@pytest.mark.parametrize("last", ["failed", "terminated"])
async def test_an_engine_whose_episodes_for_the_proof_all_fail_is_told_of_once(last):
    buffer, run, workers = await made(workers=2, max_staleness=1)
    await run.publish(4, [])
    for _ in range(2):
        buffer._weights._unproven[1] = 6
        playing = await begun(run.play_unproven(4, requests(2)))
        await settle()
        first, second = workers[1].playing
        await workers[1].finish(first, version=4, end="failed")
        await workers[1].finish(second, version=4, end=last)
        assert await playing == [1]
    told = [note for note in buffer.incidents() if note["kind"] == "failure"]
    assert len(told) == (last == "failed")
    for note in told:
        assert note["who"] == "rollout worker 1"
        assert note["cause"].startswith("played none of its episodes for the proof to the end")


@asynchronous
async def test_the_first_failure_is_what_everybody_is_told():
    _, run, workers = await made(workers=2)
    call = await begun(run.collect(requests(4)))
    for worker, cause in zip(workers, ("first", "second"), strict=True):
        worker.blocks.put_nowait(RunFailure(cause))
        await settle()
    for wait in (call, run.collect(requests(1))):
        with pytest.raises(RunFailure, match=r"^first$"):
            await wait


@asynchronous
async def test_what_breaks_in_the_buffer_itself_ends_the_wait():
    _, run, (worker,) = await made()
    call = await begun(run.collect(requests(2)))
    worker.blocks.put_nowait(Finished(epoch=worker.epoch, columns={"id": "no columns"}))
    with pytest.raises(RunFailure, match="the trajectory buffer broke: "):
        await call
