"""Trajectories prepared for training: positions, rewards, scores, columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learner.batch import microbatches
from learner.model import Scores
from learner.training_trajectory import (
    prepare,
    score,
    split_scores,
    training_columns,
    training_sequences,
)
from rollout.trajectory import Segment, Trajectory, Turn
from tests.support.learner import trajectories
from tests.support.trajectories import mark_failed


class TokenScorer:
    """A policy whose score of a token is the token's id plus `offset`, so that it names itself."""

    def __init__(self, offset=0):
        self.offset, self.temperatures = offset, []

    def microbatches(self, sequences):
        return microbatches(sequences, 64, "packed")

    def score(self, packed, options=None):
        self.temperatures.append(options.temperature)
        return [
            Scores(
                m.token_ids.flatten()[m.actions].float() + self.offset,
                m.actions.float(),
                m.token_ids.flatten()[m.value_positions].float() + self.offset,
                2.0 * m.token_ids.flatten()[m.actions] if options.score_norms else m.actions * 0.0,
            )
            for m in packed
        ]


def play(turns, length, *, bootstrap=False):
    mask = np.zeros(length, bool)
    for turn in turns:
        mask[turn.begin : turn.end] = True
    behavior = np.where(mask, -np.arange(length) / 10, 0).astype(np.float32)
    versions = np.where(mask, 3, -1).astype(np.int32)
    segment = Segment(np.arange(length, dtype=np.int32), mask, behavior, versions, tuple(turns))
    end = "truncated" if bootstrap else "terminated"
    return Trajectory("a", "e", "train", 0, 0, (segment,), end, bootstrap=bootstrap)


def prepare_one(trajectory, level):
    (prepared,) = prepare([trajectory], level)
    return prepared


def test_values_are_read_at_the_last_prompt_token():
    played = play([Turn(3, 5, 1.0), Turn(7, 8, 2.0)], 8)
    assert prepare_one(played, "turn").sequences[0].value_positions.tolist() == [2, 6]
    assert prepare_one(played, "token").sequences[0].value_positions.tolist() == [2, 3, 6]


@pytest.mark.parametrize("level", ["turn", "token"])
def test_bootstrap_is_read_at_the_end_and_not_trained_on(level):
    t = prepare_one(play([Turn(3, 5, 1.0)], 9, bootstrap=True), level)
    assert t.sequences[0].value_positions[-1] == 8
    score(TokenScorer(), [t], 1.0)
    positions = [2, 3] if level == "token" else [2]
    assert t.values.tolist() == positions  # each token of `play` is its own index
    assert t.bootstrap_value == 8
    assert t.states == len(t.values)
    (trained,) = training_sequences(t)
    assert trained.value_positions.tolist() == positions
    assert len(trained.token_ids) == 5


@pytest.mark.parametrize("level", ["turn", "token"])
def test_what_was_truncated_without_a_next_prompt_has_no_value_after_it(level):
    played = replace(play([Turn(3, 5, 1.0)], 5), end="truncated")
    t = prepare_one(played, level)
    score(TokenScorer(), [t], 1.0)
    assert t.values.tolist() == ([2, 3] if level == "token" else [2])
    assert (t.bootstrap_value, t.states) == (0, len(t.values))


def test_a_turn_without_tokens_gives_its_reward_to_a_neighbour():
    turns = [Turn(2, 2, -1.0), Turn(3, 5, 5.0), Turn(6, 6, -3.0), Turn(7, 8, 2.0)]
    t = prepare_one(play(turns, 8), "turn")
    assert t.rewards.tolist() == [1.0, 2.0]
    assert t.turn_lengths.tolist() == [2, 1]
    assert t.sequences[0].value_positions.tolist() == [2, 6]


def test_what_failed_or_has_no_action_token_is_left_out():
    played = trajectories(3)
    silent = play([Turn(2, 2, -1.0)], 3)
    prepared = prepare([played[0], silent, mark_failed(played[1], "x"), played[2]], "turn")
    assert [t.trajectory.id for t in prepared] == [played[0].id, played[2].id]


