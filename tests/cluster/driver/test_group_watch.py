"""Whether Ray Train's controller lives, as the driver sees it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from dataclasses import asdict, replace

import pytest
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    PreemptingState,
    RunningState,
    ShuttingDownState,
)

from cluster.driver.group_watch import GroupWatch, Signs
from cluster.failures import DeadlineExceeded
from cluster.run.lease import LeaseLost, Owner
from cluster.run.left_processes import process_state
from cluster.run.run_folder import CONTROLLER
from configs.schema import ClusterConfig
from tests.cluster.fakes import FakeToken


@pytest.fixture
def process():
    """A process that does nothing, in the controller's place."""
    with subprocess.Popen(["sleep", "100"]) as made:
        yield made
        made.kill()


@pytest.fixture
def watched(tmp_path, process, monkeypatch):
    """Signs of a process, and pass_time(seconds) for the driver that looks every half second."""
    owner = replace(Owner.this_process(), pid=process.pid, started=process_state(process.pid)[1])
    monkeypatch.setattr(Owner, "this_process", classmethod(lambda cls: owner))
    now = [100.0]
    cluster = replace(ClusterConfig(), heartbeat_s=8.0, start_deadline_s=60.0)
    watch = GroupWatch(tmp_path, cluster, 2, lambda: now[0])

    def pass_time(seconds):
        for _ in range(int(seconds * 2)):
            now[0] += 0.5
            watch.check()

    pass_time.clock = now
    return watch, Signs(FakeToken(tmp_path)), pass_time


def ended(process):
    return process.wait(10) == -signal.SIGKILL


def test_nothing_is_expected_before_a_group_is_to_begin(watched):
    _, _, pass_time = watched
    pass_time(500.0)


def test_one_that_never_begins_is_waited_for_as_often_as_a_group_may_be_lost(watched, capsys):
    watch, _, pass_time = watched
    for _ in range(2):
        watch.begin()
        pass_time(64.5)
        assert capsys.readouterr().err == ""
        pass_time(65.0)
        said = capsys.readouterr().err.splitlines()
        assert said == [
            "Ray Train's controller did not start the learner group within 60 s "
            "(cluster.start_deadline_s); the driver waited for it; it is waited for again"
        ]
        pass_time(65.0)
        assert len(capsys.readouterr().err.splitlines()) == 1
    words = r"^Ray Train's controller did not start the learner group within 60 s \(cluster.start"
    with pytest.raises(DeadlineExceeded, match=words):
        pass_time(1.0)


def test_that_a_group_has_worked_is_remembered(watched):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_start(None)
    pass_time(1.0)
    assert not watch.worked
    signs.after_controller_state_update(None, RunningState())
    pass_time(1.0)
    assert watch.worked
    watch.begin()
    pass_time(1.0)
    assert watch.worked


@pytest.mark.parametrize(
    "sign",
    [
        lambda signs: signs.before_worker_group_start(None),
        lambda signs: signs.before_init_train_context([]),
        lambda signs: signs.after_worker_group_start(None),
        lambda signs: signs.after_controller_state_update(None, InitializingState()),
    ],
)
def test_a_group_that_hangs_in_its_start_is_ended_at_the_deadline(
    watched, process, tmp_path, sign, capsys
):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_start(None)
    pass_time(60.0)
    before = (tmp_path / CONTROLLER).stat().st_mtime_ns
    os.utime(tmp_path / CONTROLLER, ns=(0, 0))
    sign(signs)
    assert (tmp_path / CONTROLLER).stat().st_mtime_ns >= before, "it has given a sign"
    pass_time(64.0)
    assert process.poll() is None
    pass_time(2.0)
    assert ended(process)
    words = "Ray Train's controller did not start the learner group within 60 s"
    assert watch.loss.startswith(words)
    assert capsys.readouterr().err.startswith(words)
    assert not (tmp_path / CONTROLLER).exists()


@pytest.mark.parametrize("state", [RunningState(), PreemptingState(None, 0.0)])
def test_one_that_stops_to_look_at_the_ranks_is_ended_at_the_heartbeat(
    watched, process, tmp_path, state
):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_start(None)
    signs.after_controller_state_update(None, state)
    for _ in range(5):
        pass_time(6.5)
        os.utime(tmp_path / CONTROLLER, ns=(0, 0))
        signs.after_worker_group_poll_status(None)
    assert process.poll() is None
    pass_time(6.0)
    assert process.poll() is None
    pass_time(2.0)
    assert ended(process)
    assert "did not look at the learner ranks within 8 s (cluster.heartbeat_s)" in watch.loss


def test_however_short_the_heartbeat_two_of_its_signs_may_be_late(watched, process, tmp_path):
    _, signs, _ = watched
    now = [100.0]
    cluster = replace(ClusterConfig(), heartbeat_s=1.0, start_deadline_s=60.0)
    watch = GroupWatch(tmp_path, cluster, 2, lambda: now[0])
    watch.begin()
    signs.after_controller_state_update(None, RunningState())
    for _ in range(10):
        watch.check()
        now[0] += 0.49
    assert process.poll() is None
    for _ in range(2):
        watch.check()
        now[0] += 0.5
    assert ended(process)


