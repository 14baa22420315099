"""Collecting what engines play that joined unproven, without Ray's processes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.failures import RunStopped
from cluster.stream import collect as module
from cluster.stream.collect import Collector
from tests.cluster.stream.test_collect import RESTARTS_S, Method
from tests.support.learner import config


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_is_told_whose_engines_played_for_the_proof(monkeypatch, rank):
    """Where the run is to stop meanwhile none has: the next batch tells every rank so."""
    waited, gathered, asked = [], [], []

    def all_max(values):
        gathered.append(list(values))
        return np.array([1.0, 0.0, 1.0])

    def wait_for(value, *words):
        waited.append(words)
        if value == "stopped":
            raise RunStopped("the run was asked to stop")
        return value

    monkeypatch.setattr(module.distributed, "all_max", all_max)
    monkeypatch.setattr(module, "wait_for", wait_for)
    cfg = config()
    cfg = replace(cfg, rollout=replace(cfg.rollout, workers=3))
    buffer = SimpleNamespace(proven=Method(asked.append))
    buffer.play_unproven = Method(lambda *words: asked.append(words) or [0, 2])
    collector = Collector(SimpleNamespace(cfg=cfg, buffer=buffer), rank, None)
    assert collector.play_unproven(7, ["request"]) == [0, 2]
    collector.proven(2)
    buffer.play_unproven = Method(lambda *_: "stopped")
    collector.play_unproven(8, ["request"])
    assert asked == ([(7, ["request"]), 2] if rank == 0 else [])
    assert gathered == ([[1, 0, 1], [0, 0, 0]] if rank == 0 else [[0, 0, 0], [0, 0, 0]])
    words = ("the buffer", "have new engines play", 600.0 * 2 + RESTARTS_S, "block_deadline_s")
    assert waited == ([words] * 2 if rank == 0 else [])
