"""The few numbers of a trajectory that travel without its arrays, and their form as columns.

Refs-move-bytes-do-not: driver and buffer get a block's summaries, about 50 bytes each,
and references to the rest.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

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
    """The summaries of a block's N trajectories, in order; arrays as their bytes.

    Plain values alone: Ray sends those without pickle, in a third of the time.

    id: lines. questions: distinct ones. question: int32 [N], indices of them.
    end: a byte each, index in ENDS. failures: by row, of failed ones.
    reward: float32 [N]. tokens, action_tokens, oldest_version: int32 [N].
    metric_names: M names. metrics: float32 [N, M]; NaN where a trajectory has no such metric.
    """

    id: str
    questions: list[str]
    question: bytes
    end: bytes
    failures: dict[int, str]
    reward: bytes
    tokens: bytes
    action_tokens: bytes
    oldest_version: bytes
    metric_names: list[str]
    metrics: bytes


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


def mean_metrics(summaries: Sequence[TrajectorySummary]) -> dict[str, float]:
    """Mean of each metric over the episodes that have it: not every route has a landmark."""
    values = defaultdict[str, list[float]](list)
    for summary in summaries:
        for name, value in summary.metrics.items():
            values[name].append(value)
    return {name: sum(values[name]) / len(values[name]) for name in sorted(values)}


def to_columns(rows: list[TrajectorySummary]) -> SummaryColumns:
    """Pack summaries; floats are rounded to float32."""
    names = sorted({name for row in rows for name in row.metrics})
    questions = list(dict.fromkeys(row.question for row in rows))
    places = {question: i for i, question in enumerate(questions)}
    return {
        "id": "\n".join(row.id for row in rows),
        "questions": questions,
        "question": _integers(places[row.question] for row in rows),
        "end": bytes(ENDS.index(row.end) for row in rows),
        "failures": {i: row.failure for i, row in enumerate(rows) if row.failure},
        "reward": _floats(row.reward for row in rows),
        "tokens": _integers(row.tokens for row in rows),
        "action_tokens": _integers(row.action_tokens for row in rows),
        "oldest_version": _integers(row.oldest_version for row in rows),
        "metric_names": names,
        "metrics": _floats(row.metrics.get(name, math.nan) for row in rows for name in names),
    }


def from_columns(columns: SummaryColumns) -> list[TrajectorySummary]:
    """Unpack what `to_columns` packed."""
    names, metrics = columns["metric_names"], _read_floats(columns["metrics"])
    width = len(names)
    questions, failures = columns["questions"], columns["failures"]
    ids = columns["id"].split("\n") if columns["end"] else []  # a block may be empty
    question, reward = _read_integers(columns["question"]), _read_floats(columns["reward"])
    tokens = _read_integers(columns["tokens"])
    action_tokens = _read_integers(columns["action_tokens"])
    oldest_version = _read_integers(columns["oldest_version"])
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
                for metric, value in zip(names, metrics[i * width : (i + 1) * width], strict=True)
                if value == value  # not NaN
            },
        )
        for i, (name, end) in enumerate(zip(ids, columns["end"], strict=True))
    ]


def _integers(values: Iterable[int]) -> bytes:
    return array("i", values).tobytes()


def _floats(values: Iterable[float]) -> bytes:
    return array("f", values).tobytes()


def _read_integers(data: bytes) -> array[int]:
    return array("i", data)


def _read_floats(data: bytes) -> array[float]:
    return array("f", data)
