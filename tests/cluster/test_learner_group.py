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
from ray.train import ControllerError, ScalingConfig

from cluster import learner_group
from cluster.cursor import Cursor
from cluster.deadlines import group_deadline_s
from cluster.failures import OutOfMemory, RunFailure
from cluster.group_watch import Signs
from cluster.job import Job
from cluster.learner_group import cause_of, make_trainer, run_learner_group, with_demonstrations
from cluster.lease import LeaseLost
from cluster.run_folder import (
    read_failure,
    read_losses,
    take_loss,
    write_failure,
    write_losses,
)
from cluster.stop_signals import StopSignals, Terminated
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
    monkeypatch.setattr(learner_group, "WATCH_S", 0.01)
    monkeypatch.setattr(learner_group, "END_S", 0.5)

    def run(fit):
        trainer = SimpleNamespace(fit=fit)
        monkeypatch.setattr(learner_group, "make_trainer", lambda *asked: trainer)
        with signals:
            run_learner_group(job, None, None, signals)
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

    monkeypatch.setattr(learner_group, "BufferWatch", BufferWatch)
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
        endless()

    with pytest.raises(RunFailure, match=r"^rollout worker 0 was lost$"):
        group(fit)
    assert not endless.waited_for


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


def test_no_process_of_ray_trains_own_outlives_a_controller(tmp_path, monkeypatch):
    monkeypatch.setattr(learner_group, "scaling", lambda cfg, plan: ScalingConfig(num_workers=1))
    job = SimpleNamespace(
        cfg=load("gp_l_debug"), folder=str(tmp_path), token=FakeToken(tmp_path), model="initial"
    )
    callbacks = make_trainer(job, SimpleNamespace(gpu=False))._create_default_callbacks()
    names = {type(callback).__name__ for callback in callbacks}
    assert {"BackendSetupCallback", "Signs"} < names
    assert "PlacementGroupCleanerCallback" not in names


@pytest.mark.parametrize(("gpu", "backend"), [(False, "gloo"), (True, "nccl")])
def test_what_ray_train_is_told(monkeypatch, tmp_path, gpu, backend):
    seen = {}
    monkeypatch.setattr(learner_group, "Trainer", lambda *_, **given: seen.update(given))
    monkeypatch.setattr(learner_group, "scaling", lambda cfg, plan: "scaling")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "")
    cfg = load("gp_l_debug", ["cluster.start_deadline_s=40", "learner.max_restarts=5"])
    job = SimpleNamespace(cfg=cfg, folder=str(tmp_path), token=FakeToken(tmp_path), model="initial")
    make_trainer(job, SimpleNamespace(gpu=gpu))
    assert learner_group.os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "40.0"
    assert learner_group.os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] == "30.0"
    assert seen["torch_config"].backend == backend
    assert seen["torch_config"].timeout_s == int(group_deadline_s(cfg))
    assert seen["train_loop_config"] == {"job": job}
    assert seen["run_config"].failure_config.max_failures == -1
    assert seen["run_config"].failure_config.controller_failure_limit == 0
    limit, signs = seen["run_config"].callbacks
    assert (limit._most, type(signs), signs._token) == (5, Signs, job.token)
    assert seen["run_config"].storage_path == str(tmp_path)


@pytest.mark.parametrize(
    ("cursor", "parquet", "rendered"),
    [
        (None, "data", ("data", "initial", 300.0, None)),
        (Cursor("sft", step=3), "data", ("data", "initial", 300.0, None)),
        (Cursor("ppo"), "data", None),
        (Cursor("done"), "data", None),
        (None, None, None),
    ],
)
def test_demonstrations_are_rendered_while_sft_is_left(
    monkeypatch, tmp_path, cursor, parquet, rendered
):
    monkeypatch.setattr(learner_group, "render_demonstrations", lambda *given: given)
    if cursor:
        cursor.save(tmp_path / "checkpoints", keep=1)
    job = Job(load("gp_l_debug"), FakeToken(tmp_path), "initial", [], None)
    assert with_demonstrations(job, parquet).demonstrations == rendered


def test_what_cannot_be_rendered_is_the_runs_own_line(group, monkeypatch):
    def broken(job, parquet):
        raise RunFailure("demonstrations cannot be rendered: a/part-7.parquet")

    monkeypatch.setattr(learner_group, "with_demonstrations", broken)
    with pytest.raises(RunFailure, match=r"^demonstrations cannot be rendered: a/part-7"):
        group(lambda: None)
