"""The packing of a run: what is measured, what it falls back to, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    Idefics3Config,
    LlamaConfig,
    LlamaForCausalLM,
    modeling_flash_attention_utils,
)

from configs.schema import ModelConfig, RolloutConfig, RunConfig
from learner import batch, distributed
from learner.isolation import (
    INFLUENCE,
    ROUNDING,
    SCORED,
    PackingCheck,
    check_packing,
    check_shared_rows,
    probe,
)
from learner.model import ActorCritic, ForwardOptions, Scores
from tests.support.learner import config


def settings(packing="auto", context=64, budget=256, dtype="float32") -> RunConfig:
    cfg = config(budget=budget)
    return replace(
        cfg,
        model=ModelConfig(dtype=dtype),
        rollout=RolloutConfig(context_tokens=context),
        learner=replace(cfg.learner, packing=packing),
    )


def llama(attention="sdpa", **changes):
    sizes = {"vocab_size": 48, "max_position_embeddings": 512} | changes
    made = LlamaConfig(architectures=["LlamaForCausalLM"], **sizes)
    made._attn_implementation = attention
    return made


def fake(in_row=0.0, padded=0.0, influence=0.0, of=-1, in_rows=0.0, **alone):
    """A model whose log-probabilities in a shared row, or a padded one, are off for sequence `of`.

    Influence: half of it is added or taken away in a shared row, by the row's first two tokens.
    Of rows of one sequence each: beside, as influence; pads, added where the last has other ones;
    noise, half of it added or taken away from all by the end of the first row.
    A row that is as long as its sequence, alone in its microbatch, is right. In_rows is added
    where there are several shared rows.
    """

    def score(microbatches):
        return [Scores(logprobs(m), *[torch.zeros(0)] * 3) for m in microbatches]

    def logprobs(m):
        right = -(m.token_ids.flatten()[m.actions].float() + 1)
        begins = np.cumsum(m.action_counts) - m.action_counts
        rows, sequences = len(m.token_ids), len(m.order)
        error = in_row if sequences > rows else padded
        if sequences > rows > 1:
            error += in_rows
        if sequences > rows:
            first, second = m.token_ids.flatten()[:2]
            error += influence / 2 if first < second else -influence / 2
        elif sequences > 1:
            error += half("beside", *m.token_ids.flatten()[:2])
            error += alone.get("pads", 0.0) * bool(m.token_ids[-1, -1])
        if sequences > 1:
            right[begins[of] : begins[of] + m.action_counts[of]] += error
        if sequences == rows > 1:
            right += half("noise", *m.token_ids[0, -2:])
        return right

    def half(name, first, second):
        return alone.get(name, 0.0) / 2 * (1 if first < second else -1)

    return score


def test_what_isolates_keeps_its_packing():
    limit = ROUNDING["float32"]
    score = fake(in_row=0.9 * limit, padded=0.8 * limit)
    for packing in ("auto", "packed", "flat"):
        check = check_packing(score, llama(), settings(packing))
        assert (check.packing, check.cause, check.influence) == (packing, "", 0.0)
        assert check.row_gap == pytest.approx(0.9 * limit, rel=0.1)
        assert check.padded_gap == pytest.approx(0.8 * limit, rel=0.1)
    assert check_packing(fake(), llama("flash_attention_2"), settings()).packing == "flat"
    assert check_packing(fake(), llama("flash_attention_3"), settings()).packing == "flat"
    assert check_packing(fake(), llama("flash_attention_2"), settings("packed")).packing == "packed"


@pytest.mark.parametrize("of", [0, 1])
def test_a_leak_is_answered_by_one_sequence_a_row(of):
    score = fake(in_row=0.25, of=of)
    check = check_packing(score, llama(), settings())
    assert (check.packing, check.padded_gap) == ("padded", 0.0)
    assert check.row_gap == pytest.approx(0.25)
    assert "in LlamaForCausalLM by 0.25 nats, so each gets its own (padded)" in check.cause
    assert check_packing(score, llama("flash_attention_2"), settings()).packing == "padded"
    for packing in ("packed", "flat"):
        with pytest.raises(ValueError, match=f"^learner.packing={packing}: .* by 0.25 nats"):
            check_packing(score, llama(), settings(packing))
    padded = PackingCheck("padded", 0.0, 0.0, 0.0)
    assert check_packing(score, llama(), settings("padded")) == padded


def test_a_leak_between_rows_counts_where_there_are_several():
    score = fake(in_rows=0.25)
    assert check_packing(score, llama(), settings()).row_gap == pytest.approx(0.25)
    assert check_packing(score, llama(), settings()).packing == "padded"
    with pytest.raises(ValueError, match=r"^learner.packing=packed: .* by 0.25 nats"):
        check_packing(score, llama(), settings("packed"))
    flat = check_packing(score, llama("flash_attention_2"), settings())
    assert (flat.packing, flat.row_gap) == ("flat", 0.0)
    assert check_packing(score, llama(), settings("padded")).packing == "padded"


def causal(q, k, v, softmax_scale):
    k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], 2).transpose(1, 2) for t in (k, v))
    scores = functional.scaled_dot_product_attention
    return scores(q.transpose(1, 2), k, v, is_causal=True, scale=softmax_scale).transpose(1, 2)


def flash(q, k, v, softmax_scale=None, **_):
    """What flash_attn_func computes."""
    return causal(q, k, v, softmax_scale)


def flash_varlen(q, k, v, cu_seqlens_q, softmax_scale=None, **_):
    """What flash_attn_varlen_func computes, of sequences that begin and end there."""
    bounds = pairwise(cu_seqlens_q.tolist())
    parts = [causal(q[None, a:b], k[None, a:b], v[None, a:b], softmax_scale) for a, b in bounds]
    return torch.cat(parts, 1)[0]


@pytest.fixture
def flash_score(monkeypatch):
    """Scores of a tiny Llama by transformers' own way to flash attention, computed on a CPU."""

    def functions(*_, **__):
        return (flash, flash_varlen, None, None, None), (lambda **given: given, None)

    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", functions)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    trunk = LlamaForCausalLM(LlamaConfig(vocab_size=48, **sizes, **heads)).eval()
    trunk.config._attn_implementation = "flash_attention_2"
    actor = ActorCritic(trunk, None)

    @torch.no_grad()
    def score(microbatches):
        arguments = [
            (m.token_ids, m.position_ids, m.actions, m.value_positions) for m in microbatches
        ]
        return [Scores(*actor(*given, ForwardOptions())) for given in arguments]

    return score


