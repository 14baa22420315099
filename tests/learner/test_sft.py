"""An SFT step: the loss is the mean over answers' tokens, the same run gives the same losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.batch import Sequence
from learner.engine import ReferencePolicy, TrainingEngine
from learner.sft import sft_step
from tests.support.learner import config, demonstrations, save_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("sft") / "model")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("sft") / "other", seed=1)


def losses(folder, loss="ce", reference=None, steps=3):
    cfg = config()
    cfg = replace(cfg, sft=replace(cfg.sft, loss=loss))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, steps, False)
    metrics = [sft_step(engine, demonstrations(6, i), cfg.sft, reference) for i in range(steps)]
    engine.close()
    return metrics


def by_hand(folder, other):
    """Log-probabilities of current and reference at every action token, one sequence at a time."""
    models = [AutoModelForCausalLM.from_pretrained(f).eval() for f in (folder, other)]
    logprobs, divergences = [], []
    for s in demonstrations(6, 0):
        where = np.flatnonzero(s.action_mask)
        ids = torch.tensor(s.token_ids).long()
        with torch.no_grad():
            p, q = (m(ids[None]).logits[0, where - 1].double().log_softmax(-1) for m in models)
        logprobs.append(p.gather(-1, ids[where][:, None])[:, 0])
        divergences.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(logprobs), torch.cat(divergences)


def test_losses_are_their_definitions(folder, other):
    logprobs, divergences = by_hand(folder, other)
    reference = ReferencePolicy(other, config())
    expected = {
        "ce": -logprobs.mean(),
        "dft": -(logprobs.exp() * logprobs).mean(),
        "ce_kl": -logprobs.mean() + 0.1 * divergences.mean(),
    }
    for name, value in expected.items():
        metrics = losses(folder, name, reference, steps=1)[0]
        assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
        assert metrics["action_tokens"] == len(logprobs)
        assert metrics["tokens"] == sum(len(s.token_ids) for s in demonstrations(6, 0))


def test_the_same_twice(folder):
    first, second = ([m["loss"] for m in losses(folder)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 3


def test_it_learns(folder):
    cfg = config()
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 30, False)
    metrics = [sft_step(engine, demonstrations(4), cfg.sft) for _ in range(30)]
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    assert metrics[0]["lr"] == pytest.approx(1e-3)
    assert metrics[-1]["lr"] == pytest.approx(0.0)
    engine.close()


def test_bad_input(folder):
    cfg = config()
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    with pytest.raises(ValueError, match=r"sft\.loss is 'ce_kl'"):
        sft_step(engine, demonstrations(1), replace(cfg.sft, loss="ce_kl"))
    with pytest.raises(ValueError, match="no token with loss"):
        sft_step(engine, [Sequence(np.arange(4), np.zeros(4, bool))], cfg.sft)
    engine.close()
