"""How the weights of a new engine are proven: it plays again what others have played."""

from __future__ import annotations

import asyncio
import math

import pytest

from cluster.failures import ParityError
from cluster.handles import BlockRows
from cluster.workers.engine_weights import LATER, NEVER, OWED, SAMPLES, EngineWeights
from tests.support.publishes import played, sample


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
        assert rows[0] == BlockRows("block 3", [3], 0)

    played(scenario)


@pytest.mark.parametrize(
    ("apart", "tokens", "shown", "limit"),
    [
        (2.1e-4, 64, "0.00021", "0.0002"),  # the slack of so few, as where the learner compares
        (1.1e-4, 10**6, "0.00011", "0.0001"),
        (math.nan, 64, "nan", "0.0002"),
    ],
)
def test_an_engine_with_other_weights_does_not_come_to_serve(apart, tokens, shown, limit):
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        workers[1].apart, workers[1].tokens = apart, tokens
        words = rf"version 7 differ by {shown} .* more than {limit}$"
        with pytest.raises(ParityError, match=words):
            await weights.bring(1)
        assert weights.versions[1] == -1

    played(scenario)


def test_a_buffer_that_takes_over_knows_of_no_engine_that_it_is_proven():
    async def scenario(weights, workers, fleet, changes, loaded):
        assert weights.unproven() == {}
        weights = EngineWeights(workers, weights._cfg, fleet, takes_over=True)
        engines = weights.unproven()
        assert [*engines] == [0, 1, 2]
        assert len({*engines.values()}) == 3, "each is told of by itself"
        weights.prove(1, engines[1])
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        await weights.bring(2)
        assert weights.unproven() == {0: engines[0]}, "one was compared, one replaced and proven"

    played(scenario)


def test_few_tokens_accuse_no_new_engine():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        workers[1].apart, workers[1].tokens = 1.9e-4, 64
        proof = await weights.bring(1)
        assert proof == {"proof": "replayed", "proof_tokens": 64, "proof_mean_abs": 1.9e-4}

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


def test_what_others_have_played_on_a_node_that_is_gone_is_no_fault_of_the_new_engine():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        workers[1].gone = {"block 2"}
        for number in range(SAMPLES):
            sample(weights, number)
        asyncio.get_running_loop().call_later(2.0, sample, weights, 5)
        assert (await weights.bring(1))["proof"] == "replayed"
        assert [names for names, _ in workers[1].replayed] == [
            [f"x/{n}" for n in range(SAMPLES)],
            ["x/5"],
        ]
        assert weights.versions == [7, 7, 7]

    played(scenario)


def test_where_nothing_is_played_after_what_is_lost_it_joins_all_the_same():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        workers[1].gone = {"block 0"}
        sample(weights, 0)
        assert await weights.bring(1) == {"proof": "left to the next batch"}
        assert len(workers[1].replayed) == 1
        assert weights.versions == [7, 7, 7]

    played(scenario)


@pytest.mark.parametrize(("staleness", "left"), [(0, LATER), (1, OWED)])
def test_one_that_joined_unproven_is_so_until_it_is_compared(staleness, left):
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        assert list(weights.unproven()) == []
        fleet.gone = {0, 1, 2}  # it is alone: there is nobody to compare it with
        assert await weights.bring(1) == {"proof": left}
        assert list(weights.unproven()) == [], "while it does not serve"
        fleet.gone = set()
        assert await weights.bring(2) == {"proof": left}
        assert list(weights.unproven()) == [1, 2]
        weights.forget()
        assert list(weights.unproven()) == [1, 2], "a learner that restarts still owes it"
        weights.prove(2, weights.unproven()[1])
        assert list(weights.unproven()) == [1, 2], "that was another engine"
        weights.prove(2, weights.unproven()[2])
        assert list(weights.unproven()) == [1]
        await weights.publish(8, ["ref"], False, loaded)
        sample(weights, 0, version=8)
        assert (await weights.bring(1))["proof"] == "replayed"
        assert list(weights.unproven()) == []

    played(scenario, staleness)


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize(("version", "updates"), [(5, 5), (0, 0)])
def test_after_the_last_update_nothing_is_promised(staleness, version, updates):
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(version, ["ref"], False, loaded)
        fleet.gone = {0, 1, 2}
        assert await weights.bring(1) == {"proof": NEVER}
        fleet.gone = set()
        assert list(weights.unproven()) == [1]

    played(scenario, staleness, updates)


@pytest.mark.parametrize(("staleness", "left"), [(0, LATER), (1, OWED)])
def test_before_the_last_update_it_is_the_next_ones(staleness, left):
    """In SFT too, whose publishes compare nothing."""

    async def scenario(weights, workers, fleet, changes, loaded):
        fleet.gone = {0, 1, 2}
        assert await weights.bring(1) == {"proof": left}, "there are no weights yet"
        await weights.publish(0, ["ref"], False, loaded)
        assert await weights.bring(1) == {"proof": left}
        await weights.publish(4, ["ref"], False, loaded)
        assert await weights.bring(1) == {"proof": left}

    played(scenario, staleness, 5)


def test_that_an_engine_could_play_nothing_of_its_proof_is_said_once():
    async def scenario(weights, workers, fleet, changes, loaded):
        weights.tell_unplayed(1, 6, "no such picture")
        weights.tell_unplayed(1, 6, "another")
        weights.tell_unplayed(2, 7, "another")
        said = "played none of its episodes for the proof to the end, and is unproven still; the"
        assert fleet.notes == [
            ("failure", 1, f"{said} first: no such picture"),
            ("failure", 2, f"{said} first: another"),
        ]

    played(scenario)


def test_an_engine_that_was_refused_is_as_unproven_as_its_successor():
    async def scenario(weights, workers, fleet, changes, loaded):
        await weights.publish(7, ["ref"], False, loaded)
        sample(weights, 0)
        await weights.bring(1)
        workers[1].apart = 1.0
        with pytest.raises(ParityError):
            await weights.bring(1)
        assert list(weights.unproven()) == [1]

    played(scenario, 1)