def test_flash_attention_isolates_in_one_row_only(flash_score):
    with pytest.raises(ValueError, match=r"^learner.packing=packed: sequences that share a row"):
        check_packing(flash_score, llama("flash_attention_2"), settings("packed"))
    check = check_packing(flash_score, llama("flash_attention_2"), settings())
    assert (check.packing, check.row_gap < 1e-5) == ("flat", True)


def test_a_picture_for_lockstep_leaves_flat_rows_isolated(flash_score):
    """The dummy of `pad_to_lockstep` beside microbatches without pictures."""
    flat = batch.build(probe(llama(), settings(), True, ()), [[0, 1, 2, 3]])
    (before,), (after,) = flash_score([flat]), flash_score([batch.append(flat, batch.dummy())])
    assert torch.allclose(before.logprobs, after.logprobs, atol=1e-5)


def test_what_others_beside_it_change_is_a_leak_however_small():
    """In bfloat16 rounding hides a small leak from the comparison with alone."""
    half = settings(dtype="bfloat16")
    for cfg in (settings(), half):
        limit = INFLUENCE[cfg.model.dtype]
        assert check_packing(fake(influence=0.9 * limit), llama(), cfg).packing == "auto"
        check = check_packing(fake(influence=1.1 * limit), llama(), cfg)
        assert check.packing == "padded"
        assert check.influence == pytest.approx(1.1 * limit, rel=0.1)
    check = check_packing(fake(influence=0.02), llama(), half)
    assert check.row_gap < ROUNDING["bfloat16"]
    assert "in LlamaForCausalLM by 0.02 nats" in check.cause
    assert check_packing(fake(influence=0.02, of=0), llama(), half).packing == "auto"


