"""Whole weights: what is told of them is what comes, on every rank that asks for it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.engine import TrainingEngine
from tests.support.learner import config, save_llama, spawn


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_shapes_are_those_of_the_buckets(tmp_path, stage, tied):
    folder = save_llama(tmp_path / "model", tied=tied)
    cfg = config(stage=stage)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, True)
    told = engine.weight_shapes()
    came = [(n, t.dtype, tuple(t.shape)) for b in engine.weights(10_000) for n, t in b]
    assert told == came
    assert ("lm_head.weight" in {name for name, *_ in told}) is not tied
    engine.close()


def _everywhere(rank, folder):
    cfg = config(stage=3)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    plain = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    found = {n: t.clone() for b in engine.weights(10_000, everywhere=True) for n, t in b}
    assert sorted(found) == sorted(plain)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    only = [bool(bucket) for bucket in engine.weights(10_000)]
    assert only == [rank == 0] * len(only)
    engine.close()


@pytest.mark.slow
def test_every_rank_gets_them_where_each_has_an_engine_beside_it(tmp_path):
    spawn(_everywhere, 2, save_llama(tmp_path / "model", tied=False))
