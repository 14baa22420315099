"""Ends a learner rank that hangs, in Ray Train's controller, as soon as that takes it for lost.

Ray Train itself would first ask it to leave torch's process group and then to shut down, and wait
for both, seven seconds in all, before it ends the group and starts another.
"""

from __future__ import annotations

import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupPollStatus


class HungRanks(WorkerGroupCallback):
    """Kills the processes of ranks whose health check has timed out; others end by themselves."""

    def __init__(self) -> None:
        self._group: WorkerGroup | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """All ranks know of each other."""
        self._group = worker_group

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Look for ranks that gave no answer in time; one that is dead already is no obstacle."""
        for rank, error in worker_group_status.errors.items():
            if self._group is not None and isinstance(error, WorkerHealthCheckTimeoutError):
                ray.kill(self._group.get_workers()[rank].actor)
