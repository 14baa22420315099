"""Which weights engines get: those of a publish, and a new engine the last ones, proven."""

from __future__ import annotations

import asyncio

import pytest

from cluster.failures import RunFailure, SourceLost
from cluster.workers import engine_weights
from cluster.workers.supervisor import WorkerGone
from tests.support.publishes import played, sample


def test_while_nobody_plays_all_load_at_once_and_are_told_together():
    async def scenario(weights, workers, fleet, changes, loaded):
        workers[1].loading.clear()
        asyncio.get_running_loop().call_later(2.0, workers[1].loading.set)
        seconds, paused = await weights.publish(7, ["ref"], False, loaded)
        assert [w.received for w in workers] == [[(7, ["ref"])]] * 3
        assert (paused, weights.versions, changes) == ([0.5] * 3, [7] * 3, [[7] * 3])
        assert seconds == pytest.approx(2.0)
        assert fleet.asked[0] == (0, "receive weights of version 7", 120.0, "sync_deadline_s")

    played(scenario)


def test_while_they_play_those_of_a_node_load_one_after_another():
    async def scenario(weights, workers, fleet, changes, loaded):
        workers[0].loading.clear()
        publishing = asyncio.ensure_future(weights.publish(7, ["ref"], True, loaded))
        await asyncio.sleep(0.02)
        assert [bool(w.received) for w in workers] == [False, False, True]
        assert changes == [[-1, -1, 7]]
        workers[0].loading.set()
        await publishing
        assert changes == [[-1, -1, 7], [7, -1, 7], [7, 7, 7]]

    played(scenario)


@pytest.mark.parametrize("playing", [False, True])
def test_one_that_is_lost_meanwhile_is_not_waited_for(playing):
    async def scenario(weights, workers, fleet, changes, loaded):
        async def lost(*_):
            fleet.gone.add(1)
            raise WorkerGone("dead")

        workers[1].receive.remote = lost
        _, paused = await weights.publish(7, [], playing, loaded)
        assert (weights.versions, paused) == ([7, -1, 7], [0.5, None, 0.5])

    played(scenario)


@pytest.mark.parametrize("playing", [False, True])
def test_one_that_is_lost_before_its_turn_is_asked_for_nothing(playing):
    """Its successor has no engine yet: it would answer with an error of its own."""

    async def scenario(weights, workers, fleet, changes, loaded):
        workers[0].loading.clear()
        workers[1].errors = [RunFailure("start() first")]
        publishing = asyncio.ensure_future(weights.publish(7, ["ref"], playing, loaded))
        await asyncio.sleep(0.01)
        fleet.gone.add(1)
        workers[0].loading.set()
        _, paused = await publishing
        assert [asked[0] for asked in fleet.asked] == [0, 2]
        assert (weights.versions, paused) == ([7, -1, 7], [0.5, None, 0.5])

    played(scenario)


def test_one_that_refuses_ends_the_publish():
    async def scenario(weights, workers, fleet, changes, loaded):
        workers[2].errors = [RunFailure("no room")]
        with pytest.raises(RunFailure, match="no room"):
            await weights.publish(7, [], False, loaded)

    played(scenario)


def test_a_publish_that_fails_is_over_once_no_engine_loads_its_weights_any_more():
    """The next learner's come after them, whatever node has lost which."""

    async def scenario(weights, workers, fleet, changes, loaded):
        workers[0].loading.clear()
        workers[2].errors = [SourceLost("its owner is dead")]
        publishing = asyncio.ensure_future(weights.publish(7, ["ref"], True, loaded))
        await asyncio.sleep(0.01)
        assert not publishing.done()
        weights.forget()
        workers[0].loading.set()
        with pytest.raises(SourceLost, match="its owner is dead"):
            await publishing
        await asyncio.sleep(1.0)
        assert [len(worker.received) for worker in workers] == [1, 0, 0]
        assert (weights.versions, changes) == ([-1] * 3, [])

    played(scenario)


@pytest.mark.parametrize("playing", [False, True])
def test_a_publish_of_an_epoch_that_ends_meanwhile_counts_for_nothing(playing):
    async def scenario(weights, workers, fleet, changes, loaded):
        for worker in workers:
            worker.loading.clear()
        publishing = asyncio.ensure_future(weights.publish(7, [], playing, loaded))
        await asyncio.sleep(0.01)
        weights.forget()
        for worker in workers:
            worker.loading.set()
        await publishing
        assert (weights.versions, weights.last, changes) == ([-1] * 3, None, [])

    played(scenario)


def test_a_new_engine_without_others_gets_the_last_weights_and_waits_for_none():
    async def scenario(weights, workers, fleet, changes, loaded):
        assert await weights.bring(0) == {"proof": "left to the next batch"}
        await weights.publish(7, ["ref"], False, loaded)
        fleet.gone |= {0, 1, 2}
        assert await weights.bring(0) == {"proof": "left to the next batch"}
        assert workers[0].received == [(7, ["ref"])] * 2
        assert weights.versions == [7] * 3

    played(scenario)


