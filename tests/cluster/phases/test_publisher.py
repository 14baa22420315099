"""Who has the GPUs: the learner's memory goes back before engines wake, and they are waited for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cluster.failures import DeadlineExceeded
from cluster.phases import publisher as module
from cluster.phases.publisher import Publisher
from cluster.weights.base import PublishResult
from tests.cluster.fakes import FakeRank
from tests.support.learner import config


def made(folder, layout="colocated", number=0):
    """A rank with two engines, and its publisher."""
    cfg = config()
    rank = FakeRank(replace(cfg, cluster=replace(cfg.cluster, layout=layout)), folder, number)
    asleep = SimpleNamespace(sleep=SimpleNamespace(remote=lambda: "asleep"))
    rank.job.workers = [asleep, asleep]

    def publish(version, engine):
        rank.done.append(("publish", version, engine))
        published = PublishResult(version, 1.5, 8, 2, 0.5, [0.25])
        return (lambda: published) if number == 0 else None

    return rank, Publisher(rank, SimpleNamespace(publish=publish))


@pytest.fixture
def waits(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "wait_for_all", lambda *asked: seen.append(asked[:-1]))
    return seen


def test_engines_are_waited_for_until_they_sleep(tmp_path, waits):
    made(tmp_path)[1].sleep_engines()
    assert waits == [(["asleep"] * 2, "rollout worker", "go to sleep", 120.0, "sync_deadline_s")]


@pytest.mark.parametrize("number", [0, 1])
def test_no_rank_learns_before_all_engines_sleep(tmp_path, monkeypatch, number):
    order = []
    monkeypatch.setattr(module, "wait_for_all", lambda *_: order.append("asleep"))
    monkeypatch.setattr(module.distributed, "barrier", lambda: order.append("barrier"))
    made(tmp_path, number=number)[1].sleep_engines()
    assert order == [*["asleep"] * (number == 0), "barrier"]


@pytest.mark.parametrize(("layout", "number"), [("disaggregated", 0), ("colocated", 1)])
def test_only_rank_0_sends_them_to_sleep_and_only_on_shared_gpus(tmp_path, waits, layout, number):
    made(tmp_path, layout, number)[1].sleep_engines()
    assert waits == []


def test_an_engine_that_does_not_fall_asleep_is_named(tmp_path, monkeypatch):
    def late(refs, who, what, seconds, key, begin):
        raise DeadlineExceeded(f"{who} 1", what, seconds, key)

    monkeypatch.setattr(module, "wait_for_all", late)
    with pytest.raises(DeadlineExceeded, match="rollout worker 1 did not go to sleep within 120 s"):
        made(tmp_path)[1].sleep_engines()


@pytest.mark.parametrize("layout", ["colocated", "disaggregated"])
def test_the_learners_spare_memory_is_given_back_before_they_wake(tmp_path, monkeypatch, layout):
    rank, publisher = made(tmp_path, layout)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: rank.done.append("empty"))
    rank.version = 7
    assert publisher.publish("engine") == 1.5
    assert rank.done == ["empty"] * (layout == "colocated") + [("publish", 7, "engine")]
    record = {"version": 7, "seconds": 1.5, "bytes": 8, "buckets": 2, "check": None}
    record |= {"sent_seconds": 0.5, "paused_seconds": [0.25]}
    assert rank.records == [{"kind": "sync"} | record]


def test_weights_that_travel_are_waited_for_once_and_before_the_next(tmp_path):
    rank, publisher = made(tmp_path, "disaggregated")
    assert publisher.finish() == 0.0
    publisher.begin("engine")
    assert rank.records == []
    rank.version = 1
    publisher.begin("engine")
    assert [record["version"] for record in rank.records] == [0]
    assert (publisher.finish(), publisher.finish()) == (1.5, 0.0)
    assert [record["version"] for record in rank.records] == [0, 1]


def test_other_ranks_write_nothing(tmp_path):
    rank, publisher = made(tmp_path, number=1)
    assert publisher.publish("engine") == 0.0
    assert rank.records == []
