"""What an error says and which code it has, where it is of several kinds; see test_command_line."""

from __future__ import annotations

import pytest

from cluster.failures import ClusterBusyError, InUseError, OutOfMemory, RunFailure
from cluster.run.lease import LeaseLost
from cluster.run.outcome import KNOWN, outcome
from cluster.run.stop_signals import Terminated
from envs.base import EnvironmentFailure


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ClusterBusyError("no GPU is free"), "no GPU is free", 75),  # a PlacementError
        (InUseError("in use"), "in use", 75),  # a ConfigError
        (Terminated("SIGHUP"), "ended by SIGHUP", 75),  # a KeyboardInterrupt
        (LeaseLost("taken"), "taken", 1),
        (EnvironmentFailure("it broke"), "it broke", 1),
        (OSError("disk"), "OSError: disk", 1),
        (OutOfMemory("a rank"), "a rank", 12),
        # Of an evaluation, where no learner group tells what it was.
        (RunFailure("worker 0: CUDA out of memory"), "worker 0: CUDA out of memory", 12),
        (RunFailure("worker 0 died"), "worker 0 died", 1),
        (MemoryError(), "this process is out of memory", 12),
        (MemoryError("4 GiB"), "this process is out of memory: 4 GiB", 12),
    ],
)
def test_the_most_special_kind_decides(error, line, code):
    assert outcome(error) == (line, code)
    assert isinstance(error, KNOWN)


def test_a_bug_is_not_known_and_is_a_failure_all_the_same():
    assert not issubclass(KeyError, KNOWN)
    assert outcome(KeyError("x")) == ("KeyError: 'x'", 1)
