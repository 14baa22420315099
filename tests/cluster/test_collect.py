"""Collecting: what a learner rank asks for, gets and makes of it, without Ray's processes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster import collect as module
from cluster.collect import Collector, collect, fetch
from cluster.handles import BlockRows
from rollout.trajectory import to_block
from rollout.trajectory_summary import summarize
from tests.support.learner import config, trajectories

PLAYED = trajectories(6)


class Method:
    def __init__(self, function):
        self.remote = function


class FakeBuffer:
    """Has played all; its references are the values themselves."""

    def __init__(self):
        self.asked = []
        self.collect, self.shards = Method(self._collect), Method(self._shards)

    def _collect(self, requests, version, max_staleness):
        self.asked.append((requests, version, max_staleness))
        failed = replace(summarize(PLAYED[0]), end="failed")
        return [failed, *map(summarize, PLAYED[1:])]

    def _shards(self, ranks):
        block = to_block(PLAYED)
        return [[BlockRows(block, list(range(r, 6, ranks)))] for r in range(ranks)]


@pytest.fixture
def made(monkeypatch):
    """make(rank) gives a collector of two ranks, its buffer, and what was waited for."""
    waits = []

    def wait_for(value, *asked):
        waits.append(asked)
        return value

    monkeypatch.setattr(module, "wait_for", wait_for)
    monkeypatch.setattr(module, "wait_for_all", lambda values, *asked: list(values))

    def make(rank):
        cfg = config(max_staleness=2)
        cfg = replace(cfg, learner=replace(cfg.learner, ranks=2))
        loads = [SimpleNamespace(pop_load=Method(lambda n=n: (n, 1.0))) for n in (3.0, 5.0)]
        buffer = FakeBuffer()
        return Collector(SimpleNamespace(cfg=cfg, workers=loads, buffer=buffer), rank), buffer

    return make, waits


def test_rank_0_collects_by_the_configurations_bound_and_counts_what_failed(made):
    collector, buffer = made[0](0)
    assert collector.collect(["request"], 4) == {"failed": 1, "running": 4.0}
    assert buffer.asked == [(["request"], 4, 2)]


def test_other_ranks_collect_nothing(made):
    collector, buffer = made[0](1)
    assert collector.collect(["request"], 4) == {}
    assert buffer.asked == []


def test_each_rank_fetches_its_own_share(made):
    for rank in range(2):
        shard = made[0](rank)[0].fetch()
        assert [t.id for t in shard] == [t.id for t in PLAYED[rank::2]]


@pytest.mark.parametrize(("episodes", "blocks"), [(1, 2), (64, 2), (65, 3)])
def test_the_deadline_is_that_of_all_blocks_and_one_more(made, episodes, blocks):
    collect(config(), FakeBuffer(), [None] * episodes)
    assert made[1] == [("the buffer", "collect the episodes", 600.0 * blocks, "block_deadline_s")]


def test_an_evaluation_admits_any_version(made):
    buffer = FakeBuffer()
    collect(config(), buffer, ["request"])
    assert buffer.asked == [(["request"], 0, None)]


def test_rows_are_fetched_in_their_order(made):
    block = to_block(PLAYED)
    fetched = fetch(config(), [BlockRows(block, [4, 1]), BlockRows(block, [0])])
    assert [t.id for t in fetched] == [PLAYED[i].id for i in (4, 1, 0)]
