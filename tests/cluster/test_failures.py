"""Failures say who, what and why on one line, also after they crossed a process's border."""

import pickle

import pytest

from cluster.failures import DeadlineExceeded, WorkerLost, first_line

LATE = (DeadlineExceeded, ("the buffer", "collect", 0.5, "block_deadline_s"))
LOST = (WorkerLost, ("rollout worker 1", "take requests", "OSError: no disk"))


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (LATE, "the buffer did not collect within 0.5 s (cluster.block_deadline_s)"),
        (LOST, "rollout worker 1 was lost while it should take requests: OSError: no disk"),
    ],
)
def test_a_failure_is_one_line_and_survives_pickling(failure, line):
    kind, arguments = failure
    again = pickle.loads(pickle.dumps(kind(*arguments)))
    assert type(again) is kind
    assert str(again) == line


class Wrapped(Exception):
    def __init__(self, cause):
        super().__init__("a traceback\nof many lines")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("\n  no disk\nand more"), "OSError: no disk"),
        (KeyError(), "KeyError: KeyError"),
        (Wrapped(OSError("no disk")), "OSError: no disk"),
        (Wrapped(None), "Wrapped: a traceback"),
        (OSError("x" * 900), "OSError: " + "x" * 491),
    ],
)
def test_the_first_line_is_that_of_the_innermost_cause(error, line):
    assert first_line(error) == line
