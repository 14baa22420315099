"""Whole runs in virtual time against closed forms, where nothing waits by chance."""

from dataclasses import replace

import pytest

from benchmarks.simulation.costs import (
    BufferCosts,
    Costs,
    EngineCosts,
    LearnerCosts,
    PassCosts,
    SyncCosts,
    TurnTokens,
)
from benchmarks.simulation.virtual import VirtualCluster
from cluster.stream.ledger import Ledger
from configs.schema import PPOConfig, RolloutConfig, RunConfig

EPISODES = 8
COSTS = Costs(
    workload=lambda seed: [TurnTokens(10, 20)],
    engine=EngineCosts(step_s=0.01, sequence_s=0.001, request_s=0.02),
    learner=LearnerCosts(PassCosts(0.001), PassCosts(0.0002), optimizer_s=0.1),
    sync=SyncCosts(sent_s=0.05, load_s=0.25),
    buffer=BufferCosts(block_s=0.003, trajectory_s=0.001, block_age_s=1.0, call_s=0.007),
)
PLAY = 8 * 0.02 + 20 * 0.018
DELIVERY = 4 * 0.007 - 0.007 + 0.003 + 8 * 0.001  # requests, the block, the batch: a call each
LEARN = 240 * 0.0002 + 2 * (120 * 0.001 + 0.1)


def config(staleness=0, workers=1, in_flight=8):
    ppo = PPOConfig(
        updates=10**4, episodes=EPISODES, minibatch=4, epochs=1, max_staleness=staleness
    )
    return RunConfig(
        ppo=ppo, rollout=RolloutConfig(workers=workers, in_flight=in_flight, block=EPISODES)
    )


def run(cfg, costs=COSTS, updates=3):
    return VirtualCluster(cfg, costs, Ledger()).run(updates)


def test_in_lockstep_all_parts_follow_each_other():
    found = run(config())
    whole = PLAY + DELIVERY + LEARN + 0.05 + 0.25
    assert found.update_s == pytest.approx(whole)
    assert found.learner_idle == pytest.approx((PLAY + DELIVERY + 0.25) / whole)
    assert found.engine_idle == pytest.approx(1 - PLAY / whole)
    assert found.rollout_idle == pytest.approx(1 - PLAY / whole)
    assert found.buffer_busy == pytest.approx((0.003 + 8 * 0.001) / whole)
    assert found.sync_s == pytest.approx(0.05)
    assert found.episodes_per_s == pytest.approx(8 / whole)
    assert found.tokens_per_s == pytest.approx(240 / whole)
    assert found.action_tokens_per_s == pytest.approx(160 / whole)


def test_ahead_a_slow_learner_never_waits():
    slow = replace(COSTS.learner, optimizer_s=2.0)
    found = run(config(staleness=1), replace(COSTS, learner=slow))
    assert found.update_s == pytest.approx(240 * 0.0002 + 2 * (120 * 0.001 + 2.0) + 0.05)
    assert found.learner_idle == pytest.approx(0.0)


def test_ahead_a_slow_engine_never_rests_but_for_weights():
    slow = replace(COSTS.engine, step_s=0.5)
    found = run(config(staleness=2), replace(COSTS, engine=slow), updates=6)
    # 8 places, as many as an update has episodes: the engine plays one batch after another
    assert found.update_s == pytest.approx(8 * 0.02 + 20 * 0.508 + 0.25, rel=0.01)
    assert found.engine_idle == pytest.approx(0.25 / found.update_s, abs=0.005)


def test_two_engines_play_half_each_and_load_one_after_another():
    found = run(config(workers=2))
    play = 4 * 0.02 + 20 * 0.014
    # two blocks of four come at once: the second waits for the first
    delivery = 3 * 0.007 + 2 * 0.003 + 8 * 0.001
    assert found.update_s == pytest.approx(play + delivery + LEARN + 0.05 + 2 * 0.25)


def test_engines_of_two_nodes_load_at_once_after_the_weights_have_travelled():
    costs = replace(COSTS, engines_of_a_node=1, sync=replace(COSTS.sync, travel_s=0.4))
    found, lockstep = run(config(workers=2), costs), run(config(workers=2))
    assert found.update_s == pytest.approx(lockstep.update_s - 0.25 + 0.4)


def test_a_collective_publish_pauses_all_engines():
    costs = replace(COSTS, sync=SyncCosts(sent_s=0.7, load_s=9.0, collective=True))
    assert run(config(), costs).update_s == pytest.approx(PLAY + DELIVERY + LEARN + 0.7)
    slow = replace(costs, engine=replace(COSTS.engine, step_s=0.5))
    found = run(config(staleness=2), slow, updates=6)
    assert found.engine_idle == pytest.approx(0.7 / found.update_s, abs=0.005)


def test_on_shared_cores_both_sides_slow_each_other():
    """One core, one thread each, the learner the longer part: it takes its own and the engine's."""
    learner = replace(COSTS.learner, optimizer_s=2.0, threads=1.0)
    costs = replace(COSTS, learner=learner, engine=replace(COSTS.engine, threads=1.0), cores=1.0)
    found = run(config(staleness=1), costs)
    alone = 240 * 0.0002 + 2 * (120 * 0.001 + 2.0) + 0.05
    assert found.update_s == pytest.approx(alone + PLAY, rel=0.01)


def test_a_turn_after_new_weights_reads_its_whole_context_again():
    turns = [TurnTokens(100, 10), TurnTokens(5, 10)]
    engine = EngineCosts(step_s=0.01, prompt_token_s=0.001)
    costs = replace(COSTS, workload=lambda seed: turns, engine=engine, environment_s=0.3)
    found = run(config(in_flight=1), costs)
    play = EPISODES * (0.100 + 0.005 + 20 * 0.01 + 2 * 0.3)
    delivery = 3 * 0.007 + 0.003 + 2 * 0.001  # others of its blocks went after a second each
    learn = 1000 * 0.0002 + 2 * (500 * 0.001 + 0.1)
    assert found.update_s == pytest.approx(play + delivery + learn + 0.05 + 0.25)
    ahead = replace(costs, sync=SyncCosts(), learner=LearnerCosts(PassCosts(0.0), PassCosts(0.0)))
    # an engine that is given weights between the turns of one episode an update reads 110 more
    one = run(config(staleness=1, in_flight=1), ahead, updates=6)
    assert EPISODES * 0.905 < one.update_s <= EPISODES * 0.905 + 0.115
