"""A cluster in virtual time: no episode is favoured, and at staleness 2 both sides are busy."""

import asyncio
from itertools import islice
from types import SimpleNamespace

import pytest

from benchmarks.simulation import engine
from benchmarks.simulation.costs import constant_speeds
from benchmarks.simulation.durations import Speeds, episode_tokens, matched, turns
from benchmarks.simulation.engine import simulated_worker
from benchmarks.simulation.virtual import VirtualCluster
from cluster.stream.ledger import Ledger
from cluster.stream.training_episodes import training_groups
from configs.schema import PPOConfig, RolloutConfig, RunConfig
from rollout.episode import EpisodeRequest
from rollout.trajectory import from_block
from tests.support import virtual_time


def config(staleness, engines=16, in_flight=4, episodes=512, group_size=1):
    ppo = PPOConfig(updates=1000, episodes=episodes, max_staleness=staleness, group_size=group_size)
    return RunConfig(ppo=ppo, rollout=RolloutConfig(workers=engines, in_flight=in_flight, block=4))


def run(cfg, updates, ledger=None):
    costs = constant_speeds(cfg, matched(cfg, 100.0))
    return VirtualCluster(cfg, costs, ledger or Ledger()).run(updates)


def share_of_long(seeds):
    """Of episodes that are among the longest tenth: those of at least this many tokens."""
    return sum(episode_tokens(seed) >= 400 for seed in seeds) / len(seeds)


def played(cfg, episodes):
    """Seeds of the first episodes that are admitted."""
    groups = training_groups(cfg, 0)
    requests = (request for _, group in groups for request in group)
    return [request.seed for request in islice(requests, episodes)]


class FinishedFirst(Ledger):
    """What a buffer does that hands out whatever has finished."""

    def take(self, update):
        self._ahead.sort(key=lambda group: not group.finished)
        return super().take(update)


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_long_episodes_are_trained_on_as_often_as_they_are_played(staleness, group_size):
    cfg = config(staleness, engines=8, in_flight=2, episodes=64, group_size=group_size)
    trained = run(cfg, 4).trained
    assert trained == played(cfg, len(trained))
    assert share_of_long(trained) == share_of_long(played(cfg, len(trained))) > 0.05


def test_a_ledger_that_takes_what_has_finished_would_be_seen_to_favour_short_ones():
    cfg = config(2, engines=8, in_flight=2, episodes=64)
    trained = run(cfg, 1, FinishedFirst()).trained[:128]
    assert share_of_long(trained) < 0.8 * share_of_long(played(cfg, len(trained)))


def test_at_staleness_2_neither_side_waits_and_twice_as_much_is_trained_on():
    ahead, lockstep = run(config(2), 6), run(config(0), 6)
    assert ahead.learner_idle <= 0.05
    assert ahead.rollout_idle <= 0.05
    assert ahead.episodes_per_s >= 2 * lockstep.episodes_per_s
    assert lockstep.learner_idle > 0.3
    assert lockstep.rollout_idle > 0.3


def test_lengths_have_a_heavy_tail_and_are_the_seeds_own():
    lengths = sorted(map(episode_tokens, range(4000)))
    assert lengths[-1] > 6 * sum(lengths) / len(lengths)
    assert [episode_tokens(7), episode_tokens(8)] == [episode_tokens(7), episode_tokens(8)]


def test_a_simulated_engine_plays_under_the_real_worker_and_weights_arrive_meanwhile(monkeypatch):
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=virtual_time.now))
    speeds = Speeds(token_s=2e-4, learner_token_s=0.0, load_s=0.02)

    async def play():
        worker = simulated_worker(speeds, in_flight=8, block=4, block_age_s=0.2)
        await worker.engine.receive(0, [])
        requests = [EpisodeRequest(f"{i:02d}", "rollout", i, i) for i in range(16)]
        await worker.submit(requests)
        await asyncio.sleep(0.02)
        paused = await worker.engine.receive(1, [])
        played = []
        while len(played) < len(requests):
            block, _ = await worker.next_block()
            played += from_block(block)
        load = worker.total_load()
        await worker.shutdown()
        return requests, played, paused, load

    requests, played, paused, load = virtual_time.run(play())
    assert sorted(t.id for t in played) == [r.id for r in requests]
    assert all(len(t.turns) == turns(t.seed) for t in played)
    assert paused == pytest.approx(0.02)
    assert load.tokens == sum(t.action_tokens for t in played)
    versions = [s.policy_versions[s.action_mask].tolist() for t in played for s in t.segments]
    assert all(v == sorted(v) for v in versions), "a sequence goes on under newer weights"
    assert any(set(v) == {0, 1} for v in versions)
    assert {v for each in versions for v in each} == {0, 1}
