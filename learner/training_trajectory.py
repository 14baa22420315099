"""Trajectories prepared for training: their turns, states with a value, scores and sequences.

Input: trajectories and policies that score them. Output: sequences for learner.batch, and what the
loss reads of their tokens and values once the caller has set advantages and value targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opentelemetry import trace

from learner import batch
from learner.batch import MicroBatch
from learner.model import ForwardOptions, Scores
from rollout.trajectory import Segment, Trajectory

TRACER = trace.get_tracer("cardinal")
Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Columns = dict[str, Float32s]  # by name


def _empty() -> Float32s:
    return np.zeros(0, np.float32)


@dataclass
class TrainingTrajectory:
    """A trajectory with K turns and A action tokens, as the learner trains on it.

    value_level: "turn" or "token": which states have a value.
    rewards: float64 [K]; turn_lengths: int64 [K], action tokens of each turn.
    sequences: one for each segment, to be scored.
    proximal_logprobs, reference_logprobs: float32 [A], set by `score`.
    entropies, score_norms: float32 [A], see `learner.model.Scores`, set by `score`.
    values: float32, [K] or [A] by value_level, set by `score`.
    bootstrap_value: of the state after a truncated last turn, set by `score`; else 0.
    advantages, value_targets: float64, [A] and like values, set by the caller.
    weights: float32 [A], factors on the tokens' policy terms; 1 unless the caller sets them.
    """

    trajectory: Trajectory
    value_level: str
    rewards: Floats
    turn_lengths: NDArray[np.int64]
    sequences: list[batch.Sequence]
    proximal_logprobs: Float32s = field(default_factory=_empty)
    reference_logprobs: Float32s = field(default_factory=_empty)
    entropies: Float32s = field(default_factory=_empty)
    score_norms: Float32s = field(default_factory=_empty)
    values: Float32s = field(default_factory=_empty)
    bootstrap_value: float = 0.0
    advantages: Floats = field(default_factory=lambda: np.zeros(0))
    value_targets: Floats = field(default_factory=lambda: np.zeros(0))
    weights: Float32s = field(init=False)

    def __post_init__(self) -> None:
        self.weights = np.ones(self.action_tokens, np.float32)

    @property
    def action_tokens(self) -> int:
        """Number of action tokens, A."""
        return int(self.turn_lengths.sum())

    @property
    def states(self) -> int:
        """Number of states with a value, without that of a bootstrap."""
        return len(self.turn_lengths) if self.value_level == "turn" else self.action_tokens

    @cached_property
    def behavior_logprobs(self) -> Float32s:
        """Behaviour log-probabilities float32 [A]."""
        segments = self.trajectory.segments
        return np.concatenate([s.behavior_logprobs[s.action_mask] for s in segments])

    @property
    def policy_versions(self) -> NDArray[np.int32]:
        """Policy versions int32 [A] of the action tokens."""
        segments = self.trajectory.segments
        return np.concatenate([s.policy_versions[s.action_mask] for s in segments])


def prepare(trajectories: Iterable[Trajectory], value_level: str) -> list[TrainingTrajectory]:
    """The trajectories that can be trained on: those with an action token that did not fail."""
    prepared = (_prepare(t, value_level) for t in trajectories if t.end != "failed")
    return [t for t in prepared if t is not None]


def _prepare(trajectory: Trajectory, value_level: str) -> TrainingTrajectory | None:
    """None without an action token.

    A turn without tokens cannot be trained on: its reward goes to the turn before it (to the
    next one, at the start).
    """
    rewards: list[float] = []
    lengths: list[int] = []
    pending = 0.0
    for turn in trajectory.turns:
        if turn.end > turn.begin:
            rewards.append(turn.reward + pending)
            lengths.append(turn.end - turn.begin)
            pending = 0.0
        elif rewards:
            rewards[-1] += turn.reward
        else:
            pending += turn.reward
    if not rewards:
        return None
    last = len(trajectory.segments) - 1
    sequences = [
        batch.Sequence(
            segment.token_ids,
            segment.action_mask,
            _value_positions(segment, value_level, trajectory.bootstrap and i == last),
            pictures=segment.pictures,
        )
        for i, segment in enumerate(trajectory.segments)
    ]
    return TrainingTrajectory(
        trajectory, value_level, np.array(rewards), np.array(lengths), sequences
    )


def _value_positions(segment: Segment, value_level: str, bootstrap: bool) -> NDArray[np.int64]:
    """Last token before each turn (or action token), and the segment's last one to bootstrap."""
    positions = np.flatnonzero(segment.action_mask) - 1
    if value_level == "turn":
        begins = [turn.begin - 1 for turn in segment.turns if turn.end > turn.begin]
        positions = np.array(begins, np.int64)
    return np.append(positions, len(segment.token_ids) - 1) if bootstrap else positions


def scored_sequences(trajectories: Iterable[TrainingTrajectory]) -> list[batch.Sequence]:
    """All sequences of the trajectories, one after another."""
    return [sequence for t in trajectories for sequence in t.sequences]


class Scorer(Protocol):
    """A policy that scores microbatches."""

    def score(
        self, microbatches: list[MicroBatch], options: ForwardOptions | None = None
    ) -> list[Scores]:
        """Scores of each microbatch, without gradients."""


