"""The learner group seen from the driver: how each end of it is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train import ControllerError

from cluster.driver import learner_group
from cluster.driver.learner_group import cause_of, run_learner_group
from cluster.failures import OutOfMemory, RunFailure
from cluster.run.lease import LeaseLost
from cluster.run.run_folder import read_failure, read_losses, take_loss, write_failure, write_losses
from cluster.run.stop_signals import StopSignals, Terminated
from configs.load import load
from tests.cluster.fakes import FakeToken


def progress(tmp_path, shown):
    """A class in the place of Progress that takes note of its calls."""

    class Progress:
        state = SimpleNamespace(counted="ppo")

        def __init__(self, folder, cfg):
            assert folder == tmp_path

        def __enter__(self):
            return self

        def __exit__(self, *failure):
            shown.append("end")

        def update(self):
            shown.append("update")

    return Progress


@pytest.fixture
def group(monkeypatch, tmp_path):
    """run(fit) with a trainer whose `fit` is given; None is passed as plan."""
    token = FakeToken(tmp_path)
    job = SimpleNamespace(cfg=load("gp_l_debug"), token=token, folder=token.folder, model="initial")
    job.channel = "object_store"
    job.buffer = SimpleNamespace(stop=SimpleNamespace(remote=lambda: asked.append("stop")))
    shown, asked, signals = [], [], StopSignals()
    released = []
    monkeypatch.setattr(learner_group, "release_ranks", lambda: released.append(1))
    Progress = progress(tmp_path, shown)
    monkeypatch.setattr(learner_group, "Progress", Progress)
    monkeypatch.setattr(learner_group, "LOOK_S", 0.01)
    monkeypatch.setattr(learner_group, "END_S", 0.5)

    def run(fit):
        trainer = SimpleNamespace(fit=fit)
        monkeypatch.setattr(learner_group, "make_trainer", lambda *asked: trainer)
        with signals:
            run_learner_group(job, None, signals)
        return shown

    buffer_looks = []

    class BufferWatch:
        def __init__(self, buffer, heartbeat_s, start_s, most_losses):
            assert (buffer, heartbeat_s, start_s) == (job.buffer, 30.0, 300.0)
            restarts = job.cfg.learner.max_restarts
            assert most_losses == (restarts if job.channel == "object_store" else 0)

        def check(self):
            buffer_looks.append(1)
            if run.buffer_lost:
                raise run.buffer_lost

    class StartWatch:
        def __init__(self, buffer):
            assert buffer == job.buffer

        def failure(self):
            return run.start_failure

    monkeypatch.setattr(learner_group, "BufferWatch", BufferWatch)
    monkeypatch.setattr(learner_group, "StartWatch", StartWatch)
    run.start_failure = None
    run.job, run.buffer_lost, run.buffer_looks = job, None, buffer_looks
    run.released = released
    run.token, run.asked, run.shown, run.progress = token, asked, shown, Progress
    return run


class Endless:
    """A `fit` that does not end by itself; `waited_for` says whether it was waited for."""

    def __init__(self):
        self.over, self.waited_for = threading.Event(), False

    def __call__(self):
        self.over.wait(300)
        self.waited_for = True


@pytest.fixture
def endless():
    made = Endless()
    yield made
    made.over.set()


def until(happened, times=1):
    """Wait for so many entries of a list."""
    deadline = time.monotonic() + 200
    while len(happened) < times:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_finished_run_was_shown_to_its_end(group):
    shown = group(lambda: until(group.buffer_looks, 3))
    assert shown.count("update") > 2
    assert len(group.buffer_looks) > 2
    assert shown[-2:] == ["update", "end"]


def test_a_rank_that_ends_the_run_is_heard_while_the_group_goes_on(group, endless, tmp_path):
    def fit():
        write_failure(FakeToken(tmp_path), "rollout worker 0 was lost")
        waited.append(endless.over.wait(0.2))  # for which it is waited: it may end by itself
        endless()

    waited = []
    with pytest.raises(RunFailure, match=r"^rollout worker 0 was lost$"):
        group(fit)
    assert (waited, endless.waited_for) == ([False], False)


def test_a_storage_that_is_away_for_a_moment_ends_nothing(group, capsys):
    def fit():
        group.token.lost = OSError("a stale file handle")
        until(group.buffer_looks, len(group.buffer_looks) + 3)
        group.token.lost = None

    assert group(fit)[-2:] == ["update", "end"]
    assert capsys.readouterr().err.count("a stale file handle") == 1


def test_a_folder_that_was_taken_over_ends_the_run(group, endless):
    def fit():
        group.token.lost = LeaseLost("another run has taken this run folder")
        endless()

    with pytest.raises(LeaseLost, match="another run has taken"):
        group(fit)
    assert not endless.waited_for


def test_a_signal_has_the_group_save_its_state_and_then_ends_the_run(group, tmp_path):
    def fit():
        until(group.shown)
        os.kill(os.getpid(), signal.SIGTERM)
        until(group.asked)
        write_failure(FakeToken(tmp_path), "the run was asked to stop")

    with pytest.raises(Terminated):
        group(fit)
    assert group.asked


def grace(group, seconds):
    cluster = replace(group.job.cfg.cluster, grace_s=seconds)
    group.job.cfg = replace(group.job.cfg, cluster=cluster)


@pytest.mark.parametrize(("phase", "signals"), [("", 1), ("sft", 2)])
def test_it_ends_soon_where_nothing_is_learned_yet_or_at_a_second_signal(
    group, endless, phase, signals
):
    def fit():
        until(group.shown)
        os.kill(os.getpid(), signal.SIGINT)
        if signals > 1:
            until(group.asked)
            os.kill(os.getpid(), signal.SIGINT)
        endless()

    group.progress.state.counted = phase
    grace(group, 1000.0)
    with pytest.raises(KeyboardInterrupt):
        group(fit)
    assert not endless.waited_for
    assert group.asked


def test_a_state_that_is_not_written_in_time_is_not_waited_for(group, endless, capsys):
    grace(group, 0.3)

    def fit():
        until(group.shown)
        os.kill(os.getpid(), signal.SIGTERM)
        endless()

    begin = time.monotonic()
    with pytest.raises(Terminated):
        group(fit)
    assert time.monotonic() - begin >= 0.3
    assert not endless.waited_for
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "SIGTERM: the run ends within 0.3 s, with a last checkpoint if it trains" in said


@pytest.mark.parametrize(
    ("cause", "kind", "said"),
    [
        ("rank 1: CUDA out of memory. Tried to allocate 2 GiB", OutOfMemory, "microbatch_tokens="),
        ("rollout worker 0 was lost: out of memory", OutOfMemory, "; lower rollout.in_flight=32"),
        ("an engine was lost", RunFailure, "an engine was lost"),
    ],
)
def test_a_full_memory_is_told_apart(group, tmp_path, cause, kind, said):
    with pytest.raises(RunFailure) as error:
        group(lambda: write_failure(FakeToken(tmp_path), cause))
    assert type(error.value) is kind
    assert str(error.value).startswith(cause)
    assert said in str(error.value)


@pytest.mark.parametrize("channel", ["object_store", "nccl"])
def test_a_buffer_that_is_lost_for_good_ends_the_run(group, endless, channel):
    group.job.channel = channel
    group.buffer_lost = RunFailure("the trajectory buffer did not give a sign of life")
    with pytest.raises(RunFailure, match=r"^the trajectory buffer did not"):
        group(endless)


def test_its_line_wins_over_the_groups_own_error(group, tmp_path):
    def fit():
        write_failure(FakeToken(tmp_path), "rollout worker 0 was lost")
        raise OSError("the group")

    with pytest.raises(RunFailure, match=r"^rollout worker 0 was lost$"):
        group(fit)


def test_a_group_that_fails_is_told_with_its_cause(group):
    def fit():
        raise OSError("no disk")

    with pytest.raises(RunFailure, match=r"^the learner group failed: OSError: no disk$"):
        group(fit)


def test_failure_and_loss_of_an_earlier_attempt_are_forgotten(group, tmp_path):
    write_failure(FakeToken(tmp_path), "long ago")
    write_losses(FakeToken(tmp_path), "SFT step 0 ", ["long ago"])
    group(lambda: None)
    assert read_failure(tmp_path) is None
    assert take_loss(tmp_path) is None
    assert read_losses(tmp_path, "SFT step 0 ") == []


def broken_start(*fates):
    """A `fit` whose groups end so, one after another; a last one ends well."""
    left, begun = [*fates], []

    def fit():
        begun.append(1)
        if left:
            raise left.pop(0)

    fit.begun = begun
    return fit


class WorkerGroupStartupFailedError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ControllerError(RayTaskError("setup", "a traceback", OSError("closed by peer"))),
        ControllerError(ActorDiedError()),
        ControllerError(WorkerGroupStartupFailedError("a rank died")),
    ],
)
def test_a_group_that_loses_a_process_in_its_start_is_started_again(group, tmp_path, error):
    fit = broken_start(error, error)
    group(fit)
    assert len(fit.begun) == 3
    assert len(group.released) == 2, "each gives its places back before the next one asks"
    assert len(read_losses(tmp_path, "SFT step 0 ")) == 2


class WorkerGroupStartupTimeoutError(Exception):
    pass


@pytest.mark.parametrize("worked", [False, True])
def test_a_place_that_an_earlier_group_has_had_is_waited_for_again(
    group, tmp_path, monkeypatch, worked
):
    late = ControllerError(WorkerGroupStartupTimeoutError())
    monkeypatch.setattr(learner_group, "waiting_ranks", lambda plan, seconds: "they waited")

    def begin(watch):
        watch.worked = worked

    monkeypatch.setattr(learner_group.GroupWatch, "begin", begin)
    monkeypatch.setattr(learner_group.GroupWatch, "check", lambda watch: None)
    if worked:
        group(broken_start(late))
        assert read_losses(tmp_path, "SFT step 0 ") == ["they waited"]
    else:
        with pytest.raises(RunFailure, match=r"^the learner group failed: they waited$"):
            group(broken_start(late))


@pytest.mark.parametrize("error", [ControllerError(OSError("no disk")), OSError("no disk")])
def test_a_group_that_fails_otherwise_is_not(group, error):
    fit = broken_start(error)
    with pytest.raises(RunFailure, match=r"^the learner group failed: OSError: no disk$"):
        group(fit)
    assert len(fit.begun) == 1


def test_one_that_is_lost_in_its_start_too_often_ends_the_run(group):
    lost = ControllerError(RayTaskError("setup", "a traceback", OSError("closed by peer")))
    fit = broken_start(*[lost] * 5)
    with pytest.raises(RunFailure, match=r"failed: OSError: closed by peer \(the first"):
        group(fit)
    assert len(fit.begun) == group.job.cfg.learner.max_restarts + 1


def test_one_that_the_driver_has_ended_is_lost_for_that(group, tmp_path, monkeypatch):
    def begin(watch):
        watch.loss = "Ray Train's controller did not start the learner group within 300 s"

    monkeypatch.setattr(learner_group.GroupWatch, "begin", begin)
    group(broken_start(ActorDiedError()))
    (cause,) = read_losses(tmp_path, "SFT step 0 ")
    assert cause.startswith("Ray Train's controller did not start")


def test_a_controller_without_a_sign_ends_the_run_where_it_cannot_be_ended(
    group, endless, monkeypatch
):
    def check(watch):
        raise RunFailure("Ray Train's controller did not start the learner group")

    monkeypatch.setattr(learner_group.GroupWatch, "check", check)
    with pytest.raises(RunFailure, match=r"^Ray Train's controller did not start"):
        group(endless)


class TrainError(Exception):
    def __init__(self, **parts):
        super().__init__("Ray Train's own words")
        vars(self).update(parts)


def test_the_cause_is_the_first_ranks_own(monkeypatch):
    cfg = load("gp_l_debug")
    monkeypatch.setattr(learner_group, "waiting_ranks", lambda plan, seconds: (plan, seconds))
    late = TrainError(controller_failure=WorkerGroupStartupTimeoutError())
    assert cause_of(late, cfg, "plan") == ("plan", cfg.cluster.start_deadline_s)
    controller = TrainError(controller_failure=OSError("no disk"))
    assert cause_of(controller, cfg, "plan") == "OSError: no disk"
    ranks = TrainError(worker_failures={2: OSError("two"), 1: OSError("one")})
    assert cause_of(ranks, cfg, "plan") == "rank 1: OSError: one"
    assert cause_of(TrainError(), cfg, "plan") == "TrainError: Ray Train's own words"


@pytest.mark.parametrize("layout", ["disaggregated", "colocated"])
def test_an_engine_that_does_not_start_ends_the_run_before_its_ranks_are_up(group, endless, layout):
    """Colocated engines wait for their ranks' GPUs: rank 0 has them start."""
    cluster = replace(group.job.cfg.cluster, layout=layout)
    group.job.cfg = replace(group.job.cfg, cluster=cluster)
    group.start_failure = "rollout worker 0: vLLM cannot start on x: no room"
    if layout == "colocated":
        group(lambda: until(group.buffer_looks, 3))
        return
    with pytest.raises(RunFailure, match=r"^rollout worker 0: vLLM cannot start on x: no room$"):
        group(endless)
    assert not endless.waited_for


def test_one_for_lack_of_memory_is_told_with_the_keys_that_lower_it(group, endless):
    group.start_failure = "rollout worker 0: vLLM cannot start on x: out of memory"
    with pytest.raises(OutOfMemory, match=r"; lower rollout\.in_flight="):
        group(endless)
