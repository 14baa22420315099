"""Minibatches depend on seed and ids alone; each is dealt to ranks in about equal parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import PPOConfig
from learner.minibatches import deal, minibatches, update_minibatches

IDS = [f"t/{i:02d}" for i in range(11)]


def loads(tokens, parts, rank_of, ranks):
    """Tokens of each part on each rank, [parts, ranks]."""
    table = np.zeros((len(parts), ranks), int)
    for number, part in enumerate(parts):
        for key in part:
            table[number, rank_of[key]] += tokens[key]
    return table


def test_minibatches_cover_the_batch_by_seed():
    first = minibatches(IDS, 4, (0, 0, 0))
    assert sorted(len(part) for part in first) == [3, 4, 4]
    assert sorted(i for part in first for i in part) == IDS
    assert first == minibatches(IDS, 4, (0, 0, 0))
    assert first != minibatches(IDS, 4, (0, 0, 1))
    assert first != minibatches(IDS, 4, (0, 1, 0))


def test_an_update_cuts_its_batch_anew_in_each_epoch():
    ppo = PPOConfig(epochs=3, minibatch=4)
    steps = update_minibatches(reversed(IDS), ppo, 5, 2)
    assert steps == [m for epoch in range(3) for m in minibatches(IDS, 4, (5, 2, epoch))]
    assert steps != update_minibatches(IDS, ppo, 5, 3)
    assert update_minibatches([], ppo, 5, 2) == []


@pytest.mark.parametrize(
    ("ranks", "epochs", "most"), [(2, 1, 1.02), (2, 4, 1.03), (8, 1, 1.1), (8, 4, 1.15)]
)
@pytest.mark.parametrize("spread", ["narrow", "heavy"])
def test_every_minibatch_and_the_batch_are_balanced(ranks, epochs, most, spread):
    """The slowest rank of each step against the mean, summed over the steps of an update."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(10, 40, 256) if spread == "narrow" else rng.lognormal(6, 0.8, 256)
    tokens = {f"t/{i:03d}": int(n) for i, n in enumerate(lengths)}
    steps = update_minibatches(tokens, PPOConfig(epochs=epochs, minibatch=64), 0, 0)
    rank_of = deal(tokens, steps, ranks)
    table = loads(tokens, steps, rank_of, ranks)
    assert table.max(1).sum() / table.mean(1).sum() < most
    total = loads(tokens, [tokens], rank_of, ranks)[0]
    assert total.max() / total.mean() < 1.05
    over_all = loads(tokens, steps, deal(tokens, [], ranks), ranks)  # the batch alone, as a control
    assert over_all.max(1).sum() > table.max(1).sum()


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_a_single_part_differs_by_no_more_than_its_longest_item(lengths, ranks):
    tokens = dict(enumerate(lengths))
    rank_of = deal(tokens, [], ranks)
    assert rank_of.keys() == tokens.keys()
    (load,) = loads(tokens, [tokens], rank_of, ranks)
    assert load.max() - load.min() <= max(lengths, default=0)
    assert rank_of == deal(tokens, [list(tokens)], ranks)


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60),
    st.integers(1, 8),
    st.integers(1, 20),
    st.integers(1, 3),
)
def test_each_item_has_one_rank_whatever_the_parts(lengths, ranks, size, epochs):
    tokens = {f"{i:02d}": n for i, n in enumerate(lengths)}
    steps = update_minibatches(tokens, PPOConfig(epochs=epochs, minibatch=size), 1, 1)
    rank_of = deal(tokens, steps, ranks)
    assert sorted(rank_of) == sorted(tokens)
    assert set(rank_of.values()) <= set(range(ranks))
    assert rank_of == deal(dict(tokens), [list(step) for step in steps], ranks)


@pytest.mark.parametrize(("minibatch", "most", "share"), [(1024, 1.01, 0.4), (256, 1.02, 0.65)])
def test_a_block_stays_on_few_ranks_and_every_minibatch_balanced(minibatch, most, share):
    rng = np.random.default_rng(4)
    tokens = {f"t/{i:04d}": int(n) for i, n in enumerate(rng.lognormal(6, 0.8, 1024))}
    finished = rng.permutation(1024)  # in blocks of 16, as they finished
    block_of = {f"t/{i:04d}": place // 16 for place, i in enumerate(finished)}
    steps = update_minibatches(tokens, PPOConfig(epochs=2, minibatch=minibatch), 0, 0)
    fetches = {}
    for blocks in (None, block_of):
        rank_of = deal(tokens, steps, 4, blocks)
        table = loads(tokens, steps, rank_of, 4)
        assert table.max(1).sum() / table.mean(1).sum() < most
        fetches[blocks is None] = len({(rank_of[key], block_of[key]) for key in tokens})
    assert fetches[False] < share * fetches[True]
