"""Failures say who, what and why on one line, also after they crossed a process's border."""

import pickle

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from cluster import failures
from cluster.failures import (
    DeadlineExceeded,
    WorkerLost,
    cause_of_ranks,
    first_line,
    most_failures,
    name_process,
    out_of_memory,
)

LATE = (DeadlineExceeded, ("the buffer", "collect", 0.5, "block_deadline_s"))
SIGNED = (DeadlineExceeded, (*LATE[1], "rank 0", 3.21))
SIGN = "3.2 s before that"
WITHIN = "the buffer did not collect within 0.5 s (cluster.block_deadline_s)"
LOST = (WorkerLost, ("rollout worker 1", "take requests", "OSError: no disk"))


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (LATE, f"{WITHIN}; the driver waited for it"),
        (SIGNED, f"{WITHIN}; rank 0 waited for it; the buffer gave its last sign of life {SIGN}"),
        (LOST, "rollout worker 1 was lost while it should take requests: OSError: no disk"),
    ],
)
def test_a_failure_is_one_line_and_survives_pickling(failure, line):
    kind, arguments = failure
    again = pickle.loads(pickle.dumps(kind(*arguments)))
    assert type(again) is kind
    assert str(again) == line


def test_who_waited_is_said_by_who_waited(monkeypatch):
    """The error goes to other processes, with names of their own."""
    monkeypatch.setattr(failures, "_this_process", "the driver")
    name_process("learner rank 3")
    packed = pickle.dumps(DeadlineExceeded(*LATE[1]).with_last_sign(0.04))
    name_process("trajectory buffer")
    assert str(pickle.loads(packed)) == (
        f"{WITHIN}; learner rank 3 waited for it; "
        "the buffer gave its last sign of life 0.0 s before that"
    )
    assert str(DeadlineExceeded(*LATE[1])) == f"{WITHIN}; the trajectory buffer waited for it"


# As Ray words the death of an actor.
DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: RolloutActor
\tactor_id: 8a
\tpid: 27144
\tip: 192.0.2.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with code 2. End of file. Some common causes include: (1) …"""
OUT_OF_MEMORY = """The actor died unexpectedly before finishing this task.
\tpid: 7
Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed due to the node running \
low on memory.
Memory on the node was 15.2GB / 16GB"""


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
        (OSError("x" * 900), "OSError: " + "x" * 791),
        (OSError(DIED), "OSError: process 27144 ended: Worker unexpectedly exits with code 2"),
        (
            OSError(OUT_OF_MEMORY),
            "OSError: process 7 ended: Task was killed due to the node running low on memory",
        ),
        (OSError("Worker exit detail: it was ended"), "OSError: it was ended"),
    ],
)
def test_the_first_line_is_that_of_the_innermost_cause(error, line):
    assert first_line(error) == line


def dead(words):
    """As Ray Train has it: its own words, and what Ray said."""
    return WorkerHealthCheckFailedError("A worker health check failed.\nWorker info: …", words)


def test_a_rank_that_died_is_named_with_how_it_ended():
    killed = "rank 0: OSError: process 27144 ended: Worker unexpectedly exits with code 2"
    assert cause_of_ranks({0: dead(OSError(DIED))}) == killed
    memory = cause_of_ranks({3: dead(Wrapped(OSError(OUT_OF_MEMORY)))})
    assert memory.startswith("rank 3: OSError: process 7 ended: Task was killed due to the node")
    assert out_of_memory(memory)


def test_a_death_comes_before_what_it_does_to_other_ranks():
    closed = RuntimeError("gloo: Connection closed by peer")
    errors = {0: closed, 2: dead(OSError("two")), 1: dead(OSError("one")), 3: closed}
    assert cause_of_ranks(errors) == "rank 1: OSError: one"
    assert cause_of_ranks({3: closed, 2: OSError("own")}) == "rank 2: OSError: own"


def test_of_few_episodes_one_may_fail_by_chance_and_none_where_none_is_to():
    assert 1 < most_failures(0.05, 12) < 3
    assert 19 < most_failures(0.05, 256) < 20
    assert 530 < most_failures(0.05, 10_000) < 550
    assert most_failures(0.0, 10_000) == 0
    assert most_failures(1.0, 7) == 7
