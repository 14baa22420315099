"""Which weights engines get: those of a publish, and a new engine the last ones, proven."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.failures import ParityError, RunFailure, SourceLost
from cluster.handles import BlockRows
from cluster.workers import engine_weights
from cluster.workers.engine_weights import SAMPLES, EngineWeights
from cluster.workers.supervisor import WorkerGone
from configs.schema import RunConfig
from rollout.episode import EpisodeRequest
from tests.support import virtual_time


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(engine_weights, "time", SimpleNamespace(monotonic=virtual_time.now))


class Worker:
    """Notes what it receives; `errors` are met one after another, None is a success."""

    def __init__(self):
        self.received, self.replayed, self.errors = [], [], []
        self.apart, self.tokens = 0.0, 11
        self.loading = asyncio.Event()
        self.loading.set()
        self.receive = SimpleNamespace(remote=self._receive)
        self.replay = SimpleNamespace(remote=self._replay)

    async def _receive(self, version, refs):
        await self.loading.wait()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.received.append((version, refs))
        return 0.5

    async def _replay(self, requests, rows):
        self.replayed.append(([r.id for r in requests], rows))
        await asyncio.sleep(0.5)
        return None if self.tokens is None else (self.apart, self.tokens)


class Fleet:
    """A supervisor: all workers are present, two nodes; errors of workers are passed on."""

    def __init__(self, workers):
        self.workers, self.gone, self.asked = workers, set(), []
        self.nodes = ["a", "a", "b"]

    def present(self):
        return [i for i in range(len(self.workers)) if i not in self.gone]

    async def ask(self, index, what, ref, seconds, key):
        self.asked.append((index, what, seconds, key))
        return await ref


def played(scenario, **cluster):
    async def run():
        cfg = RunConfig()
        cfg = replace(cfg, cluster=replace(cfg.cluster, **cluster))
        workers = [Worker() for _ in range(3)]
        fleet = Fleet(workers)
        weights = EngineWeights(workers, cfg, fleet)
        changes = []

        async def loaded():
            changes.append(list(weights.versions))

        await scenario(weights, workers, fleet, changes, loaded)

    virtual_time.run(run())


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


def sample(weights, number, version=7, temperature=1.0):
    request = EpisodeRequest(f"x/{number}", "rollout", 1, 1, temperature=temperature)
    weights.keep_sample(request, BlockRows(f"block {number}", [number]), version)


def test_it_plays_again_the_first_few_that_others_played_wholly_under_them():
    async def scenario(weights, workers, fleet, changes, loaded):
        sample(weights, 0)
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 1, version=6)
        sample(weights, 2, temperature=0.0)
        for number in range(3, 9):
            sample(weights, number)
        workers[1].apart = 1e-5
        proof = await weights.bring(1)
        assert proof == {"proof": "replayed", "proof_tokens": 11, "proof_mean_abs": 1e-5}
        ((names, rows),) = workers[1].replayed
        assert names == [f"x/{n}" for n in range(3, 3 + SAMPLES)]
        assert rows[0] == BlockRows("block 3", [3])

    played(scenario)


@pytest.mark.parametrize(("apart", "shown"), [(2e-4, "0.0002"), (math.nan, "nan")])
def test_an_engine_with_other_weights_does_not_come_to_serve(apart, shown):
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        workers[1].apart = apart
        with pytest.raises(ParityError, match=rf"version 7 differ by {shown} .* more than 0.0001$"):
            await weights.bring(1)
        assert weights.versions[1] == -1

    played(scenario)


def test_an_engine_that_has_no_token_in_common_with_others_does_not_come_to_serve():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        workers[1].tokens = 0
        with pytest.raises(ParityError, match=r"^it has no token in common .* of version 7$"):
            await weights.bring(1)
        assert weights.versions[1] == -1

    played(scenario)


def test_where_all_that_it_plays_again_fail_it_tries_again_and_is_proven_later():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        workers[1].tokens = None
        asyncio.get_running_loop().call_later(0.7, setattr, workers[1], "tokens", 3)
        assert (await weights.bring(1))["proof_tokens"] == 3
        workers[1].tokens = None
        assert await weights.bring(1) == {"proof": "left to the next batch"}
        assert len(workers[1].replayed) == 2 + 10
        assert weights.versions == [7] * 3

    played(scenario)


def test_without_the_proof_none_is_played_again():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        assert await weights.bring(1) == {"proof": "cluster.weight_proof=false"}
        assert workers[1].replayed == []

    played(scenario, weight_proof=False)


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


def test_weights_of_another_channel_are_noted():
    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone.add(2)
        weights.take_note(4)
        assert weights.versions == [4, 4, -1]

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
