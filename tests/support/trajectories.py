"""Small trajectories, and those that did not go well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rollout.pictures import Picture
from rollout.trajectory import Segment, Trajectory, Turn

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
PICTURES = tuple(Picture.of(pixels) for pixels in PIXELS)


def segment(spans, length, seed=0):
    """A segment whose turns are `spans` [(begin, end), …]."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(length, bool)
    for begin, end in spans:
        mask[begin:end] = True
    return Segment(
        rng.integers(0, 99, length).astype(np.int32),
        mask,
        np.where(mask, -rng.random(length), 0).astype(np.float32),
        np.where(mask, 3, -1).astype(np.int32),
        tuple(Turn(b, e, float(i) - 1, f"turn {i}") for i, (b, e) in enumerate(spans)),
        pictures=PICTURES[: seed % 3],
    )


def trajectory(name="ppo/1", segments=None, **changes):
    fields = dict(
        id=name,
        environment="e",
        variant="v",
        seed=4,
        group_id=2,
        question="1 2 3 4 = 24",
        segments=segments or (segment([(3, 5), (7, 10)], 10), segment([(2, 4)], 6, 1)),
        end="terminated",
        metrics={"success": 1.0},
    )
    return Trajectory(**fields | changes)


def mark_failed(trajectory: Trajectory, failure: str) -> Trajectory:
    """The same trajectory as a failed one, with the cause."""
    return replace(trajectory, end="failed", failure=failure, bootstrap=False)
