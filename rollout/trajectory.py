"""The records of an episode (turns, segments, trajectories), and the Arrow block that holds them.

Token-in-token-out: `token_ids` are those that the engine read and sampled. Alignment: index t
of every [T] array belongs to `token_ids[t]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rollout import pictures
from rollout.pictures import Picture

ENDS = ("terminated", "truncated", "failed")


@dataclass(frozen=True)
class Turn:
    """One answer and its reward, inside one segment.

    begin: index of the answer's first action token; begin - 1 is the prompt's last token.
    end: index after the answer's last action token.
    reward: of the verifier.
    message: of the verifier about the answer.
    """

    begin: int
    end: int
    reward: float
    message: str = ""


@dataclass(frozen=True)
class Segment:
    """One contiguous token sequence: a prompt, an answer, the next message, an answer, …

    token_ids: int32 [T].
    action_mask: bool [T], True on sampled tokens.
    behavior_logprobs: float32 [T], of sampled tokens under the sampling distribution; else 0.
    policy_versions: int32 [T], of the policy that sampled the token; -1 on prompt tokens.
    turns: in order; their [begin, end) are exactly the True runs of action_mask.
    pictures: in the order of their tokens.
    """

    token_ids: NDArray[np.int32]
    action_mask: NDArray[np.bool_]
    behavior_logprobs: NDArray[np.float32]
    policy_versions: NDArray[np.int32]
    turns: tuple[Turn, ...]
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        for name in ("action_mask", "behavior_logprobs", "policy_versions"):
            if len(getattr(self, name)) != length:
                raise ValueError(
                    f"Segment.{name} has {len(getattr(self, name))} entries, token_ids {length}"
                )
        previous = 0
        for turn in self.turns:
            if not previous < turn.begin <= turn.end <= length:
                raise ValueError(
                    f"Turn [{turn.begin}, {turn.end}) does not fit after {previous} in {length}"
                )
            if not self.action_mask[turn.begin : turn.end].all():
                raise ValueError(f"Turn [{turn.begin}, {turn.end}) covers tokens not sampled")
            previous = turn.end
        if sum(t.end - t.begin for t in self.turns) != int(self.action_mask.sum()):
            raise ValueError("Segment.action_mask marks tokens that belong to no turn")


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    id: that of its request, unique in a run.
    environment: Gymnasium id.
    variant: `rollout` for training, or `eval/NAME` for a variant of eval.variants.
    seed: of the environment's reset.
    group_id: shared by the episodes of one seed (GRPO, RLOO).
    question: of its environment, the same for episodes that ask the same; "" is one of its own.
    end: terminated | truncated | failed; a failed one is never trained on
        (failure-is-not-a-reward).
    failure: the first cause in one line, when end is failed.
    bootstrap: the last segment ends in the prompt that would have come next (truncated only).
    metrics: of the environment, by name; "success" and "first_try" always unless failed.
    worker: index of the rollout worker that played it; -1: not known, as in a block.
    """

    id: str
    environment: str
    variant: str
    seed: int
    group_id: int
    segments: tuple[Segment, ...]
    end: str
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    bootstrap: bool = False
    question: str = ""
    worker: int = -1

    def __post_init__(self) -> None:
        if self.end not in ENDS:
            raise ValueError(f"Trajectory.end is {self.end!r}; it must be one of {ENDS}")
        if self.bootstrap and self.end != "truncated":
            raise ValueError(f"Trajectory {self.id} bootstraps but ended {self.end}")

    @property
    def turns(self) -> list[Turn]:
        """All turns, in order."""
        return [turn for segment in self.segments for turn in segment.turns]

    @property
    def tokens(self) -> int:
        """Number of tokens of all segments."""
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def action_tokens(self) -> int:
        """Number of sampled tokens of all segments."""
        return sum(int(segment.action_mask.sum()) for segment in self.segments)

    @property
    def total_reward(self) -> float:
        """Undiscounted sum of the turns' rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def oldest_version(self) -> int:
        """Policy version of the oldest action token (staleness-is-bounded); -1 without one."""
        versions = [s.policy_versions[s.action_mask] for s in self.segments]
        return min((int(v.min()) for v in versions if len(v)), default=-1)


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("environment", pa.string()),
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("group_id", pa.int64()),
        ("question", pa.string()),
        ("end", pa.string()),
        ("failure", pa.string()),
        ("bootstrap", pa.bool_()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        # Flat over the trajectory's segments; segment_lengths has the length of each.
        ("segment_lengths", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("action_mask", pa.list_(pa.uint8())),  # bytes, so that a view needs no copy
        ("behavior_logprobs", pa.list_(pa.float32())),
        ("policy_versions", pa.list_(pa.int32())),
        # Flat over the trajectory's turns; turn_segments has the segment of each.
        ("turn_segments", pa.list_(pa.int32())),
        ("turn_begins", pa.list_(pa.int32())),
        ("turn_ends", pa.list_(pa.int32())),
        ("turn_rewards", pa.list_(pa.float32())),
        ("turn_messages", pa.list_(pa.string())),
        ("picture_segments", pa.list_(pa.int32())),
        ("picture_keys", pa.list_(pa.string())),
    ]
)


class Block(NamedTuple):
    """Trajectories in Arrow: one row for each, and each distinct picture once."""

    trajectories: pa.RecordBatch
    pictures: pa.RecordBatch

    @property
    def nbytes(self) -> int:
        """Bytes of both tables."""
        return self.trajectories.nbytes + self.pictures.nbytes


def to_block(trajectories: list[Trajectory]) -> Block:
    """Pack trajectories and their pictures."""
    distinct = {p.key: p for t in trajectories for s in t.segments for p in s.pictures}
    rows = pa.RecordBatch.from_pylist([_row(t) for t in trajectories], schema=SCHEMA)
    return Block(rows, pictures.to_arrow(distinct))


def _row(trajectory: Trajectory) -> dict[str, object]:
    segments = trajectory.segments

    def flat(name: str, dtype: type) -> NDArray[np.generic]:
        arrays: list[NDArray[np.generic]] = [np.asarray(getattr(s, name), dtype) for s in segments]
        return np.concatenate(arrays) if arrays else np.zeros(0, dtype)

    turns = [(i, turn) for i, s in enumerate(segments) for turn in s.turns]
    keys = [(i, p.key) for i, s in enumerate(segments) for p in s.pictures]
    return {
        "id": trajectory.id,
        "environment": trajectory.environment,
        "variant": trajectory.variant,
        "seed": trajectory.seed,
        "group_id": trajectory.group_id,
        "question": trajectory.question,
        "end": trajectory.end,
        "failure": trajectory.failure,
        "bootstrap": trajectory.bootstrap,
        "metrics": list(trajectory.metrics.items()),
        "segment_lengths": [len(s.token_ids) for s in segments],
        "token_ids": flat("token_ids", np.int32),
        "action_mask": flat("action_mask", np.uint8),
        "behavior_logprobs": flat("behavior_logprobs", np.float32),
        "policy_versions": flat("policy_versions", np.int32),
        "turn_segments": [i for i, _ in turns],
        "turn_begins": [turn.begin for _, turn in turns],
        "turn_ends": [turn.end for _, turn in turns],
        "turn_rewards": [turn.reward for _, turn in turns],
        "turn_messages": [turn.message for _, turn in turns],
        "picture_segments": [i for i, _ in keys],
        "picture_keys": [key for _, key in keys],
    }


_ARRAYS = ("token_ids", "action_mask", "behavior_logprobs", "policy_versions")


def from_block(block: Block, rows: Sequence[int] | None = None) -> list[Trajectory]:
    """Unpack a block; [T] arrays and pictures are read-only views of its buffers, not copies.

    Args:
        block: of `to_block`.
        rows: which trajectories, in this order; None: all.
    """
    batch, pictures_by_key = block.trajectories, pictures.from_arrow(block.pictures)
    views, bounds = {}, {}
    for name in _ARRAYS:
        column = batch.column(name)
        views[name] = column.values.to_numpy(zero_copy_only=True)
        bounds[name] = column.offsets.to_numpy()
    views["action_mask"] = views["action_mask"].view(np.bool_)
    others, chosen = batch.drop_columns(list(_ARRAYS)), list(range(batch.num_rows))
    if rows is not None:
        others, chosen = others.take(pa.array(rows, pa.int32())), list(rows)
    return [
        _trajectory(
            row,
            {n: view[bounds[n][i] : bounds[n][i + 1]] for n, view in views.items()},
            pictures_by_key,
        )
        for i, row in zip(chosen, others.to_pylist(), strict=True)
    ]


def _trajectory(
    row: dict[str, Any], views: dict[str, NDArray[Any]], pictures_by_key: dict[str, Picture]
) -> Trajectory:
    """A trajectory of its row, and of its arrays flat over its segments."""
    segments: list[Segment] = []
    turns: list[list[Turn]] = [[] for _ in row["segment_lengths"]]
    columns = (
        row[f"turn_{name}"] for name in ("segments", "begins", "ends", "rewards", "messages")
    )
    for i, *fields in zip(*columns, strict=True):
        turns[i].append(Turn(*fields))
    shown: list[list[Picture]] = [[] for _ in row["segment_lengths"]]
    for i, key in zip(row["picture_segments"], row["picture_keys"], strict=True):
        shown[i].append(pictures_by_key[key])
    offset = 0
    for i, length in enumerate(row["segment_lengths"]):
        arrays = {name: view[offset : offset + length] for name, view in views.items()}
        segments.append(Segment(**arrays, turns=tuple(turns[i]), pictures=tuple(shown[i])))
        offset += length
    names = (
        "id",
        "environment",
        "variant",
        "seed",
        "group_id",
        "end",
        "failure",
        "bootstrap",
    )
    return Trajectory(
        **{name: row[name] for name in names},
        question=row.get("question", ""),  # blocks of runs begun earlier have none
        segments=tuple(segments),
        metrics=dict(row["metrics"]),
    )
