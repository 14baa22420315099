"""Trajectories that did not go well."""

from __future__ import annotations

from dataclasses import replace

from rollout.trajectory import Trajectory


def mark_failed(trajectory: Trajectory, failure: str) -> Trajectory:
    """The same trajectory as a failed one, with the cause."""
    return replace(trajectory, end="failed", failure=failure, bootstrap=False)