@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_a_model_that_never_isolates_is_refused(packing):
    with pytest.raises(ValueError, match=r"^LlamaForCausalLM cannot be trained: .* by 0\.5 nats"):
        check_packing(fake(padded=0.5, of=0), llama(), settings(packing))
    with pytest.raises(ValueError, match="by inf nats"):
        check_packing(fake(padded=float("nan")), llama(), settings(packing))


def test_a_model_whose_forward_pass_fails_is_named():
    def score(microbatches):
        raise RuntimeError("sizes\ndo not agree")

    words = "^LlamaForCausalLM cannot be trained: its forward pass fails: sizes do not agree$"
    with pytest.raises(ValueError, match=words):
        check_packing(score, llama(), settings())


HALF = settings(dtype="bfloat16")


def test_bfloat16_may_round():
    assert check_packing(fake(in_row=0.04), llama(), HALF).packing == "auto"
    assert check_packing(fake(in_row=0.06), llama(), HALF).cause


@pytest.mark.parametrize("packing", ["auto", "packed", "padded"])
def test_how_far_a_model_rounds_in_another_shape_refuses_it_in_float32_alone(packing):
    """Probabilities of real models in bfloat16 move by more than 10 % with the batch's shape."""
    cfg = replace(HALF, learner=replace(HALF.learner, packing=packing))
    check = check_packing(fake(in_row=0.3, padded=0.2), llama(), cfg)
    assert (check.packing, check.cause) == (packing, "")
    assert check.padded_gap == pytest.approx(0.2, rel=1e-3)
    with pytest.raises(ValueError, match=r"cannot be trained: .* by 0\.2 nats"):
        check_packing(fake(in_row=0.3, padded=0.2), llama(), settings(packing))


def test_a_row_that_changes_far_more_than_a_batch_is_a_leak_in_bfloat16():
    """A model that counts its own positions: others' tokens do nothing, their number does."""
    assert check_packing(fake(in_row=0.59, padded=0.2), llama(), HALF).packing == "auto"
    limit = ROUNDING["float32"]  # which stays what it is, however far the model rounds
    exact = check_packing(fake(in_row=1.5 * limit, padded=0.9 * limit), llama(), settings())
    assert exact.packing == "padded"
    check = check_packing(fake(in_row=0.61, padded=0.2), llama(), HALF)
    assert (check.packing, check.row_gap) == ("padded", pytest.approx(0.61, rel=1e-3))


@pytest.mark.parametrize("leak", ["beside", "pads"])
def test_what_others_or_pads_change_in_rows_of_their_own_is_refused_in_bfloat16(leak):
    assert check_packing(fake(**{leak: 0.009}), llama(), HALF).padded_influence > 0.008
    with pytest.raises(ValueError, match=r"^LlamaForCausalLM cannot be trained: .* by 0\.02 nats"):
        check_packing(fake(**{leak: 0.02}), llama(), HALF)
    for of in (0, -1):
        with pytest.raises(ValueError, match="by inf nats"):
            check_packing(fake(padded=float("nan"), of=of), llama(), HALF)


def test_experts_round_by_what_stands_beside_and_are_measured_where_nothing_leaks():
    check = check_packing(fake(influence=0.1, noise=0.04), llama(), HALF)
    assert (check.packing, check.rounding) == ("auto", pytest.approx(0.04, rel=1e-3))
    assert check_packing(fake(influence=0.13, noise=0.04), llama(), HALF).packing == "padded"
    assert check_packing(fake(influence=0.1), llama(), HALF).packing == "padded"
    with pytest.raises(ValueError, match=r"^LlamaForCausalLM cannot be trained: .* by 0\.13 nats"):
        check_packing(fake(beside=0.09, noise=0.04), llama(), HALF)