def test_it_waits_a_little_for_others_to_play_and_takes_newer_weights_meanwhile():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["old"], False, loaded)
        fleet.gone.add(1)
        workers[1].received.clear()
        bringing = asyncio.ensure_future(weights.bring(1))
        await asyncio.sleep(0.02)
        await weights.publish(8, ["new"], False, loaded)
        await asyncio.sleep(0.02)
        assert workers[1].received == [(7, ["old"]), (8, ["new"])]
        assert not bringing.done()
        sample(weights, 0, version=8)
        assert (await asyncio.wait_for(bringing, 1))["proof"] == "replayed"
        assert weights.versions == [8, 8, 8]

    played(scenario)


def test_where_others_play_nothing_it_joins_all_the_same(monkeypatch):
    monkeypatch.setattr(engine_weights, "PROOF_S", 0.05)

    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        assert await weights.bring(1) == {"proof": "left to the next batch"}
        assert weights.versions[1] == 7

    played(scenario)


def test_a_publish_does_not_begin_while_it_joins():
    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone |= {0, 1, 2}
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)

        async def replay(*asked):
            await weights.publish(8, ["new"], False, loaded)
            workers[1].loading.clear()
            return 0.0, 3

        workers[1].replay.remote = replay
        bringing = asyncio.ensure_future(weights.bring(1))
        await asyncio.sleep(0.02)
        publishing = asyncio.ensure_future(weights.publish(9, ["ref"], False, loaded))
        await asyncio.sleep(0.02)
        assert weights.last.version == 8
        fleet.gone.remove(1)
        workers[1].loading.set()
        await bringing
        seconds, _ = await publishing
        assert seconds == pytest.approx(0.02), "the wait for it counts"
        assert [version for version, _ in workers[1].received] == [7, 8, 9]
        assert weights.versions[1] == 9

    played(scenario)


def test_weights_that_died_with_the_learner_are_not_waited_for():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["old"], False, loaded)
        workers[1].errors = [SourceLost("its owner is dead")] * 2
        assert await weights.bring(1) == {"proof": "left to the next batch"}
        assert weights.versions[1] == -1
        await weights.publish(3, ["new"], False, loaded)
        assert weights.versions == [3, 3, 3]

    played(scenario)


def test_weights_of_an_earlier_epoch_are_others_though_their_version_is_the_same():
    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone |= {0, 1, 2}
        await weights.publish(7, ["old"], False, loaded)
        workers[1].loading.clear()
        bringing = asyncio.ensure_future(weights.bring(1))
        await asyncio.sleep(0.01)
        weights.forget()
        await weights.publish(7, ["new"], False, loaded)
        workers[1].loading.set()
        await bringing
        assert workers[1].received == [(7, ["old"]), (7, ["new"])]

    played(scenario)


def test_where_the_learner_restarts_meanwhile_it_joins_without_any():
    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone |= {0, 1, 2}
        await weights.publish(7, ["ref"], False, loaded)
        workers[1].loading.clear()
        bringing = asyncio.ensure_future(weights.bring(1))
        await asyncio.sleep(0.01)
        weights.forget()
        workers[1].loading.set()
        await asyncio.wait_for(bringing, 1)
        assert weights.versions[1] == -1

    played(scenario)


def test_where_the_learner_restarts_while_it_gets_newer_ones_they_count_for_nothing():
    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone |= {0, 1, 2}
        await weights.publish(7, ["ref"], False, loaded)
        received = []

        async def receive(version, refs):
            received.append(version)
            if version == 7:
                await weights.publish(8, ["new"], False, loaded)
            else:
                weights.forget()
            return 0.5

        workers[1].receive.remote = receive
        await asyncio.wait_for(weights.bring(1), 1)
        assert (received, weights.versions[1]) == ([7, 8], -1)

    played(scenario)


def test_weights_of_another_channel_are_noted():
    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone.add(2)
        weights.take_note(4)
        assert weights.versions == [4, 4, -1]
        weights.forget()
        assert weights.versions == [-1] * 3, "they were of a learner that is no more"

    played(scenario)


def test_a_new_engine_has_the_weights_that_none_was_sent():
    """As `cardinal rollout`: all play with the model that they have started with."""

    async def scenario(weights, workers, fleet, changes, loaded):
        weights.take_note(0)
        weights.versions[1] = -1
        workers[1].errors = [ValueError("max() arg is an empty sequence")]
        assert await asyncio.wait_for(weights.bring(1), 1) == {"proof": "left to the next batch"}
        assert weights.versions == [0, 0, 0]
        assert fleet.asked == []

    played(scenario)
