"""The order of a rank's phases from each cursor, and what it tells the driver."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from cluster.checkpoints.cursor import Cursor
from cluster.deadlines import GRACE_S
from cluster.failures import (
    DeadlineExceeded,
    EpochOver,
    RunFailure,
    RunStopped,
    SourceLost,
    StateLost,
    WorkerLost,
)
from cluster.handles import BufferHandle
from cluster.job import Job
from cluster.phases import learner_loop
from cluster.phases.learner_loop import run_phases
from cluster.run.lease import Lease, LeaseLost
from cluster.run.memory_failure import LearnerMemory
from cluster.run.run_folder import read_failure, write_losses
from cluster.wait import _typed_errors
from tests.cluster.fakes import FakeCollector, FakeRank, FakeToken
from tests.support.learner import config


class Method:
    def __init__(self, value):
        self.value = value

    def remote(self):
        return self.value


class FakeActor:
    """The buffer's actor: it knows its engines' nodes, and which epoch begins."""

    def __init__(self, epoch):
        self.start, self.reset = Method(["node 0", "node 1"]), Method(epoch)


class Clock:
    """Time that passes only where somebody sleeps."""

    now = 50.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def loop(monkeypatch, tmp_path):
    """make(cursor, …) gives a rank whose phases note their beginning."""
    monkeypatch.setattr(learner_loop, "time", Clock())

    def make(cursor, number=0, steps=4, epoch=1):
        cfg = config()
        cfg = replace(cfg, sft=replace(cfg.sft, steps=steps, batch_size=8))
        rank = FakeRank(cfg, tmp_path, number)
        rank.cursor = cursor
        rank.job = Job(cfg, FakeToken(tmp_path), "initial", [], BufferHandle(FakeActor(epoch)))
        monkeypatch.setattr(learner_loop, "Collector", lambda *_: FakeCollector(rank))
        rank.job = replace(rank.job, demonstrations="rendered" if steps else None)

        def sft(rank, publisher, collector, evaluation, demonstrations):
            def run():
                rank.done.append(("sft", list(demonstrations)))
                rank.cursor = Cursor("ppo")

            return SimpleNamespace(run=run)

        def ppo(rank, publisher, collector, evaluation):
            return SimpleNamespace(run=lambda: rank.done.append("ppo"))

        def batches(rendered, cfg, number, skip):
            assert rank.done == ["room for rendered"]
            assert cfg is rank.cfg
            return iter([(rendered, number, skip)])

        def check_object_store(rendered):
            rank.done.append(f"room for {rendered}")

        context = SimpleNamespace(get_node_id=lambda: "here")
        monkeypatch.setattr(learner_loop, "SFTPhase", sft)
        monkeypatch.setattr(learner_loop, "PPOPhase", ppo)
        monkeypatch.setattr(learner_loop, "batches", batches)
        monkeypatch.setattr(learner_loop, "check_object_store", check_object_store)
        monkeypatch.setattr(learner_loop, "Prefetched", iter)

        def wait_for(answer, who, what, seconds, key):
            rank.done.append((who, what, round(seconds), key))
            return answer

        monkeypatch.setattr(learner_loop, "wait_for", wait_for)
        monkeypatch.setattr(learner_loop.ray, "get_runtime_context", lambda: context)
        return rank

    return make


def buffer_lost():
    error = WorkerLost("the buffer", "complete the batch of update 3", "ActorUnavailableError")
    error.__cause__ = ActorUnavailableError("socket closed", None)
    return error


STARTED = ("the buffer", "start all engines", 300 + GRACE_S, "start_deadline_s")
BEGUN = ("the buffer", "begin an epoch", 600, "block_deadline_s")


def test_engines_are_waited_for_then_sft_then_ppo(loop):
    rank = loop(Cursor("sft", step=3))
    run_phases(rank)
    sft = ("sft", [("rendered", 0, 3)])
    assert rank.done == ["room for rendered", STARTED, BEGUN, sft, "ppo"]
    assert rank.job.buffer.epoch == 1
    places = {"ranks": ["here"], "workers": ["node 0", "node 1"]}
    assert rank.records == [{"kind": "placement"} | places]


@pytest.mark.parametrize("number", [0, 1])
def test_colocated_engines_get_the_ranks_gpus_before_they_start(loop, monkeypatch, number):
    rank = loop(Cursor("ppo"), number=number)
    rank.cfg = replace(rank.cfg, cluster=replace(rank.cfg.cluster, layout="colocated"))
    monkeypatch.setattr(learner_loop, "own_gpus", lambda: "own")

    def share(cfg, workers, ranks):
        rank.done.append(("shared", cfg is rank.cfg, workers is rank.job.workers, ranks))

    monkeypatch.setattr(learner_loop, "share_gpus", share)
    run_phases(rank)
    shared = [("shared", True, True, ["own"]), STARTED, BEGUN] if number == 0 else []
    assert rank.done == [*shared, "ppo"]


def test_other_ranks_wait_for_no_engine(loop):
    rank = loop(Cursor(), number=1)
    run_phases(rank)
    assert rank.done == ["room for rendered", ("sft", [("rendered", 1, 0)]), "ppo"]
    assert rank.records == []


def test_on_recorded_blocks_there_is_no_sft_and_no_engine(loop, monkeypatch):
    rank = loop(Cursor(), steps=0)
    rank.cfg = replace(rank.cfg, ppo=replace(rank.cfg.ppo, blocks="x"))
    monkeypatch.setattr(learner_loop, "RecordedCollector", lambda *_: FakeCollector(rank))
    run_phases(rank)
    assert rank.done == [STARTED, BEGUN, "ppo"]
    assert rank.cursor == Cursor("ppo")


def test_a_run_that_records_takes_its_batches_from_engines(loop, monkeypatch):
    rank = loop(Cursor("ppo"))
    rank.cfg = replace(rank.cfg, ppo=replace(rank.cfg.ppo, record=True))
    monkeypatch.setattr(learner_loop, "Collector", None)
    monkeypatch.setattr(learner_loop, "RecordingCollector", lambda *_: FakeCollector(rank))
    run_phases(rank)
    assert rank.done[-2:] == [BEGUN, "ppo"]


@pytest.mark.parametrize(
    ("cursor", "steps", "phases"),
    [
        (Cursor(), 0, [("sft", []), "ppo"]),
        (Cursor("ppo", update=2), 4, ["ppo"]),
        (Cursor("done"), 4, []),
    ],
)
def test_it_begins_at_the_cursor(loop, cursor, steps, phases):
    rank = loop(cursor, steps=steps)
    run_phases(rank)
    assert rank.done[2:] == phases


def test_a_group_that_restarts_says_so_and_where_it_goes_on(loop):
    rank = loop(Cursor("ppo", update=2), epoch=3)
    run_phases(rank)
    restart = {"who": "learner", "cause": "goes on after ppo 2", "epoch": 3}
    assert rank.of("restart") == [{"kind": "restart"} | restart]
    assert rank.job.buffer.epoch == 3


def test_every_rank_is_of_the_epoch_that_rank_0_has_begun(loop, monkeypatch):
    """The buffer answers no call of another one."""
    monkeypatch.setattr(learner_loop.distributed, "all_gather", lambda own: [3, own])
    rank = loop(Cursor("ppo"), number=1)
    run_phases(rank)
    assert rank.job.buffer.epoch == 3


def too_late():
    """As `wait_for` raises it where Ray's own deadline has passed."""
    try:
        with _typed_errors("the buffer", "collect", 5.0, "block_deadline_s"):
            raise GetTimeoutError("not ready")
    except DeadlineExceeded as failure:
        return failure


