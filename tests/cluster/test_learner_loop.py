"""The order of a rank's phases from each cursor, and what it tells the driver."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster import learner_loop
from cluster.cursor import Cursor
from cluster.failures import RunFailure
from cluster.learner_loop import run_phases
from cluster.run_folder import read_failure
from tests.cluster.fakes import FakeCollector, FakeRank, FakeToken
from tests.support.learner import config


class Method:
    def __init__(self, value):
        self.value = value

    def remote(self):
        return self.value


@pytest.fixture
def loop(monkeypatch, tmp_path):
    """make(cursor, …) gives a rank whose phases note their beginning."""

    def make(cursor, number=0, steps=4):
        cfg = config()
        cfg = replace(cfg, sft=replace(cfg.sft, steps=steps, batch_size=8))
        rank = FakeRank(cfg, tmp_path, number)
        rank.cursor, rank.job.channel, rank.job.buffer = cursor, "object_store", None
        monkeypatch.setattr(learner_loop, "Collector", lambda *_: FakeCollector(rank))
        rank.job.demonstrations = "rendered" if steps else None
        rank.job.workers = [
            SimpleNamespace(start=Method(f"start {i}"), node=Method(f"node {i}")) for i in range(2)
        ]

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

        def wait_for_all(refs, who, what, seconds, key, begin):
            rank.done.append((refs, who, what, seconds, key))
            return refs

        monkeypatch.setattr(learner_loop, "wait_for_all", wait_for_all)
        monkeypatch.setattr(learner_loop.ray, "get_runtime_context", lambda: context)
        return rank

    return make


STARTED, PLACED = (
    ([f"{call} 0", f"{call} 1"], "rollout worker", what, 300.0, "start_deadline_s")
    for call, what in (("start", "start its engine"), ("node", "name its node"))
)


def test_engines_are_waited_for_then_sft_then_ppo(loop):
    rank = loop(Cursor("sft", step=3))
    run_phases(rank)
    sft = ("sft", [("rendered", 0, 3)])
    assert rank.done == ["room for rendered", STARTED, PLACED, "reset", sft, "ppo"]
    places = {"ranks": ["here"], "workers": ["node 0", "node 1"]}
    assert rank.records == [{"kind": "placement"} | places]


def test_other_ranks_wait_for_no_engine(loop):
    rank = loop(Cursor(), number=1)
    run_phases(rank)
    assert rank.done == ["room for rendered", "reset", ("sft", [("rendered", 1, 0)]), "ppo"]
    assert rank.records == []


def test_on_recorded_blocks_there_is_no_sft_and_no_engine(loop, monkeypatch):
    rank = loop(Cursor(), steps=0)
    rank.cfg, rank.job.workers = replace(rank.cfg, ppo=replace(rank.cfg.ppo, blocks="x")), []
    monkeypatch.setattr(learner_loop, "RecordedCollector", lambda *_: FakeCollector(rank))
    run_phases(rank)
    assert rank.done == [([], *STARTED[1:]), ([], *PLACED[1:]), "reset", "ppo"]
    assert rank.cursor == Cursor("ppo")


def test_a_run_that_records_takes_its_batches_from_engines(loop, monkeypatch):
    rank = loop(Cursor("ppo"))
    rank.cfg = replace(rank.cfg, ppo=replace(rank.cfg.ppo, record=True))
    monkeypatch.setattr(learner_loop, "Collector", None)
    monkeypatch.setattr(learner_loop, "RecordingCollector", lambda *_: FakeCollector(rank))
    run_phases(rank)
    assert rank.done[-2:] == ["reset", "ppo"]


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
    assert rank.done[2:] == ["reset", *phases]


@pytest.mark.parametrize(
    ("error", "told"), [(RunFailure("an engine was lost"), True), (OSError("a disk"), False)]
)
def test_only_what_ends_the_run_is_told_to_the_driver(monkeypatch, tmp_path, error, told):
    def broken(job, rank):
        assert rank == 1
        raise error

    context = SimpleNamespace(get_world_rank=lambda: 1)
    monkeypatch.setattr(learner_loop, "LearnerRank", broken)
    monkeypatch.setattr(learner_loop.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(learner_loop.torch, "set_num_threads", lambda n: None)
    job = SimpleNamespace(cfg=config(), token=FakeToken(tmp_path))
    with pytest.raises(type(error)):
        learner_loop.learner_loop({"job": job})
    assert read_failure(tmp_path) == ("an engine was lost" if told else None)
