"""The few numbers of a trajectory that travel without its arrays, and their form as columns.

Refs-move-bytes-do-not: driver and buffer get a block's summaries, about 50 bytes each,
and references to the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from rollout.trajectory import ENDS, Trajectory


@dataclass(frozen=True)
class TrajectorySummary:
    """What the buffer and the learner's rank 0 get of a trajectory; fields as in `Trajectory`."""

    id: str
    end: str
    failure: str
    reward: float
    tokens: int
    action_tokens: int
    oldest_version: int
    metrics: dict[str, float]
    question: str = ""


class SummaryColumns(TypedDict):
    """The summaries of a block's N trajectories, in order.

    id: lines. questions: distinct ones. question: int32 [N], indices of them.
    end: a byte each, index in ENDS. failures: by row, of failed ones.
    reward: float32 [N]. tokens, action_tokens, oldest_version: int32 [N].
    metric_names: M names. metrics: float32 [N, M]; NaN where a trajectory has no such metric.
    """

    id: str
    questions: list[str]
    question: NDArray[np.int32]
    end: bytes
    failures: dict[int, str]
    reward: NDArray[np.float32]
    tokens: NDArray[np.int32]
    action_tokens: NDArray[np.int32]
    oldest_version: NDArray[np.int32]
    metric_names: list[str]
    metrics: NDArray[np.float32]


def summarize(trajectory: Trajectory) -> TrajectorySummary:
    """The summary of a trajectory."""
    return TrajectorySummary(
        id=trajectory.id,
        question=trajectory.question,
        end=trajectory.end,
        failure=trajectory.failure,
        reward=trajectory.total_reward,
        tokens=trajectory.tokens,
        action_tokens=trajectory.action_tokens,
        oldest_version=trajectory.oldest_version,
        metrics=trajectory.metrics,
    )


def to_columns(rows: list[TrajectorySummary]) -> SummaryColumns:
    """Pack summaries; floats are rounded to float32."""
    names = sorted({name for row in rows for name in row.metrics})
    questions = list(dict.fromkeys(row.question for row in rows))
    places = {question: i for i, question in enumerate(questions)}
    return {
        "id": "\n".join(row.id for row in rows),
        "questions": questions,
        "question": np.array([places[row.question] for row in rows], np.int32),
        "end": bytes(ENDS.index(row.end) for row in rows),
        "failures": {i: row.failure for i, row in enumerate(rows) if row.failure},
        "reward": np.array([row.reward for row in rows], np.float32),
        "tokens": np.array([row.tokens for row in rows], np.int32),
        "action_tokens": np.array([row.action_tokens for row in rows], np.int32),
        "oldest_version": np.array([row.oldest_version for row in rows], np.int32),
        "metric_names": names,
        "metrics": np.array([[r.metrics.get(n, np.nan) for n in names] for r in rows], np.float32),
    }


def from_columns(columns: SummaryColumns) -> list[TrajectorySummary]:
    """Unpack what `to_columns` packed."""
    names, metrics = columns["metric_names"], columns["metrics"].tolist()
    questions, failures = columns["questions"], columns["failures"]
    ids = columns["id"].split("\n") if columns["end"] else []  # a block may be empty
    question, reward = columns["question"].tolist(), columns["reward"].tolist()
    tokens, action_tokens = columns["tokens"].tolist(), columns["action_tokens"].tolist()
    oldest_version = columns["oldest_version"].tolist()
    return [
        TrajectorySummary(
            id=name,
            question=questions[question[i]],
            end=ENDS[end],
            failure=failures.get(i, ""),
            reward=reward[i],
            tokens=tokens[i],
            action_tokens=action_tokens[i],
            oldest_version=oldest_version[i],
            metrics={
                metric: value
                for metric, value in zip(names, metrics[i], strict=True)
                if value == value  # not NaN
            },
        )
        for i, (name, end) in enumerate(zip(ids, columns["end"], strict=True))
    ]