@pytest.mark.parametrize("level", ["turn", "token"])
def test_scores_come_back_to_their_own_tokens(level):
    """Each score names its token; scores and columns of the training sequences agree with it."""
    prepared = prepare(trajectories(9), level)
    policy, reference = TokenScorer(), TokenScorer(offset=100)
    score(policy, prepared, 0.7, reference, score_norms=True)
    assert policy.temperatures == reference.temperatures == [0.7]
    for t in prepared:
        segments = t.trajectory.segments
        actions = np.concatenate([s.token_ids[s.action_mask] for s in segments])
        assert np.array_equal(t.proximal_logprobs, actions)
        assert np.array_equal(t.reference_logprobs, actions + 100)
        assert np.array_equal(t.score_norms, 2 * actions)
        assert t.bootstrap_value == (segments[-1].token_ids[-1] if t.trajectory.bootstrap else 0)
        assert t.states == len(t.values)


def test_columns_are_of_all_trajectories_one_after_another():
    prepared = prepare(trajectories(4), "turn")
    score(TokenScorer(), prepared, 1.0, TokenScorer(offset=100))
    for t in prepared:
        t.advantages, t.value_targets = t.proximal_logprobs + 0.5, t.values + 1.0
        t.weights = t.proximal_logprobs + 2
    tokens, values = training_columns(prepared)
    own = np.concatenate([t.proximal_logprobs for t in prepared])
    columns = {"advantages": own + 0.5, "proximal": own, "reference": own + 100, "weights": own + 2}
    columns["behavior"] = np.concatenate([t.behavior_logprobs for t in prepared])
    assert {name: column.tolist() for name, column in tokens.items()} == {
        name: column.tolist() for name, column in columns.items()
    }
    states = np.concatenate([t.values for t in prepared])
    assert values["old_values"].tolist() == states.tolist()
    assert values["targets"].tolist() == (states + 1).tolist()
    assert {c.dtype for c in [*tokens.values(), *values.values()]} == {np.dtype(np.float32)}


def test_without_a_reference_there_is_no_reference_column():
    t = prepare_one(play([Turn(3, 5, 1.0)], 6), "turn")
    score(TokenScorer(), [t], 1.0)
    t.advantages, t.value_targets = np.zeros(2), t.values
    tokens, _ = training_columns([t])
    assert set(tokens) == {"advantages", "behavior", "proximal", "weights"}
    assert tokens["weights"].tolist() == [1.0, 1.0]


def test_microbatches_that_were_made_before_are_scored():
    prepared = prepare(trajectories(3), "turn")
    policy = TokenScorer()
    packed = policy.microbatches([s for t in prepared for s in t.sequences])
    policy.microbatches = None  # not asked
    score(policy, prepared, 1.0, microbatches=packed)
    (first, *_) = prepared[0].trajectory.segments
    own = first.token_ids[first.action_mask]
    assert prepared[0].proximal_logprobs[: len(own)].tolist() == own.tolist()


def test_a_segment_without_action_tokens_is_not_trained_on():
    played = play([Turn(3, 5, 1.0)], 6)
    silent = Segment(
        np.full(4, 9, np.int32),
        np.zeros(4, bool),
        np.zeros(4, np.float32),
        np.full(4, -1, np.int32),
        (),
    )
    t = prepare_one(replace(played, segments=(silent, *played.segments)), "turn")
    (sequence,) = training_sequences(t)
    assert sequence.token_ids[sequence.action_mask].tolist() == [3, 4]


def test_scores_of_no_microbatch_are_of_no_sequence():
    assert split_scores([], []) == ([], [])


def test_behavior_and_versions_are_those_of_the_action_tokens():
    t = prepare_one(play([Turn(3, 5, 1.0), Turn(7, 8, 2.0)], 8), "turn")
    assert t.behavior_logprobs.tolist() == pytest.approx([-0.3, -0.4, -0.7])
    assert t.policy_versions.tolist() == [3, 3, 3]
    assert t.action_tokens == 3