def test_ranks_decide_together(monkeypatch):
    """Another rank, on other hardware, measured more."""
    monkeypatch.setattr(
        distributed, "all_max", lambda gaps: np.add(gaps, [0.3, 0.1, 0.0, 0.0, 0.0])
    )
    check = check_packing(fake(), llama(), settings())
    assert check.packing == "padded"
    assert (check.row_gap, check.influence, check.padded_gap) == (0.3, 0.1, 0.0)


def test_the_probe_fills_a_row_of_the_run():
    def lengths(flat, positions=512, **changes):
        made = llama(max_position_embeddings=positions)
        return [len(s.token_ids) for s in probe(made, settings(**changes), flat, ())]

    assert lengths(False) == [32, 24]
    assert lengths(True) == [64, 64, 64, 48]
    assert lengths(True, context=200) == [128, 96]
    assert lengths(True, budget=16) == [32, 24]
    assert lengths(False, positions=40) == [20, 15]
    assert lengths(False, context=8) == [4, 3]


def test_the_probe_has_no_token_of_pictures_or_of_roles():
    made = llama(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    made.image_token_id, made.video_token_index = 7, 8
    first, second = probe(made, settings(context=2048), False, (3, 4))
    seen = {*first.token_ids.tolist(), *second.token_ids.tolist()}
    assert seen == set(range(48)) - {0, 1, 2, 3, 4, 7, 8}
    assert not np.array_equal(first.token_ids[:100], second.token_ids[:100])
    again, _ = probe(made, settings(context=2048), False, (3, 4))
    assert np.array_equal(first.token_ids, again.token_ids)


def test_special_tokens_of_the_language_model_inside_count_too():
    inside = {"vocab_size": 48, "pad_token_id": 5, "bos_token_id": None, "eos_token_id": None}
    made = Idefics3Config(text_config=LlamaConfig(**inside).to_dict(), image_token_id=7)
    first, second = probe(made, settings(context=2048), False, ())
    seen = {*first.token_ids.tolist(), *second.token_ids.tolist()}
    assert seen.isdisjoint({5, 7})
    assert len(seen) > 40


def test_the_probe_is_scored_at_both_ends():
    first, _ = probe(llama(), settings(context=64), False, ())
    expected = [0 < i <= SCORED or i >= 32 - SCORED for i in range(32)]
    assert first.action_mask.tolist() == expected


def test_a_model_that_reads_beyond_its_part_of_a_row_is_refused():
    limit = ROUNDING["float32"]
    cfg = settings()
    cfg = replace(cfg, learner=replace(cfg.learner, sequence_parallel=2))
    check_shared_rows(fake(), fake(in_row=0.9 * limit, padded=0.9 * limit), llama(), cfg)
    said = (
        r"^learner\.sequence_parallel=2: LlamaForCausalLM has layers by .* by 0\.25 nats when rows"
    )
    for leak in ({"in_row": 0.25}, {"padded": 0.25}):
        with pytest.raises(ValueError, match=said):
            check_shared_rows(fake(**leak), fake(), llama(), cfg)
    padded = replace(cfg, learner=replace(cfg.learner, packing="padded"))
    check_shared_rows(fake(in_row=0.25), fake(), llama(), padded)


def test_rows_shared_out_may_round_as_other_shapes_do_in_bfloat16():
    rounds = fake(padded=0.1)
    check_shared_rows(fake(in_row=0.2, padded=0.2), rounds, llama(), HALF)
    with pytest.raises(ValueError, match=r"by 0\.35 nats when rows .* must agree to 0\.3$"):
        check_shared_rows(fake(in_row=0.35, padded=0.1), rounds, llama(), HALF)
    with pytest.raises(ValueError, match=r"by 0\.2 nats when rows"):
        check_shared_rows(fake(in_row=0.2, padded=0.2), rounds, llama(), settings())


def test_a_forward_pass_that_fails_on_parts_of_rows_is_named():
    def broken(microbatches):
        raise RuntimeError("shapes [3] and [6]")

    with pytest.raises(ValueError, match=r"=1: LlamaForCausalLM cannot: .*shapes \[3\] and \[6\]"):
        check_shared_rows(broken, fake(), llama(), settings())