def test_a_group_that_restarts_records_once_why_the_one_before_was_lost(loop, tmp_path):
    write_losses(FakeToken(tmp_path), "PPO", ["rank 1: ActorDiedError: process 7 ended"])
    for expected in ([{"who": "learner", "cause": "rank 1: ActorDiedError: process 7 ended"}], []):
        rank = loop(Cursor("ppo", update=2), epoch=3)
        run_phases(loop(Cursor("ppo"), number=1, epoch=3))  # which records nothing
        run_phases(rank)
        assert rank.of("failure") == [{"kind": "failure"} | record for record in expected]


@pytest.mark.parametrize(
    ("error", "told", "channel"),
    [
        (RunFailure("an engine was lost"), True, "object_store"),
        (WorkerLost("the buffer", "deal", "KeyError: 3"), True, "object_store"),
        (ModuleNotFoundError("No module named 'tensorboard'"), True, "object_store"),
        (OSError("a disk"), False, "object_store"),
        (LearnerMemory("out of memory; peak 3 GiB"), False, "object_store"),
        (EpochOver("a restarted learner has begun a new epoch"), False, "nccl"),
        (SourceLost("block 3 could not reach this node: its node is gone"), False, "nccl"),
        (StateLost("the last checkpoint cannot be read; the run goes on"), False, "nccl"),
        (buffer_lost(), False, "object_store"),
        (buffer_lost(), True, "nccl"),
        (too_late(), True, "object_store"),
    ],
)
def test_only_what_ends_the_run_is_told_to_the_driver(monkeypatch, tmp_path, error, told, channel):
    def broken(job, rank):
        assert rank == 1
        raise error

    context = SimpleNamespace(get_world_rank=lambda: 1)
    monkeypatch.setattr(learner_loop, "LearnerRank", broken)
    monkeypatch.setattr(learner_loop.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(learner_loop.torch, "set_num_threads", lambda n: None)
    job = SimpleNamespace(cfg=config(), token=FakeToken(tmp_path), channel=channel)
    with pytest.raises(type(error)):
        learner_loop.learner_loop({"job": job})
    failure = read_failure(tmp_path)
    assert (str(error) in failure) if told else failure is None


def test_rank_0_writes_for_its_own_group_alone(monkeypatch, tmp_path):
    """An older group's may be on a machine that comes back."""
    begun, ranks = [], iter([0, 1, 0])
    context = SimpleNamespace(get_world_rank=lambda: next(ranks))
    monkeypatch.setattr(learner_loop, "LearnerRank", lambda job, rank: begun.append(job.token))
    monkeypatch.setattr(learner_loop, "run_phases", lambda rank: None)
    monkeypatch.setattr(learner_loop.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(learner_loop.torch, "set_num_threads", lambda n: None)
    with Lease(tmp_path) as token:
        job = Job(config(), token, "model", [], BufferHandle(FakeActor(1)))
        for _ in range(3):
            learner_loop.learner_loop({"job": job})
        assert [each.group for each in begun] == [1, 0, 2]
        with pytest.raises(LeaseLost, match="another learner group"):
            begun[0].check()


@pytest.mark.parametrize(
    ("channel", "error", "calls"),
    [
        ("object_store", buffer_lost(), 3),
        ("nccl", buffer_lost(), 1),
        ("object_store", WorkerLost("the buffer", "start", "OSError: no room"), 1),
    ],
)
def test_a_buffer_that_restarts_is_waited_for(loop, monkeypatch, channel, error, calls):
    rank, asked, answers = loop(Cursor("done")), [], [error, error, ["node 0"]]
    rank.job = replace(rank.job, channel=channel)

    def wait_for(answer, who, what, seconds, key):
        if what != "start all engines":
            return answer
        asked.append(seconds)
        if isinstance(answers[0], WorkerLost):
            raise answers.pop(0)
        return answers[0]

    monkeypatch.setattr(learner_loop, "wait_for", wait_for)
    if calls == 1:
        with pytest.raises(WorkerLost):
            run_phases(rank)
    else:
        run_phases(rank)
        assert rank.of("placement")[0]["workers"] == ["node 0"]
        assert asked[0] - asked[2] == 2 * learner_loop.AGAIN_S, "one deadline for all"
    assert len(asked) == calls


def test_a_buffer_that_never_comes_back_is_an_error_at_the_deadline(loop, monkeypatch):
    rank, calls = loop(Cursor("done")), []

    def wait_for(answer, who, what, seconds, key):
        calls.append(seconds)
        raise buffer_lost()

    monkeypatch.setattr(learner_loop, "wait_for", wait_for)
    with pytest.raises(WorkerLost):
        run_phases(rank)
    assert calls == [calls[0] - n * learner_loop.AGAIN_S for n in range(len(calls))]
    assert -learner_loop.AGAIN_S <= calls[-1] < 0


def test_a_run_that_is_to_stop_has_its_last_state_complete(loop, monkeypatch):
    rank = loop(Cursor("ppo"))

    def stopped():
        raise RunStopped("the run was asked to stop")

    monkeypatch.setattr(learner_loop, "PPOPhase", lambda *_: SimpleNamespace(run=stopped))
    with pytest.raises(RunStopped):
        run_phases(rank)
    assert rank.done[-1] == "settle"
