"""Which rank gets which trajectories: balanced, the same in whatever order they came."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cluster.stream.ledger import Batch
from cluster.stream.shares import BufferedTrajectory, Shares, shards
from learner.minibatches import update_minibatches
from rollout.trajectory_summary import TrajectorySummary
from tests.support.learner import config


def stored(name, tokens, block=None, row=0, worker=0):
    summary = TrajectorySummary(name, "terminated", "", 1.0, tokens, 3, 0, {})
    return BufferedTrajectory(block or name, row, summary, worker)


def blocks_of(n, size):
    """Trajectories in blocks of so many, which finished in another order than their names'."""
    names = [f"t/{i:03d}" for i in range(n)]
    random.Random(1).shuffle(names)
    lengths = random.Random(2)
    return [
        stored(name, lengths.randint(50, 90), f"block {i // size}", i % size)
        for i, name in enumerate(names)
    ]


def rows(*arguments, **options):
    """The rows of each rank."""
    return [shard.rows for shard in shards(*arguments, **options)]


def tokens_of(shard, trajectories):
    tokens = {(t.block, t.row): t.summary.tokens for t in trajectories}
    return sum(tokens[block, row] for block, numbers, _ in shard for row in numbers)


def test_ranks_get_equally_many_tokens_longest_first():
    lengths = {"a": 3, "b": 9, "c": 4, "d": 3, "e": 1}
    trajectories = [stored(*item) for item in lengths.items()]
    dealt = [[place.block for place in share] for share in rows(trajectories, 2)]
    assert dealt == [["b", "e"], ["a", "c", "d"]]
    assert shards(trajectories[::-1], 2) == shards(trajectories, 2), "whatever order they came in"


@pytest.mark.parametrize("by_block", [True, False])
def test_every_trajectory_has_one_rank_and_a_rank_names_a_block_once(by_block):
    trajectories = blocks_of(64, 4)
    dealt = rows(trajectories, 4, by_block=by_block)
    places = [(block, row) for shard in dealt for block, numbers, _ in shard for row in numbers]
    assert sorted(places) == sorted((t.block, t.row) for t in trajectories)
    for shard in dealt:
        assert len({block for block, _, _ in shard}) == len(shard)


def test_a_rank_is_told_who_played_each_block():
    played = [stored(f"t/{i}", 5, f"block {i // 2}", i % 2, worker=i // 4) for i in range(8)]
    dealt = [place for shard in rows(played, 2) for place in shard]
    assert {(place.block, place.worker) for place in dealt} == {
        ("block 0", 0),
        ("block 1", 0),
        ("block 2", 1),
        ("block 3", 1),
    }


def test_a_block_stays_together_where_tokens_stay_balanced():
    trajectories = blocks_of(512, 8)
    fetched, most = {}, {}
    for by_block in (False, True):
        dealt = rows(trajectories, 4, by_block=by_block)
        fetched[by_block] = sum(map(len, dealt))
        loads = [tokens_of(shard, trajectories) for shard in dealt]
        most[by_block] = max(loads) / (sum(loads) / 4)
    assert fetched[False] > 3 * 64, "each rank fetches nearly every block"
    assert fetched[True] < 1.5 * 64
    assert most[True] < 1.02


def test_without_blocks_ranks_depend_on_the_trajectories_alone():
    trajectories = blocks_of(64, 4)
    moved = [
        stored(t.summary.id, t.summary.tokens, "one block", i) for i, t in enumerate(trajectories)
    ]
    names = {(t.block, t.row): t.summary.id for t in [*trajectories, *moved]}

    def dealt(some):
        return [sorted(names[b, r] for b, rows, _ in s for r in rows) for s in rows(some, 4)]

    assert dealt(trajectories) == dealt(moved)


@pytest.mark.parametrize("by_block", [True, False])
def test_each_rank_has_its_own_of_each_minibatch_in_the_order_of_the_minibatch(by_block):
    trajectories = blocks_of(64, 4)
    names = [t.summary.id for t in trajectories]
    minibatches = [names[:32], names[32:60], names[:10]]
    places = {(t.block, t.row): t.summary.id for t in trajectories}
    dealt = shards(trajectories, 4, minibatches, by_block=by_block)
    for shard in dealt:
        own = {places[block, row] for block, numbers, _ in shard.rows for row in numbers}
        assert shard.minibatches == [[n for n in ids if n in own] for ids in minibatches]
    assert all(shard.minibatches[0] for shard in dealt)


def ended(name, tokens, reward, **metrics):
    summary = TrajectorySummary(name, "terminated", "", reward, tokens, 3, 0, metrics)
    return BufferedTrajectory(name, 0, summary, 0)


def test_figures_of_an_update_are_of_groups_that_it_passed_over_too():
    kept = [ended("a/0", 10, 2.0, success=1.0, first_try=1.0), ended("a/1", 20, -1.0, success=0.0)]
    passed = [ended(f"b/{i}", 30 + i, -4.0, success=0.0, legs=i, first_try=0.0) for i in range(3)]
    made = Shares(config())
    made.deal(1, Batch(kept, passed, [2], [], 2))
    share = made.take(1, 0, {})
    assert [part.block for part in share.rows] == ["a/0", "a/1"], "trained on are the others alone"
    assert share.played == {
        "episodes_played": 5,
        "tokens_played": 10 + 20 + 30 + 31 + 32,
        "reward": (2 - 1 - 3 * 4) / 5,
        "success": 1 / 5,
        "first_try": 1 / 4,
        "metric_legs": 1.0,
    }
    made.deal(2, Batch(kept, [], [2], [], 2))
    assert made.take(2, 0, {}).played == {}, "then the learner's own figures are of everything"


def two_ranks():
    cfg = config(epochs=2, minibatch=4)
    return replace(cfg, learner=replace(cfg.learner, ranks=2))


def test_a_batch_is_cut_into_the_minibatches_that_the_learner_makes_of_it():
    """Else `learner.ppo` refuses the steps that were packed ahead."""
    cfg, played = two_ranks(), blocks_of(12, 4)
    first = played[0]
    silent = replace(first, summary=replace(first.summary, action_tokens=0))
    made = Shares(cfg)
    made.deal(3, Batch([silent, *played[1:]], [], [12], [], 12))
    steps = zip(*(made.take(3, rank, {}).minibatches for rank in range(2)), strict=True)
    learned = update_minibatches([t.summary.id for t in played[1:]], cfg.ppo, cfg.seed, 2)
    assert [sorted(own + others) for own, others in steps] == [sorted(ids) for ids in learned]


def test_each_rank_has_its_own_share_whichever_asks_first():
    made, played = Shares(two_ranks()), blocks_of(12, 4)
    made.hold(played)
    taken = []
    for order in ((0, 1), (1, 0)):
        made.deal(1, Batch(played, [], [12], [], 12))
        shares = {rank: made.take(1, rank, {}).rows for rank in order}
        taken.append([shares[0], shares[1]])
        assert 1 not in made, "each share is given once"
    assert taken[0] == taken[1]
    assert taken[0][0] != taken[0][1]
    assert [made.shard(rank) for rank in (1, 0)] == rows(played, 2)[::-1]
    alone = Shares(config())
    alone.hold(played)
    assert [alone.shard(0)] == rows(played, 1)
