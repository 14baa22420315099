"""A rank that hangs is ended as soon as it is taken for lost."""

from types import SimpleNamespace

import pytest
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerStatus

from cluster.driver import hung_ranks as module
from cluster.driver.hung_ranks import HungRanks

LATE = WorkerHealthCheckTimeoutError("hanging for 7.01 seconds")


@pytest.fixture
def killed(monkeypatch):
    actors = []
    monkeypatch.setattr(module.ray, "kill", actors.append)
    return actors


def group(*actors):
    return SimpleNamespace(get_workers=lambda: [SimpleNamespace(actor=actor) for actor in actors])


def seen(*errors):
    return WorkerGroupPollStatus(
        {rank: WorkerStatus(running=True, error=error) for rank, error in enumerate(errors)}
    )


def test_only_the_ranks_that_gave_no_answer_are_ended(killed):
    """One that died has its own words to be read, and the others end by themselves."""
    watch = HungRanks()
    watch.after_worker_group_start(group("a", "b", "c", "d"))
    watch.after_worker_group_poll_status(seen(None, None, None, None))
    assert killed == []
    dead = WorkerHealthCheckFailedError("a worker health check failed", OSError("dead"))
    watch.after_worker_group_poll_status(seen(None, LATE, dead, LATE))
    assert killed == ["b", "d"]


def test_it_is_the_present_groups_rank(killed):
    watch = HungRanks()
    for actors in ("ab", "cd"):
        watch.after_worker_group_start(group(*actors))
        watch.after_worker_group_poll_status(seen(LATE, None))
    assert killed == ["a", "c"]