def test_a_machine_that_was_frozen_has_no_group_that_hangs(watched, process):
    """Neither the driver nor the controller worked for a minute; then one of them does not."""
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_state_update(None, RunningState())
    pass_time(4.0)
    pass_time.clock[0] += 60.0
    pass_time(1.0)
    assert process.poll() is None
    pass_time(4.0)
    assert ended(process)


def test_what_the_last_one_left_is_no_sign_of_the_next(watched, process):
    watch, signs, pass_time = watched
    signs.after_controller_state_update(None, RunningState())
    watch.begin()
    pass_time(20.0)
    assert process.poll() is None
    assert not watch.worked


def test_the_next_one_has_its_own_time(watched, process, tmp_path):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_start(None)
    pass_time(66.0)
    assert ended(process)
    watch.begin()
    assert watch.loss == ""
    pass_time(3 * 65.0 - 1.0)
    with pytest.raises(DeadlineExceeded):
        pass_time(2.0)


def test_a_process_that_only_has_its_number_is_not_ended(watched, process, tmp_path):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_start(None)
    content = json.loads((tmp_path / CONTROLLER).read_text())
    content["owner"]["started"] += 1
    (tmp_path / CONTROLLER).write_text(json.dumps(content))
    pass_time(3 * 65.0 - 1.0)
    with pytest.raises(DeadlineExceeded):
        pass_time(2.0)
    assert process.poll() is None


def test_while_it_ends_a_group_it_has_the_time_of_a_start(watched, process):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_start(None)
    signs.after_controller_state_update(None, RunningState())
    signs.after_controller_state_update(None, ShuttingDownState(next_state=None))
    pass_time(60.0)
    assert process.poll() is None


def test_it_says_where_it_is_only_when_that_changes(tmp_path):
    signs = Signs(FakeToken(tmp_path))
    signs.after_controller_start(None)
    file = (tmp_path / CONTROLLER).stat().st_ino
    signs.after_controller_state_update(None, InitializingState())
    assert (tmp_path / CONTROLLER).stat().st_ino == file
    signs.after_controller_state_update(None, RunningState())
    content = json.loads((tmp_path / CONTROLLER).read_text())
    assert content["watches"]
    assert content["owner"]["pid"] == os.getpid() == asdict(Owner.this_process())["pid"]
    (tmp_path / CONTROLLER).unlink()
    signs.after_worker_group_poll_status(None)
    assert not (tmp_path / CONTROLLER).exists(), "the driver has ended its time"


def test_what_a_storage_that_is_away_does_not_take_is_said_with_the_next_sign(
    tmp_path, monkeypatch
):
    token = FakeToken(tmp_path)
    signs = Signs(token)
    signs.after_controller_start(None)
    assert "; Ray Train's controller waited" in str(DeadlineExceeded("it", "answer", 1.0, "x"))
    token.lost = OSError(errno.EIO, "no answer")
    signs.after_controller_state_update(None, RunningState())
    signs.after_worker_group_poll_status(None)
    assert not json.loads((tmp_path / CONTROLLER).read_text())["watches"]
    token.lost = None
    signs.after_worker_group_poll_status(None)
    assert json.loads((tmp_path / CONTROLLER).read_text())["watches"]
    token.lost = OSError(errno.ENOSPC, "no room")
    with pytest.raises(OSError, match="no room"):
        signs.after_controller_state_update(None, ShuttingDownState(next_state=None))


def test_signs_that_cannot_be_read_are_no_silence(watched, process, tmp_path):
    watch, signs, pass_time = watched
    watch.begin()
    signs.after_controller_state_update(None, RunningState())
    pass_time(6.0)
    (tmp_path / CONTROLLER).rename(tmp_path / "kept")
    (tmp_path / CONTROLLER).mkdir()  # an error of the storage's
    with pytest.raises(OSError, match="directory"):
        pass_time(1.0)
    (tmp_path / CONTROLLER).rmdir()
    (tmp_path / "kept").rename(tmp_path / CONTROLLER)
    pass_time(6.0)
    assert process.poll() is None
    pass_time(2.0)
    assert ended(process)


def test_a_folder_that_is_another_runs_gets_no_sign(tmp_path):
    lost, token = LeaseLost("another run has taken this run folder"), FakeToken(tmp_path)
    signs = Signs(token)
    signs.after_controller_start(None)
    token.lost = lost
    for say in (signs.after_controller_start, signs.after_worker_group_poll_status):
        with pytest.raises(LeaseLost):
            say(None)
    with pytest.raises(LeaseLost):
        Signs(FakeToken(tmp_path, lost)).after_controller_start(None)
