"""A rank's part of an update is packed before it is scored, and each token gets its own columns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from learner.batch import microbatches
from learner.engine import TrainingEngine
from learner.minibatches import update_minibatches
from learner.packed_update import PackedUpdate, pack, pack_ahead
from learner.ppo import ppo_steps, ppo_update
from learner.training_trajectory import prepare, training_sequences
from rollout.trajectory import Trajectory
from tests.support.learner import config, save_llama, trajectories

PPO = config().ppo
GRPO = config(estimator="grpo").ppo
ONE_STEP = config(estimator="grpo", epochs=1, minibatch=12).ppo


class Packer:
    """Packs into small microbatches, whose order is not that of the sequences.

    packed: how many sequences, by call.
    """

    def __init__(self, packing="packed"):
        self._pack = partial(microbatches, token_budget=64, packing=packing)
        self.packed = []

    def microbatches(self, sequences):
        self.packed.append(len(sequences))
        return self._pack(sequences)


def tokens_of(played: list[Trajectory]) -> np.ndarray:
    """The action tokens of all trajectories, one after another."""
    segments = [s for t in played for s in t.segments]
    return np.concatenate([s.token_ids[s.action_mask] for s in segments])


def minibatches_of(played, seed=3):
    return update_minibatches([t.id for t in played], config().ppo, seed, 0)


@pytest.mark.parametrize("packing", ["packed", "padded", "flat"])
@pytest.mark.parametrize("level", ["turn", "token"])
def test_each_token_and_value_gets_its_own_columns(packing, level):
    played = trajectories(9)
    prepared = prepare(played, level)
    minibatches = minibatches_of(played)
    packed = pack(Packer(packing), config(value_level=level).ppo, prepared, minibatches)
    tokens = tokens_of(played).astype(np.float32)
    read = [s.token_ids[s.value_positions] for t in prepared for s in training_sequences(t)]
    values = np.concatenate(read).astype(np.float32)
    assert len(values) == sum(t.states for t in prepared)
    assert len(packed.steps) == len(minibatches) == 6
    for step, ids in zip(packed.steps, minibatches, strict=True):
        assert step.ids == ids
        filled = step.with_columns({"token": tokens, "next": tokens + 1}, {"value": values})
        assert sum(m.tokens for m in filled) > 0
        for m in filled:
            flat = m.token_ids.flatten()
            assert torch.equal(m.token_columns["token"], flat[m.actions].float())
            assert torch.equal(m.token_columns["next"], flat[m.actions].float() + 1)
            assert torch.equal(m.value_columns["value"], flat[m.value_positions].float())
        own = tokens_of([t for t in played if t.id in ids])
        assert sum(len(m.actions) for m in filled) == len(own)


def same(a, b) -> bool:
    """Whether two microbatches are equal to the last bit."""
    fields = vars(a).keys()
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields - {"pictures"})


def test_a_step_is_packed_as_its_trajectories_would_be_alone():
    played = trajectories(9)
    prepared = {t.trajectory.id: t for t in prepare(played, "turn")}
    packer = Packer()
    packed = pack(packer, PPO, [*prepared.values()], minibatches_of(played))
    for step in packed.steps:
        sequences = [s for name in step.ids for s in training_sequences(prepared[name])]
        alone = packer.microbatches(sequences)
        assert len(alone) == len(step.microbatches)
        assert all(map(same, step.microbatches, alone))
    scored = [s for t in prepared.values() for s in t.sequences]
    assert all(map(same, packed.scored, packer.microbatches(scored)))


def test_what_no_pass_will_score_is_not_packed_for_one():
    played = trajectories(12)
    ids, segments = [t.id for t in played], sum(len(t.segments) for t in played)
    packer = Packer()
    ahead = pack_ahead(packer, ONE_STEP, played, [ids])
    assert ahead.scored == []
    assert packer.packed == [segments]
    assert pack_ahead(packer, PPO, played, [ids]).scored
    assert packer.packed == [segments] * 3


def test_a_rank_packs_its_own_alone_and_may_have_none_in_a_step():
    played = trajectories(8)
    own, ids = played[::2], [t.id for t in played]
    minibatches = [ids[:3], [ids[1], ids[5]], ids[::-1]]
    packed = pack(Packer(), PPO, prepare(own, "turn"), minibatches)
    assert [step.ids for step in packed.steps] == [[ids[0], ids[2]], [], ids[::-1][1::2]]
    assert packed.steps[1].with_columns({"x": np.zeros(9, np.float32)}, {}) == []
    ahead = pack_ahead(Packer(), PPO, own, [step.ids for step in packed.steps])
    assert [step.ids for step in ahead.steps] == [step.ids for step in packed.steps]
    for a, b in zip(ahead.steps, packed.steps, strict=True):
        assert all(map(same, a.microbatches, b.microbatches))


def test_a_rank_without_trajectories_packs_nothing():
    failed = replace(trajectories(1)[0], segments=(), end="failed", failure="x", bootstrap=False)
    packed = pack_ahead(Packer(), PPO, [failed], [["a"], []])
    assert packed == PackedUpdate([], [], packed.steps)
    assert [step.microbatches for step in packed.steps] == [[], []]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("packed") / "model")


def updates(folder, ahead):
    """Metrics of two updates; `ahead` packs a batch by its minibatches, or says None."""
    cfg = config(budget=128, estimator="grpo")
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, ppo_steps(cfg.ppo), False)
    found = []
    for update in range(2):
        played = trajectories(12, seed=update)
        own = update_minibatches([t.id for t in played], cfg.ppo, cfg.seed, update)
        found.append(ppo_update(engine, played, cfg, update, packed=ahead(engine, played, own)))
    engine.close()
    return found


def test_what_was_packed_ahead_takes_the_same_steps_to_the_last_bit(folder):
    alone = updates(folder, lambda *_: None)
    assert updates(folder, lambda e, *batch: pack_ahead(e, GRPO, *batch)) == alone
    assert alone[0]["loss"] != alone[1]["loss"]


def test_steps_that_were_packed_for_others_are_not_taken(folder):
    def another_order(engine, played, minibatches):
        return pack_ahead(engine, GRPO, played, minibatches[::-1])

    with pytest.raises(AssertionError, match="packed for other minibatches"):
        updates(folder, another_order)
