"""Trajectories as the learner sees them: positions, rewards, columns."""

from __future__ import annotations

import numpy as np
import pytest

from learner.batch import microbatches
from learner.model import Scores
from learner.training_trajectory import episode, scored, training_sequences
from rollout.trajectory import Segment, Trajectory, Turn
from tests.support.learner import trajectories


def play(turns, length, *, bootstrap=False):
    mask = np.zeros(length, bool)
    for turn in turns:
        mask[turn.begin : turn.end] = True
    behavior = np.where(mask, -np.arange(length) / 10, 0).astype(np.float32)
    versions = np.where(mask, 3, -1).astype(np.int32)
    segment = Segment(np.arange(length, dtype=np.int32), mask, behavior, versions, tuple(turns))
    end = "truncated" if bootstrap else "terminated"
    return Trajectory("a", "e", "train", 0, 0, (segment,), end, bootstrap=bootstrap)


def test_values_are_read_at_the_last_prompt_token():
    played = play([Turn(3, 5, 1.0), Turn(7, 8, 2.0)], 8)
    assert episode(played, "turn").sequences[0].value_positions.tolist() == [2, 6]
    assert episode(played, "token").sequences[0].value_positions.tolist() == [2, 3, 6]


@pytest.mark.parametrize("level", ["turn", "token"])
def test_bootstrap_is_read_at_the_end_and_not_trained_on(level):
    e = episode(play([Turn(3, 5, 1.0)], 9, bootstrap=True), level)
    assert e.sequences[0].value_positions[-1] == 8
    count = len(e.sequences[0].value_positions) - 1
    e.proximal = e.advantages = np.zeros(2)
    e.values = e.targets = np.zeros(count)
    (trained,) = training_sequences(e, np.ones(2, np.float32))
    assert trained.value_positions.tolist() == [2, 3][:count]
    assert len(trained.token_ids) == 5


def test_a_turn_without_tokens_gives_its_reward_to_a_neighbour():
    e = episode(play([Turn(2, 2, -1.0), Turn(3, 5, 5.0), Turn(6, 6, -3.0)], 7), "turn")
    assert e.rewards.tolist() == [1.0]
    assert e.lengths.tolist() == [2]
    assert e.sequences[0].value_positions.tolist() == [2]
    assert episode(play([Turn(2, 2, -1.0)], 3), "turn") is None


@pytest.mark.parametrize("level", ["turn", "token"])
def test_scores_come_back_to_their_own_tokens(level):
    """Each score says which token it is of; columns of the training sequences agree."""
    episodes = [episode(t, level) for t in trajectories(9)]
    sequences = [s for e in episodes for s in e.sequences]
    packed = microbatches(sequences, 64, "packed")
    scores = [
        Scores(
            m.token_ids.flatten()[m.actions].float(),
            m.actions.float(),
            m.token_ids.flatten()[m.value_positions].float(),
        )
        for m in packed
    ]
    logprobs, values = scored(len(sequences), packed, scores)
    for s, found, read in zip(sequences, logprobs, values, strict=True):
        assert np.array_equal(found, s.token_ids[s.action_mask])
        assert np.array_equal(read, s.token_ids[s.value_positions])
    start = 0
    for e in episodes:
        end = start + len(e.sequences)
        e.proximal = e.advantages = np.concatenate(logprobs[start:end])
        e.values = np.concatenate(values[start:end])
        if e.trajectory.bootstrap:
            e.values = e.values[:-1]
        e.targets = e.values
        start = end
        for s in training_sequences(e, np.ones(e.tokens, np.float32)):
            assert np.array_equal(
                s.token_columns["proximal"][s.action_mask], s.token_ids[s.action_mask]
            )
            assert np.array_equal(s.value_columns["old"], s.token_ids[s.value_positions])
            assert s.action_mask[-1]


def test_behavior_and_versions_are_those_of_the_action_tokens():
    e = episode(play([Turn(3, 5, 1.0), Turn(7, 8, 2.0)], 8), "turn")
    assert e.behavior.tolist() == pytest.approx([-0.3, -0.4, -0.7])
    assert e.versions.tolist() == [3, 3, 3]
    assert e.tokens == 3
