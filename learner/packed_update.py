"""A rank's part of an update in microbatches: all that can be made before its policy scores it.

Input: trajectories, and the minibatches of the update's steps. Output: microbatches to score, and
those of each optimizer step, which get advantages and value targets once they are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from opentelemetry import trace

from configs.schema import PPOConfig
from learner.batch import MicroBatch
from learner.scoring_step import scored_by_its_step
from learner.training_trajectory import (
    Columns,
    Packer,
    TrainingTrajectory,
    prepare,
    scored_sequences,
    training_sequences,
)
from rollout.trajectory import Trajectory

TRACER = trace.get_tracer("cardinal")
Places = NDArray[np.int64]


@dataclass(frozen=True)
class PackedStep:
    """One optimizer step of a rank.

    ids: of the rank's trajectories in it.
    microbatches: of these, without columns.
    tokens, values: int64 [N] and [M] of each microbatch: the places of its action tokens and
        values among those of all the rank's trajectories.
    """

    ids: list[str]
    microbatches: list[MicroBatch]
    tokens: list[Places]
    values: list[Places]

    def with_columns(self, tokens: Columns, values: Columns) -> list[MicroBatch]:
        """The microbatches with columns.

        Args:
            tokens: float32 by name, of all action tokens of the rank's trajectories.
            values: the same of their values.
        """
        packed = zip(self.microbatches, self.tokens, self.values, strict=True)
        return [
            replace(m, token_columns=_pick(tokens, t), value_columns=_pick(values, v))
            for m, t, v in packed
        ]


@dataclass(frozen=True)
class PackedUpdate:
    """A rank's part of an update.

    trajectories: those that are trained on.
    scored: microbatches of all of their sequences; none where the step scores them itself.
    steps: of each optimizer step.
    """

    trajectories: list[TrainingTrajectory]
    scored: list[MicroBatch]
    steps: list[PackedStep]


@TRACER.start_as_current_span("pack")
def pack(
    packer: Packer,
    ppo: PPOConfig,
    trajectories: list[TrainingTrajectory],
    minibatches: Iterable[Sequence[str]],
) -> PackedUpdate:
    """Pack a rank's trajectories for scoring, where that is a pass of its own, and for each step.

    Args:
        packer: of the policy that is trained.
        ppo: says how they are scored.
        trajectories: this rank's own.
        minibatches: ids of each step, of this rank or of all.
    """
    sequences = [training_sequences(t) for t in trajectories]
    firsts = np.cumsum([0, *map(len, sequences)]).tolist()
    own = {
        t.trajectory.id: range(first, first + len(parts))
        for t, parts, first in zip(trajectories, sequences, firsts, strict=False)
    }
    flat = [sequence for parts in sequences for sequence in parts]
    token_spans = _spans([int(s.action_mask.sum()) for s in flat])
    value_spans = _spans([len(s.value_positions) for s in flat])
    steps = []
    for minibatch in minibatches:
        ids = [name for name in minibatch if name in own]
        chosen = np.array([i for name in ids for i in own[name]], np.int64)
        packed = packer.microbatches([flat[i] for i in chosen])
        orders = [chosen[m.order] for m in packed]
        tokens = [_join(token_spans, order) for order in orders]
        steps.append(PackedStep(ids, packed, tokens, [_join(value_spans, o) for o in orders]))
    if scored_by_its_step(ppo):
        return PackedUpdate(trajectories, [], steps)
    return PackedUpdate(trajectories, packer.microbatches(scored_sequences(trajectories)), steps)


def pack_ahead(
    packer: Packer, ppo: PPOConfig, trajectories: list[Trajectory], minibatches: list[list[str]]
) -> PackedUpdate:
    """What can be made of a batch while the one before it is learned.

    Args:
        packer: of the policy that is trained.
        ppo: says which states have a value, and how trajectories are scored.
        trajectories: this rank's own.
        minibatches: ids of those that each step trains on, as `update_minibatches` orders them.
    """
    return pack(packer, ppo, prepare(trajectories, ppo.value_level), minibatches)


def _spans(counts: list[int]) -> list[Places]:
    """Places of each sequence's items, where those of all lie one after another."""
    return np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])


def _join(spans: list[Places], order: Places) -> Places:
    return np.concatenate([spans[i] for i in order])


def _pick(columns: Columns, places: Places) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(column[places]) for name, column in columns.items()}
