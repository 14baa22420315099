"""The few numbers of a trajectory that travel without its arrays, and their compact form.

Law 4: driver and buffer see these and references, nothing else. A block's numbers travel as
columns, about 50 bytes a trajectory. Nothing here knows Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rollout.trajectory import ENDS, Trajectory

COLUMNS = {"reward": np.float32, "tokens": np.int32, "action_tokens": np.int32,
           "oldest_version": np.int32}  # fmt: skip


@dataclass(frozen=True)
class TrajectorySummary:
    """What the buffer and the learner's rank 0 know of a trajectory; see `Trajectory`."""

    id: str
    end: str
    failure: str
    reward: float
    tokens: int
    action_tokens: int
    oldest_version: int
    metrics: dict[str, float]


def numbers(trajectory: Trajectory) -> TrajectorySummary:
    """The numbers of a trajectory."""
    t = trajectory
    return TrajectorySummary(
        t.id, t.end, t.failure, t.total_reward, t.tokens, t.action_tokens, t.oldest_version,
        t.metrics,
    )  # fmt: skip


def compress(rows: list[TrajectorySummary]) -> dict[str, Any]:
    """A block's numbers as columns, in order; metrics in float32."""
    names = sorted({name for row in rows for name in row.metrics})
    return {
        "id": "\n".join(row.id for row in rows),
        "end": bytes(ENDS.index(row.end) for row in rows),
        "failures": {i: row.failure for i, row in enumerate(rows) if row.failure},
        "metrics": names,
        "values": np.array([[r.metrics.get(n, np.nan) for n in names] for r in rows], np.float32),
        **{n: np.array([getattr(r, n) for r in rows], dtype) for n, dtype in COLUMNS.items()},
    }


def expand(columns: dict[str, Any]) -> list[TrajectorySummary]:
    """What `compress` was given, floats rounded to float32."""
    lists = {name: columns[name].tolist() for name in COLUMNS}
    return [
        TrajectorySummary(
            id=name,
            end=ENDS[columns["end"][i]],
            failure=columns["failures"].get(i, ""),
            metrics={
                n: v
                for n, v in zip(columns["metrics"], columns["values"][i].tolist(), strict=True)
                if v == v  # a metric that this trajectory does not have
            },
            **{n: values[i] for n, values in lists.items()},
        )
        for i, name in enumerate(columns["id"].split("\n"))
    ]
