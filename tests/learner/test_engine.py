"""The engine on one rank: export, resume, perturbation, gradients, and what it refuses."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.engine import ReferencePolicy, TrainingEngine
from learner.model import VALUE_HEAD_FILE, WEIGHT_KINDS
from learner.sft import sft_step
from tests.support.learner import (
    config,
    demonstrations,
    full_state,
    load_state,
    save_llama,
    save_state,
)
from tests.support.slow import fast


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path):
    return save_llama(tmp_path / "model", tied=request.param)


def start(folder, stage=0, value=True, steps=10, dtype="float32"):
    cfg = config(stage=stage)
    cfg = replace(cfg, model=replace(cfg.model, dtype=dtype))
    return TrainingEngine(folder, cfg, cfg.sft.optimizer, steps, value)


def train(engine, steps, seed=0):
    return [
        sft_step(engine, demonstrations(4, seed + i), config().sft)["loss"] for i in range(steps)
    ]


@torch.no_grad()
def logits_alone(plain, m):
    """Logits [rows, columns, vocabulary] of each sequence of a microbatch by itself."""
    rows = []
    for tokens, positions in zip(m.token_ids, m.position_ids, strict=True):
        begins = [*torch.nonzero(positions == 0).flatten().tolist(), len(tokens)]
        parts = [tokens[a:b] for a, b in pairwise(begins)]
        rows.append(torch.cat([plain(input_ids=part[None]).logits[0] for part in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_export_loads_in_plain_transformers(folder, tmp_path, stage):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    # transformers calls it invalid: a temperature, and nothing to sample.
    generation = '{"temperature": 0.6, "eos_token_id": [1, 2]}'
    (folder / "generation_config.json").write_text(generation)
    engine = start(folder, stage)
    train(engine, 2)
    data = demonstrations(3, 9)
    packed = engine.microbatches(data)
    scores = engine.score(packed)
    engine.export(tmp_path / "out")
    engine.close()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for m, score in zip(packed, scores, strict=True):
        every = logits_alone(plain, m).log_softmax(-1).flatten(0, 1)[m.actions - 1]
        expected = every.gather(-1, m.token_ids.flatten()[m.actions][:, None])[:, 0]
        assert torch.allclose(score.logprobs, expected, atol=1e-5)
    assert (tmp_path / "out/tokenizer.json").read_text() == "{}"
    assert (tmp_path / "out/chat_template.jinja").exists()
    assert (tmp_path / "out/generation_config.json").read_text() == generation
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / VALUE_HEAD_FILE).exists()
    assert len(modes) == 1  # the weights' as the others'

    again = start(tmp_path / "out", stage=0)
    for a, b in zip(scores, again.score(packed), strict=True):
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-6)
        assert torch.equal(a.values, b.values)
    again.close()


@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (2, "float32"), (3, "float32"), (0, "bfloat16")]
)
def test_resume_continues_exactly(tmp_path, stage, dtype, capsys, monkeypatch):
    folder = save_llama(tmp_path / "model")
    engine = start(folder, stage, dtype=dtype)
    train(engine, 2)
    engine.counters["update"] = 5
    torch.rand(5)
    random.random()
    np.random.random()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "full"))  # a state needs none of its room
        save_state(engine, tmp_path / "state")
    drawn = torch.rand(4), random.random(), np.random.random()
    expected = train(engine, 3, seed=20)
    last = full_state(engine)
    engine.close()

    resumed = start(folder, stage, dtype=dtype)
    assert train(resumed, 1) != expected[:1]
    load_state(resumed, tmp_path / "state")
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.rand(4), drawn[0])
    assert (random.random(), np.random.random()) == drawn[1:]
    assert resumed.counters == {"steps": 2, "update": 5}
    assert train(resumed, 3, seed=20) == expected
    assert all(np.array_equal(v, last[k]) for k, v in full_state(resumed).items())
    resumed.close()


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_perturb_moves_one_kind_and_restore_brings_it_back(folder, stage):
    engine = start(folder, stage)
    tied = engine.model.trunk.config.tie_word_embeddings
    before = full_state(engine)
    absent = {"vision", "projector"} | ({"head"} if tied else set())
    for kind in WEIGHT_KINDS:
        moved = engine.perturb(kind, seed=1)
        assert moved == (kind not in absent)
        during = full_state(engine)
        changed = {k for k in before if not np.array_equal(before[k], during[k])}
        assert bool(changed) == moved
        marks = {"attention": "self_attn", "mlp": ".mlp.", "norm": "norm", "head": "lm_head"}
        assert all(marks.get(kind, "embed_tokens") in name for name in changed)
        engine.restore()
        after = full_state(engine)
        assert all(np.array_equal(before[k], after[k]) for k in before)
    with pytest.raises(ValueError, match="kind is 'bias'"):
        engine.perturb("bias", 0)
    engine.close()


@pytest.mark.parametrize("stage", [0, 3])
def test_weights_are_full_and_come_once(folder, stage):
    engine = start(folder, stage)
    buckets = list(_copied(engine.weights(10_000)))
    plain = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    published = dict(item for bucket in buckets for item in bucket)
    assert len(buckets) > 3
    assert sorted(published) == sorted(plain)
    assert sum(len(bucket) for bucket in buckets) == len(plain)
    assert all(torch.equal(published[name], plain[name]) for name in plain)
    engine.close()


def _copied(buckets):
    for bucket in buckets:
        yield [(name, tensor.clone()) for name, tensor in bucket]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gradients_are_clipped_and_their_norm_is_returned(tmp_path, stage):
    folder = save_llama(tmp_path / "model")
    from configs.schema import OptimizerConfig
    from tests.support.learner import sgd

    norms = []
    for limit in (0.0, 0.01):
        cfg = OptimizerConfig(lr=1.0, schedule="constant", warmup=0.0, max_grad_norm=limit)
        engine = TrainingEngine(folder, config(stage=stage), cfg, 1, False, make_optimizer=sgd)
        before = full_state(engine)
        metrics = sft_step(engine, demonstrations(4), config().sft)
        after = full_state(engine)
        engine.close()
        norms.append(metrics["grad_norm"])
        moved = np.sqrt(sum(((after[k] - before[k]) ** 2).sum() for k in before))
        assert moved == pytest.approx(limit or metrics["grad_norm"], rel=1e-3)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] > 0.01


@pytest.mark.parametrize("stage", [0, 2])
def test_a_loss_that_is_not_finite_stops_the_step(tmp_path, stage):
    engine = start(save_llama(tmp_path / "model"), stage)
    before = full_state(engine)

    def loss_fn(scores, microbatch):
        return scores.logprobs.sum() * float("nan"), {}

    with pytest.raises(FloatingPointError, match="gradient norm of step 0"):
        engine.step(engine.microbatches(demonstrations(2)), loss_fn)
    assert all(np.array_equal(before[k], v) for k, v in full_state(engine).items())
    engine.close()


def test_gradient_checkpointing_changes_nothing(tmp_path):
    folder = save_llama(tmp_path / "model")
    losses = []
    for checkpointing in (False, True):
        cfg = config()
        cfg = replace(cfg, model=replace(cfg.model, gradient_checkpointing=checkpointing))
        engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, False)
        losses.append(train(engine, 3))
        engine.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_learns_on_float32_master_weights(tmp_path, stage):
    folder = save_llama(tmp_path / "model")
    cfg = config(stage=stage)
    cfg = replace(cfg, model=replace(cfg.model, dtype="bfloat16"))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 20, True)
    data = demonstrations(4)
    metrics = [sft_step(engine, data, cfg.sft) for _ in range(8)]
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.1
    assert metrics[0]["grad_norm"] > 0
    (score, *_) = engine.score(engine.microbatches(data))
    assert score.logprobs.dtype == score.values.dtype == torch.float32
    assert next(engine.model.trunk.parameters()).dtype == torch.bfloat16
    engine.close()


@pytest.mark.parametrize(
    ("stage", "lora"), fast([(0, 4), (2, 0), (3, 0)], product([0, 2, 3], [0, 4]))
)
def test_bfloat16_leaves_rotary_frequencies_in_float32(tmp_path, stage, lora):
    """In bfloat16 a token at position 4000 would be turned by two radians too far."""
    folder = save_llama(tmp_path / "model")
    cfg = config(stage=stage)
    cfg = replace(cfg, model=replace(cfg.model, dtype="bfloat16", lora_rank=lora))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, True)
    assert {p.dtype for p in engine.model.parameters()} == {torch.bfloat16}
    plain = dict(AutoModelForCausalLM.from_pretrained(folder).named_buffers())
    own = dict(engine.model.trunk.named_buffers())
    assert any(name.endswith("inv_freq") for name in plain)
    assert own.keys() == plain.keys()
    assert all(own[n].dtype == b.dtype and torch.equal(own[n], b) for n, b in plain.items())
    engine.close()


def test_reference_scores_as_the_model_it_was(tmp_path):
    folder = save_llama(tmp_path / "model")
    engine, reference = start(folder), ReferencePolicy(folder, config())
    packed = engine.microbatches(demonstrations(3))
    before = engine.score(packed)[0].logprobs
    train(engine, 3)
    assert torch.allclose(reference.score(packed)[0].logprobs, before, atol=1e-6)
    assert not torch.allclose(engine.score(packed)[0].logprobs, before, atol=1e-3)
    engine.close()


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match=r"model\.path is"):
        start(tmp_path / "nowhere")
