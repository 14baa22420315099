"""Gathered weights: shapes are those of the buckets, and ranks get them where requested."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from learner import distributed
from learner.engine import TrainingEngine
from learner.model import weight_kind
from learner.sft import sft_step
from learner.weight_noise import flip
from tests.support.families import Family, save_tiny
from tests.support.learner import config, demonstrations, save_idefics, save_llama, spawn


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_shapes_are_those_of_the_buckets(tmp_path, stage, tied):
    folder = save_llama(tmp_path / "model", tied=tied)
    cfg = config(stage=stage)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, True)
    shapes = engine.weight_shapes()
    received = [(n, t.dtype, tuple(t.shape)) for b in engine.weights(10_000) for n, t in b]
    assert shapes == received
    assert ("lm_head.weight" in {name for name, *_ in shapes}) is not tied
    engine.close()


@pytest.mark.parametrize("stage", [0, 3])
def test_merged_experts_come_apart_within_the_limit(tmp_path, stage):
    """A layer's experts are larger than a bucket; they come by their checkpoint names."""
    folder = save_tiny(Family("mixtral", "MixtralForCausalLM", vision=False), tmp_path)
    cfg = config(stage=stage)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    buckets = [[(n, t.clone()) for n, t in bucket] for bucket in engine.weights(20_000)]
    assert all(sum(t.nbytes for _, t in b) <= 20_000 for b in buckets)
    received = [named for bucket in buckets for named in bucket]
    assert engine.weight_shapes() == [(n, t.dtype, tuple(t.shape)) for n, t in received]
    saved = load_file(folder / "model.safetensors")
    assert sorted(n for n, _ in received) == sorted(saved)
    assert all(torch.equal(t, saved[n]) for n, t in received)
    engine.close()


def test_other_ranks_get_as_many_empty_buckets(tmp_path, monkeypatch):
    folder = save_tiny(Family("mixtral", "MixtralForCausalLM", vision=False), tmp_path)
    cfg = config()
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    full = list(engine.weights(20_000))
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert list(engine.weights(20_000)) == [[]] * len(full)
    assert all(engine.weights(20_000, everywhere=True))
    engine.close()


@pytest.mark.parametrize("stage", [0, 3])
def test_every_stage_has_the_same_noise_and_keeps_nothing(tmp_path, stage):
    cfg = config(stage=stage)
    folder = save_llama(tmp_path / "model", tied=False)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    saved = load_file(folder / "model.safetensors")
    for kind in ("mlp", "norm", "embedding"):
        assert engine.perturb(kind, seed=1)
        with pytest.raises(AssertionError, match="perturb before restore"):
            engine.perturb(kind, seed=1)
        published = {n: t.clone() for b in engine.weights(10_000) for n, t in b}
        for name, weight in published.items():
            expected = saved[name].clone()
            if weight_kind(name, engine.model.trunk) == kind:
                flip(expected.view(-1), 0, name, 1)
            assert torch.equal(weight, expected), name
        engine.restore()
        engine.restore()  # has nothing left to do
    published = {n: t.clone() for b in engine.weights(10_000) for n, t in b}
    assert all(torch.equal(weight, saved[name]) for name, weight in published.items())
    engine.close()


def names(engine, **which):
    return {n for bucket in engine.weights(10_000, **which) for n, _ in bucket}


@pytest.mark.parametrize("stage", [0, 3])
def test_blocks_in_which_nothing_learns_stay_as_they_are(tmp_path, stage):
    """Queries learn; keys and values do not, but engines merge them with the queries."""
    cfg, lora = config(stage=stage), {"lora_rank": 4, "lora_targets": ["0.self_attn.q_proj"]}
    cfg = replace(cfg, model=replace(cfg.model, **lora))
    folder = save_llama(tmp_path / "model", tied=False)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, True)
    kept, before = names(engine, frozen=True), weights(engine)
    assert before.keys() - kept == {name for name in before if ".layers.0." in name}
    assert names(engine, frozen=False) == before.keys() - kept
    for step in range(3):
        sft_step(engine, demonstrations(4, step), cfg.sft)
    changed = {n for n, weight in weights(engine).items() if not torch.equal(weight, before[n])}
    assert changed == {"model.layers.0.self_attn.q_proj.weight"}
    engine.close()


def weights(engine):
    return {n: t.clone() for bucket in engine.weights(10_000) for n, t in bucket}


def test_a_model_that_learns_all_has_no_part_that_stays(tmp_path):
    engine = TrainingEngine(save_llama(tmp_path), config(), config().sft.optimizer, 1, False)
    assert not names(engine, frozen=True)
    assert names(engine, frozen=False) == names(engine)
    engine.close()


def test_a_frozen_tower_stays_and_what_is_built_on_it_does_not(tmp_path):
    cfg = config()
    cfg = replace(cfg, model=replace(cfg.model, freeze="vision"))
    folder = save_idefics(tmp_path / "model")
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    trunk, kept = engine.model.trunk, names(engine, frozen=True)
    assert kept == {n for n in names(engine) if "vision_model" in n}
    assert kept == {n for n, p in trunk.named_parameters() if not p.requires_grad}
    assert names(engine, frozen=False) == names(engine) - kept
    engine.close()


def test_a_kind_that_a_model_lacks_leaves_nothing_to_restore(tmp_path):
    engine = TrainingEngine(save_llama(tmp_path), config(), config().sft.optimizer, 1, False)
    assert not engine.perturb("head", seed=1), "it is tied to the embedding"
    assert engine.perturb("mlp", seed=1)
    engine.close()


def _everywhere(rank, folder):
    cfg = config(stage=3)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    plain = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    gathered = {n: t.clone() for b in engine.weights(10_000, everywhere=True) for n, t in b}
    assert sorted(gathered) == sorted(plain)
    assert all(torch.equal(gathered[name], plain[name]) for name in plain)
    only = [bool(bucket) for bucket in engine.weights(10_000)]
    assert only == [rank == 0] * len(only)
    assert engine.perturb("mlp", seed=1)
    for name, weight in ((n, t) for b in engine.weights(10_000, everywhere=True) for n, t in b):
        expected = plain[name].detach().clone()
        if ".mlp." in name:
            flip(expected.view(-1), 0, name, 1)
        assert torch.equal(weight, expected), name
    engine.restore()
    engine.close()


@pytest.mark.slow
def test_every_rank_gets_them_where_each_shares_its_gpu_with_an_engine(tmp_path):
    spawn(_everywhere, 2, save_llama(tmp_path / "model", tied=False))