class Packer(Protocol):
    """What packs sequences into microbatches (learner.engine.TrainingEngine)."""

    def microbatches(self, sequences: list[batch.Sequence]) -> list[MicroBatch]:
        """Pack the sequences."""


class PackingScorer(Scorer, Packer, Protocol):
    """A policy that does both."""


@TRACER.start_as_current_span("score")
def score(
    policy: PackingScorer,
    trajectories: Sequence[TrainingTrajectory],
    temperature: float,
    reference: Scorer | None = None,
    score_norms: bool = False,
    microbatches: list[MicroBatch] | None = None,
) -> None:
    """Set the trajectories' proximal (and reference) log-probabilities, values and bootstraps.

    And the tokens' entropies and, with score_norms, their score norms, else zeros. A collective
    call where the policies' `score` is one.

    microbatches: of the trajectories' sequences; None packs them.
    """
    if microbatches is None:
        microbatches = policy.microbatches(scored_sequences(trajectories))
    options = ForwardOptions(temperature=temperature, entropy=True, score_norms=score_norms)
    scores = policy.score(microbatches, options)
    parts = [
        *split_scores(microbatches, scores),
        split_tokens(microbatches, [s.entropy for s in scores]),
        split_tokens(microbatches, [s.score_norms for s in scores]),
    ]
    joined = zip(*(_join(trajectories, part) for part in parts), strict=True)
    for t, (own_logprobs, own_values, entropies, norms) in zip(trajectories, joined, strict=True):
        t.proximal_logprobs, t.values = own_logprobs, own_values
        t.entropies, t.score_norms = entropies, norms
        if t.trajectory.bootstrap:
            t.values, t.bootstrap_value = own_values[:-1], float(own_values[-1])
    if reference is not None:
        options = ForwardOptions(temperature=temperature)
        logprobs, _ = split_scores(microbatches, reference.score(microbatches, options))
        for t, own_logprobs in zip(trajectories, _join(trajectories, logprobs), strict=True):
            t.reference_logprobs = own_logprobs


def split_scores(
    microbatches: list[MicroBatch], scores: list[Scores]
) -> tuple[list[Float32s], list[Float32s]]:
    """Log-probabilities and values of each sequence, in the order before they were packed."""
    values = [m.value_counts for m in microbatches]
    return (
        split_tokens(microbatches, [s.logprobs for s in scores]),
        _split(microbatches, [s.values for s in scores], values),
    )


def split_tokens(microbatches: list[MicroBatch], flat: list[torch.Tensor]) -> list[Float32s]:
    """What is known of action tokens, by sequences in the order before they were packed."""
    return _split(microbatches, flat, [m.action_counts for m in microbatches])


def _split(
    microbatches: list[MicroBatch], flat: list[torch.Tensor], counts: list[NDArray[np.integer]]
) -> list[Float32s]:
    by_sequence: dict[int, Float32s] = {}
    for microbatch, tensor, sizes in zip(microbatches, flat, counts, strict=True):
        parts = np.split(tensor.float().cpu().numpy(), np.cumsum(sizes)[:-1])
        by_sequence |= zip(microbatch.order.tolist(), parts, strict=True)
    return [by_sequence[index] for index in range(len(by_sequence))]


def _join(trajectories: Sequence[TrainingTrajectory], parts: list[Float32s]) -> Iterator[Float32s]:
    """From arrays of the trajectories' sequences to one array for each trajectory."""
    remaining = iter(parts)
    for t in trajectories:
        yield np.concatenate([next(remaining) for _ in t.sequences])


def training_sequences(t: TrainingTrajectory) -> list[batch.Sequence]:
    """The trajectory's segments with action tokens, each cut after the last of these."""
    sequences = []
    for segment in t.trajectory.segments:
        actions = np.flatnonzero(segment.action_mask)
        if not len(actions):
            continue
        end = int(actions[-1]) + 1
        positions = _value_positions(segment, t.value_level, bootstrap=False)
        mask = segment.action_mask[:end]
        sequences.append(batch.Sequence(segment.token_ids[:end], mask, positions, segment.pictures))
    return sequences


def training_columns(trajectories: Sequence[TrainingTrajectory]) -> tuple[Columns, Columns]:
    """What the loss reads of each action token and of each value, one trajectory after another.

    The trajectories are scored, with advantages and value targets.
    """
    tokens: dict[str, Sequence[NDArray[np.floating]]] = {
        "advantages": [t.advantages for t in trajectories],
        "behavior": [t.behavior_logprobs for t in trajectories],
        "proximal": [t.proximal_logprobs for t in trajectories],
        "weights": [t.weights for t in trajectories],
    }
    if any(len(t.reference_logprobs) for t in trajectories):
        tokens["reference"] = [t.reference_logprobs for t in trajectories]
    values: dict[str, Sequence[NDArray[np.floating]]] = {
        "old_values": [t.values[: t.states] for t in trajectories],
        "targets": [t.value_targets[: t.states] for t in trajectories],
    }
    return _columns(tokens), _columns(values)


def _columns(parts: Mapping[str, Sequence[NDArray[np.floating]]]) -> Columns:
    return {
        name: np.concatenate([_empty(), *own]).astype(np.float32) for name, own in parts.items()
    }
