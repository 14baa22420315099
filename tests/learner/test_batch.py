"""Every packing holds each sequence once, apart from the others, and indexes the right tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner import batch
from learner.batch import Sequence, microbatches
from rollout.pictures import Picture


def random_sequences(n, seed, longest=40):
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(n):
        length = int(rng.integers(2, longest))
        mask = rng.random(length) < 0.4
        mask[0] = False
        positions = np.sort(rng.choice(length, int(rng.integers(0, 3)), replace=False))
        sequences.append(Sequence(rng.integers(1, 1000, length), mask, positions))
    return sequences


@pytest.mark.parametrize("packing", batch.PACKINGS)
@pytest.mark.parametrize("budget", [1, 64, 256, 4096])
def test_nothing_is_lost_or_moved(packing, budget):
    sequences = random_sequences(23, seed=budget)
    packed = microbatches(sequences, budget, packing)
    assert sorted(i for m in packed for i in m.order) == list(range(23))
    for m in packed:
        assert m.token_ids.numel() <= budget or m.token_ids.shape[0] == 1
        parts = [sequences[i] for i in m.order]
        masks = [s.action_mask for s in parts]
        ids = m.token_ids.flatten()
        expected = np.concatenate([s.token_ids[k] for s, k in zip(parts, masks, strict=True)])
        assert np.array_equal(ids[m.actions], expected)
        expected = np.concatenate([s.token_ids[s.value_positions] for s in parts])
        assert np.array_equal(ids[m.value_positions], expected)
        positions = m.position_ids.flatten()
        assert np.array_equal(
            positions[m.actions], np.concatenate([np.flatnonzero(k) for k in masks])
        )
        assert m.action_counts.tolist() == [int(k.sum()) for k in masks]
        assert m.value_counts.tolist() == [len(s.value_positions) for s in parts]
        assert m.tokens == sum(len(s.token_ids) for s in parts)


@pytest.mark.parametrize("packing", batch.PACKINGS)
@pytest.mark.parametrize("budget", [1, 3, 8, 1000])
def test_no_more_pictures_than_their_budget(packing, budget):
    """But in one row, which cannot be cut: sequences with many, and rows of several."""
    rng = np.random.default_rng(budget)
    picture = Picture.of(np.zeros((2, 2, 3), np.uint8))
    sequences = [
        replace(sequence, pictures=(picture,) * int(rng.integers(0, 5)))
        for sequence in random_sequences(40, seed=budget)
    ]
    packed = microbatches(sequences, 400, packing, budget)
    assert sorted(i for m in packed for i in m.order) == list(range(40))
    for m in packed:
        counts = [len(sequences[i].pictures) for i in m.order]
        assert m.picture_counts.tolist() == counts
        alone = np.count_nonzero(counts) == 1 if packing == "flat" else len(m.token_ids) == 1
        assert sum(counts) <= budget or alone
    filled = [sum(m.picture_counts) for m in packed]
    assert budget < 1000 or len(packed) == len(microbatches(sequences, 400, packing, 10**6))
    assert max(filled) >= min(budget, 4)


def test_turns_are_the_runs_of_the_action_mask():
    a = Sequence(np.arange(7), np.array([0, 1, 1, 0, 1, 0, 1], bool))
    b = Sequence(np.arange(3), np.array([0, 1, 1], bool))
    (m,) = microbatches([a, b], 64, "padded")
    assert m.order.tolist() == [0, 1]
    assert m.turns.tolist() == [0, 0, 1, 2, 3, 3]


def test_packed_rows_restart_their_positions_and_end_in_padding():
    lengths = [6, 2, 3]
    sequences = [Sequence(np.ones(n, int), np.arange(n) == n - 1) for n in lengths]
    (m,) = microbatches(sequences, 64, "packed")
    assert m.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 0]]
    (m,) = microbatches(sequences, 64, "flat")
    assert m.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 0, 1, 2]]


def test_padded_rows_hold_sequences_of_similar_length():
    sequences = [Sequence(np.ones(n, int), np.arange(n) > 0) for n in [10] * 50 + [100] * 50]
    packed = microbatches(sequences, 10_000, "padded")
    assert sorted(m.token_ids.shape for m in packed) == [(50, 10), (50, 100)]


def test_shapes_of_short_sequences_recur():
    shapes, tokens, rng = set(), 0, np.random.default_rng(0)
    for _ in range(50):
        lengths = 7 + rng.binomial(18, 0.5, 64)
        sequences = [Sequence(np.ones(n, int), np.arange(n) > 0) for n in lengths]
        packed = microbatches(sequences, 4096, "padded")
        tokens += sum(m.token_ids.numel() for m in packed) / lengths.sum() / 50
        assert all(len(m.token_ids) % 16 == 0 for m in packed)
        shapes |= {tuple(m.token_ids.shape) for m in packed}
    assert len(shapes) < 40
    assert tokens < 1.2


def test_long_sequences_are_cut_at_every_length():
    lengths = [900, 600, 590, 300]
    sequences = [Sequence(np.ones(n, int), np.arange(n) > 0) for n in lengths]
    packed = microbatches(sequences, 4096, "padded")
    assert sorted(m.token_ids.shape for m in packed) == [(1, 300), (1, 900), (2, 600)]


def test_auto_packs_where_padding_is_expensive():
    sequences = [Sequence(np.ones(n, int), np.arange(n) > 0) for n in [30] + [3] * 10]
    (m,) = microbatches(sequences, 4096, "auto")
    assert m.token_ids.shape == (2, 30)


@pytest.mark.parametrize("packing", batch.PACKINGS)
@pytest.mark.parametrize("n", [41, 97])
def test_microbatches_are_as_few_as_can_be_and_about_equally_large(packing, n):
    """Ranks whose shares are equally large then go through equally large microbatches."""
    sequences = [Sequence(np.ones(20, int), np.arange(20) > 0)] * n
    packed = microbatches(sequences, 400, packing)
    sizes = [m.tokens for m in packed]
    assert len(packed) == -(-n // 20)
    assert max(sizes) - min(sizes) <= 20


@pytest.mark.parametrize("seed", range(5))
def test_flat_rows_are_level_and_keep_the_order(seed):
    sequences = random_sequences(60, seed, longest=60)
    tokens = sum(len(s.token_ids) for s in sequences)
    packed = microbatches(sequences, 300, "flat")
    sizes = [m.tokens for m in packed]
    assert len(packed) <= -(-tokens // 300) + 1
    assert max(sizes) - min(sizes) < 60
    assert all(m.order.tolist() == sorted(m.order) for m in packed)


def test_what_no_flat_row_holds_gets_its_own():
    lengths, pictures = [6, 2, 3, 100, 1], [0, 0, 9, 0, 0]
    picture = Picture.of(np.zeros((2, 2, 3), np.uint8))
    sequences = [
        Sequence(np.ones(n, int), np.arange(n) > 0, pictures=(picture,) * shown)
        for n, shown in zip(lengths, pictures, strict=True)
    ]
    packed = microbatches(sequences, 9, "flat", picture_budget=4)
    assert sorted(m.order.tolist() for m in packed) == [[0, 1, 4], [2], [3]]


def test_to_moves_every_tensor():
    (m,) = microbatches(random_sequences(3, 0), 4096)
    column = torch.zeros(2)
    moved = replace(m, token_columns={"column": column}, value_columns={"target": column})
    moved = moved.to("meta")
    tensors = [moved.token_ids, moved.position_ids, moved.actions, moved.value_positions]
    tensors += [moved.turns, moved.token_columns["column"], moved.value_columns["target"]]
    assert all(t.device == torch.device("meta") for t in tensors)


def test_bad_input():
    ids = np.arange(3)
    with pytest.raises(ValueError, match=r"action_mask\[0\]"):
        Sequence(ids, np.array([True, False, False]))
    with pytest.raises(ValueError, match="empty"):
        Sequence(ids[:0], np.zeros(0, bool))
    with pytest.raises(ValueError, match="action_mask has 2 entries, token_ids 3"):
        Sequence(ids, np.zeros(2, bool))
    with pytest.raises(ValueError, match="packing is 'dense'"):
        microbatches([], 10, "dense")
    assert microbatches([], 10) == []


@pytest.mark.parametrize("length", [3, 30], ids=["shorter", "longer"])
@pytest.mark.parametrize("rows", [[[0, 1, 2]], [[0]], [[0, 1], [2]]], ids=str)
def test_what_is_appended_leaves_one_row_one_and_moves_nothing(rows, length):
    """Flash attention isolates the sequences of a row only where there is no second one."""
    own = batch.build(random_sequences(3, seed=1), rows)
    joined = batch.append(own, batch.dummy(list(range(100, 100 + length))))
    assert len(joined.token_ids) == (1 if len(rows) == 1 else len(rows) + 1)
    flat, before = joined.token_ids.flatten(), own.token_ids.flatten()
    assert torch.equal(flat[joined.actions], before[own.actions])
    assert torch.equal(flat[joined.value_positions], before[own.value_positions])
    positions = joined.position_ids.flatten()
    for i, start in enumerate(own.sequence_starts):
        at, n = joined.sequence_starts[i], own.lengths[i]
        assert torch.equal(flat[at : at + n], before[start : start + n])
        assert positions[at : at + n].tolist() == list(range(n))
    at = joined.sequence_starts[-1]
    assert flat[at : at + length].tolist() == list(range(100, 100 + length))
    assert positions[at : at + length].tolist() == list(range(length))
    assert joined.lengths.tolist() == [*own.lengths, length]
