"""A trajectory as the learner sees it: turns, value positions, scores, and training sequences.

A Trajectory and its scores go in, Sequences for learner.batch come out. It does not know
advantages' formulas, losses or ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learner.batch import MicroBatch, Sequence
from learner.model import Scores
from rollout.trajectory import Segment, Trajectory

Floats = NDArray[np.float64]


@dataclass
class Episode:
    """One trajectory that is trained on; K turns with A action tokens in all.

    rewards: float64 [K]; lengths: int64 [K], action tokens of each turn.
    value_level: "turn" or "token": which states have a value.
    sequences: one a segment, to be scored; the last one's last value is the bootstrap's.
    proximal, reference: float32 [A] log-probabilities, once scored; values: float32 [K] or [A].
    bootstrap: V of the prompt that would have come next, 0 without one.
    advantages, targets: float64 [A] and like values, once the caller knows them.
    """

    trajectory: Trajectory
    value_level: str
    rewards: Floats
    lengths: NDArray[np.int64]
    sequences: list[Sequence]
    proximal: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    reference: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    bootstrap: float = 0.0
    advantages: Floats = field(default_factory=lambda: np.zeros(0))
    targets: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def tokens(self) -> int:
        """Action tokens."""
        return int(self.lengths.sum())

    @property
    def behavior(self) -> NDArray[np.float32]:
        """Behaviour log-probabilities float32 [A]."""
        return self._actions("behavior_logprobs")

    @property
    def versions(self) -> NDArray[np.int32]:
        """Policy versions int32 [A] of the action tokens."""
        return self._actions("policy_versions")

    def _actions(self, name: str) -> NDArray:
        return np.concatenate([getattr(s, name)[s.action_mask] for s in self.trajectory.segments])


def episode(trajectory: Trajectory, value_level: str) -> Episode | None:
    """The trajectory as an Episode, or None when it has no action token.

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
        Sequence(
            segment.token_ids,
            segment.action_mask,
            _value_positions(segment, value_level, trajectory.bootstrap and i == last),
            pictures=segment.pictures,
        )
        for i, segment in enumerate(trajectory.segments)
    ]
    return Episode(trajectory, value_level, np.array(rewards), np.array(lengths), sequences)


def _value_positions(segment: Segment, level: str, bootstrap: bool) -> NDArray[np.int64]:
    """The states before each turn (or action token), and the state at the bootstrap's end."""
    positions = np.flatnonzero(segment.action_mask) - 1
    if level == "turn":
        begins = [turn.begin - 1 for turn in segment.turns if turn.end > turn.begin]
        positions = np.array(begins, np.int64)
    return np.append(positions, len(segment.token_ids) - 1) if bootstrap else positions


def scored(
    count: int, microbatches: list[MicroBatch], scores: list[Scores]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Log-probabilities [A] and values [K] of each of `count` sequences, in their own order."""
    logprobs: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * count
    values = list(logprobs)
    for microbatch, score in zip(microbatches, scores, strict=True):
        for counts, flat, lists in (
            (microbatch.action_counts, score.logprobs, logprobs),
            (microbatch.value_counts, score.values, values),
        ):
            parts = np.split(flat.float().cpu().numpy(), np.cumsum(counts)[:-1])
            for place, part in zip(microbatch.order, parts, strict=True):
                lists[place] = part
    return logprobs, values


def training_sequences(episode: Episode, weights: NDArray[np.float32]) -> list[Sequence]:
    """The episode's segments with their columns, each cut after its last action token.

    Args:
        episode: scored, with advantages and targets.
        weights: float32 [A], factors on the tokens' policy terms.
    """
    token_columns: dict[str, NDArray] = {
        "advantages": episode.advantages,
        "behavior": episode.behavior,
        "proximal": episode.proximal,
        "weights": weights,
    }
    if len(episode.reference):
        token_columns["reference"] = episode.reference
    value_columns: dict[str, NDArray] = {"old": episode.values, "targets": episode.targets}
    sequences, token, value = [], 0, 0
    for segment in episode.trajectory.segments:
        positions = _value_positions(segment, episode.value_level, bootstrap=False)
        actions = int(segment.action_mask.sum())
        if actions:
            end = int(np.flatnonzero(segment.action_mask)[-1]) + 1
            mask = segment.action_mask[:end]
            of_tokens, of_values = (
                slice(token, token + actions),
                slice(value, value + len(positions)),
            )
            sequences.append(
                Sequence(
                    segment.token_ids[:end],
                    mask,
                    positions,
                    {k: _spread(v[of_tokens], mask) for k, v in token_columns.items()},
                    {k: v[of_values] for k, v in value_columns.items()},
                    segment.pictures,
                )
            )
        token, value = token + actions, value + len(positions)
    return sequences


def _spread(values: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    column = np.zeros(len(mask), np.float32)
    column[mask] = values
    return column
