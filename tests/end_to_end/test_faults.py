"""Real processes that are killed or stopped within a run: it goes on, or ends with its cause.

The whole table is `python -m benchmarks.faults`; here are its cases with their bounds.
"""

from __future__ import annotations

import os

import pytest

from benchmarks.chaos.phases import PHASES, STARTING
from benchmarks.chaos.run import HEARTBEAT_S, START_S, TITLES
from benchmarks.chaos.storage import FULL_TOO, SPILLS, STORE
from benchmarks.faults import MENDED, SIGNALS, chosen, measure
from cluster.driver.group_watch import GRACE_S

DEATH_S = 3.0  # until it is found, on a machine that does nothing else
LATE_S = 0.5  # that the news of a hang may take, beside what who brings it waits for a processor
BESIDE_S = 5.0  # of a recovery, what is not start-up
SILENT_S = {"environment": 30.0}  # others: the heartbeat
RESTARTS = ("rank", "buffer")  # with which the learner group begins again
ELSEWHERE = [phase for phase in PHASES if phase != "generating"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Faults that are mended, one after another in one run."""
    root = tmp_path_factory.mktemp("faults")
    everywhere = chosen([*MENDED], [*SIGNALS], ["generating"])
    elsewhere = chosen(["engine", *RESTARTS], ["SIGKILL"], ELSEWHERE)
    starting = chosen(["rank"], [*SIGNALS], [STARTING])
    found = []
    for result in measure(root, everywhere + elsewhere + starting):
        print(result.row(), flush=True)
        found.append(result)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_is_found_in_time(results):
    assert len(results) == (len(MENDED) + 1) * len(SIGNALS) + 3 * len(ELSEWHERE)
    for result in results:
        assert result.detected_s is not None, result.outcome
        starts = result.phase == STARTING
        silent = START_S + GRACE_S if starts else SILENT_S.get(result.part, HEARTBEAT_S)
        bound = DEATH_S if result.signal == "SIGKILL" else silent + LATE_S
        assert result.detected_s - (result.waited_s or 0.0) < bound, result


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_after_every_fault_the_run_is_at_full_speed_again(results):
    for result in results:
        assert result.full_speed_s is not None, result.outcome
        kept = "engines kept" in result.outcome
        assert kept == (result.part in ("learner rank", "controller", "buffer")), result.outcome
        if result.start_s is not None:
            assert result.full_speed_s - result.detected_s < result.start_s + BESIDE_S, result


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_learner_steps_as_before_while_a_worker_is_replaced(results):
    """By its own processor time: the start of a worker takes that of this machine from all."""
    slowed = [result.slowed[1] for result in results if result.slowed is not None]
    assert len(slowed) >= 4
    assert sum(slowed) / len(slowed) < 1.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "fault",
    [
        ("driver", "SIGKILL", "generating"),
        ("driver", "SIGKILL", "mid-checkpoint"),
        ("driver", "SIGKILL", "mid-evaluation"),
        ("driver", "SIGSTOP", "generating"),
        ("machine", "SIGSTOP", "generating"),
        pytest.param(
            ("state disk", "full", "–"),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="mounts"),
        ),
        pytest.param(
            ("run disk", "full", "–"), marks=pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
        ),
    ],
)
def test_what_no_part_can_mend_costs_no_more_than_a_resume(fault, tmp_path):
    (result,) = measure(tmp_path, [fault])
    print(result.row())
    part, signal, _ = fault
    if signal == "SIGSTOP" or part == "state disk":
        assert "the run goes on" in result.outcome, result.outcome
        assert signal != "SIGSTOP" or "losses: none" in result.outcome, result.outcome
    else:
        assert "no process left" in result.outcome, result.outcome
        assert result.full_speed_s is not None, result.outcome
    if part == "run disk":
        assert "No space left" in result.outcome, result.outcome


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_goes_to_another_node_when_its_raylet_is_dead_or_hangs(tmp_path):
    dead, hangs = measure(tmp_path, chosen(["raylet"], [*SIGNALS], ["generating"]))
    for result in (dead, hangs):
        print(result.row())
        assert result.outcome.startswith("on another node: replaced"), result.outcome
        assert "and with it" not in result.outcome, "the buffer is the learner's neighbour"
    assert dead.detected_s - (dead.waited_s or 0.0) < DEATH_S


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "phase",
    [
        SPILLS,
        pytest.param(FULL_TOO, marks=pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")),
    ],
)
def test_a_full_object_store_ends_no_run(phase, tmp_path):
    (result,) = measure(tmp_path, [(STORE, "full", phase)])
    print(result.row())
    assert result.outcome.startswith("the run goes on beside"), result.outcome


def test_processes_are_known_by_the_titles_that_ray_gives_them():
    from cluster.actors import RolloutActor
    from cluster.stream.buffer import TrajectoryBuffer

    for part, actor in (("actor", RolloutActor), ("buffer", TrajectoryBuffer)):
        name = actor.__ray_metadata__.modified_class.__name__
        assert f"ray::{name}".startswith(TITLES[part])
