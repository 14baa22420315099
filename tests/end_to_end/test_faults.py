"""Real processes that are killed or stopped within a run: it goes on, or ends with its cause.

The whole table is `python -m benchmarks.faults`; here are its cases with their bounds.
"""

from __future__ import annotations

import pytest

from benchmarks.faults import HEARTBEAT_S, MENDED, PHASES, SIGNALS, TITLES, measure

BUSY_S = 20.0  # a machine that does other things answers later


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All faults that are mended, one after another in one run."""
    root = tmp_path_factory.mktemp("faults")
    return list(measure(root, [*MENDED], [*PHASES], [*SIGNALS]))


@pytest.mark.slow
def test_every_fault_is_found_in_time(results):
    assert len(results) == len(MENDED) * len(PHASES) * len(SIGNALS)
    for result in results:
        if (result.part, result.signal) == ("learner rank", "SIGKILL"):
            continue  # seen only by the time until full speed
        assert result.detected_s is not None, result.outcome
        bound = 3.0 if result.signal == "SIGKILL" else HEARTBEAT_S
        assert result.detected_s < bound + BUSY_S, result


@pytest.mark.slow
def test_after_every_fault_the_run_is_at_full_speed_again(results):
    for result in results:
        assert result.full_speed_s is not None, result.outcome
        kept = "engines kept" in result.outcome
        assert kept == (result.part == "learner rank"), result.outcome


@pytest.mark.slow
@pytest.mark.parametrize("part", ["buffer", "driver"])
def test_a_run_that_cannot_go_on_ends_with_its_cause_and_leaves_nothing(part, tmp_path):
    (result,) = measure(tmp_path, [part], [*PHASES], ["SIGKILL"])
    assert result.outcome.endswith("no process left"), result.outcome
    if part == "buffer":
        assert "buffer was lost" in result.outcome


def test_processes_are_known_by_the_titles_that_ray_gives_them():
    from cluster.actors import RolloutActor
    from cluster.buffer import TrajectoryBuffer

    for part, actor in (("actor", RolloutActor), ("buffer", TrajectoryBuffer)):
        name = actor.__ray_metadata__.modified_class.__name__
        assert f"ray::{name}".startswith(TITLES[part])
