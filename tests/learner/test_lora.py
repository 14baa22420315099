"""LoRA: only adapters learn, and what is published, exported and resumed is the merged model."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from cluster.preflight.check import check
from configs.contradictions import contradictions
from configs.load import ConfigError, load
from configs.model_folder import ModelSize, adapter_parameters, check_model, is_matrix
from configs.schema import ModelConfig
from learner.engine import ReferencePolicy, TrainingEngine
from learner.lora import Adapters, add_adapters
from learner.model import WEIGHT_KINDS
from learner.ppo import ppo_update
from learner.sft import sft_step
from learner.trunk import load_trunk
from rollout.adapters import with_adapters
from rollout.bucket import pack, unpack, write
from tests.support.learner import (
    config,
    demonstrations,
    full_state,
    load_state,
    save_idefics,
    save_llama,
    save_state,
    spawn,
    trajectories,
    with_pictures,
)
from tests.support.slow import fast

STAGES = [0, 2, 3]


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "model", tied=False)


def lora_config(stage=0, dtype="float32", **keys):
    cfg = config(stage=stage)
    model = replace(cfg.model, dtype=dtype, **{"lora_rank": 4, "lora_alpha": 8} | keys)
    return replace(cfg, model=model)


def start(folder, stage=0, value=True, **keys):
    cfg = lora_config(stage, **keys)
    return TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, value)


def train(engine, steps=3, seed=0):
    batches = [demonstrations(4, seed + i) for i in range(steps)]
    return [sft_step(engine, batch, config().sft)["loss"] for batch in batches]


def published(engine):
    """The weights as they reach a rollout engine: packed, and unpacked again."""
    return unpacked(pack(bucket) for bucket in engine.weights(10_000))


def unpacked(buckets):
    weights = {}
    for packed in buckets:
        with tempfile.TemporaryFile() as file:
            write(packed, file)
            file.seek(0)
            data = np.frombuffer(bytearray(file.read()), np.uint8)
        weights |= dict(unpack(packed.header, data))
    return weights


def plain_model(folder, weights):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.load_state_dict(weights)
    return model


def logprobs_of(model, packed):
    for m in packed:
        with torch.no_grad():
            logits = model(input_ids=m.token_ids, position_ids=m.position_ids).logits
        every = logits.float().log_softmax(-1).flatten(0, 1)[m.actions - 1]
        yield every.gather(-1, m.token_ids.flatten()[m.actions][:, None])[:, 0]


def is_adapter(name):
    return "lora_" in name


@pytest.mark.parametrize("stage", fast([0], STAGES))
def test_only_adapters_and_value_head_learn(folder, stage):
    engine = start(folder, stage)
    names = [n for n, p in engine.model.named_parameters() if p.requires_grad]
    assert {n.split(".")[0] for n in names} == {"trunk", "value_head"}
    assert all(is_adapter(n) for n in names if n.startswith("trunk"))
    before = full_state(engine)
    train(engine, 4)
    after = full_state(engine)
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    assert {n for n in after if is_adapter(n)} == changed  # SFT leaves the value head alone
    engine.close()


@pytest.mark.parametrize("stage", fast([3], STAGES))
def test_the_published_weights_are_the_policy(folder, stage):
    engine = start(folder, stage)
    packed = engine.microbatches(demonstrations(4))
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    for score, expected in zip(engine.score(packed), logprobs_of(plain, packed), strict=True):
        assert torch.allclose(score.logprobs, expected, atol=1e-5)  # B starts as zero
    train(engine)
    weights = published(engine)
    assert sorted(weights) == sorted(n for n, _ in plain.named_parameters())
    merged = plain_model(folder, weights)
    for score, expected in zip(engine.score(packed), logprobs_of(merged, packed), strict=True):
        assert torch.allclose(score.logprobs, expected, atol=1e-5)
    for score, expected in zip(engine.score(packed), logprobs_of(plain, packed), strict=True):
        assert not torch.allclose(score.logprobs, expected, atol=1e-3)
    engine.close()


def copied(bucket):
    return pack([(name, tensor.clone()) for name, tensor in bucket])


@pytest.mark.parametrize("dtype", fast(["bfloat16"], ["float32", "bfloat16"]))
@pytest.mark.parametrize("stage", fast([3], STAGES))
def test_adapters_that_travel_alone_make_the_published_weights(folder, stage, dtype):
    """Of plain weights that were sent before they learned, to the last bit."""
    engine = start(folder, stage, dtype=dtype)
    plain = [copied(bucket) for bucket in engine.weights(10_000, merged=False)]
    saved = load_file(folder / "model.safetensors")
    sent = unpacked(plain)
    assert all(torch.equal(sent[name], saved[name].to(sent[name].dtype)) for name in saved)
    for _ in range(2):
        train(engine)
        adapters = [copied(bucket) for bucket in engine.adapters(1_000)]
        assert len(adapters) > 3
        assert all(bucket.header.bytes < 2_500 for bucket in adapters)  # with their alignment
        alone, expected = unpacked(with_adapters([*plain, *adapters])), published(engine)
        assert alone.keys() == expected.keys()
        assert all(torch.equal(alone[name], weight) for name, weight in expected.items())
        assert any(not torch.equal(alone[name], sent[name]) for name in sent)
    assert engine.perturbed is None
    assert engine.perturb("norm", seed=1)
    assert engine.perturbed == ("norm", 1)
    again = unpacked(pack(bucket) for bucket in engine.weights(10_000, merged=False))
    assert any(not torch.equal(again[name], sent[name]) for name in sent)
    engine.restore()
    engine.close()


def test_other_ranks_get_as_many_empty_buckets_of_adapters(folder, monkeypatch):
    engine = start(folder)
    count = len(list(engine.adapters(1_000)))
    monkeypatch.setattr("learner.distributed.rank", lambda: 1)
    assert list(engine.adapters(1_000)) == [[]] * count
    engine.close()


def test_an_adapter_of_a_weight_that_a_checkpoint_cuts_is_refused(folder):
    engine = start(folder)
    parts = engine._weights._layout.parts
    name = "model.layers.0.mlp.up_proj.weight"
    engine._weights._layout.parts = [replace(part, renamed=part.names != (name,)) for part in parts]
    with pytest.raises(ValueError, match=f"a checkpoint holds {name} in parts"):
        next(engine.adapters(1_000))
    engine.close()


def test_merged_weights_are_those_that_peft_merges(folder):
    from peft import LoraConfig, get_peft_model

    cfg = lora_config().model
    trunk = load_trunk(folder, torch.float32, "sdpa")
    add_adapters(trunk, cfg, seed=3)
    peft = get_peft_model(
        load_trunk(folder, torch.float32, "sdpa"),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
    )
    theirs = dict(peft.named_parameters())
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
            theirs[f"base_model.model.{name}"].copy_(parameter)
    adapters = Adapters(trunk)
    assert adapters
    ours = {name: adapters.merged(p) for name, p in adapters.plain_weights()}
    expected = dict(peft.merge_and_unload().named_parameters())
    assert sorted(ours) == sorted(expected)
    assert all(torch.allclose(ours[n], expected[n], atol=1e-6) for n in ours)


@pytest.mark.parametrize("stage", fast([0], STAGES))  # under 3: test_a_vision_language_model
def test_export_is_a_plain_merged_folder(folder, tmp_path, stage):
    engine = start(folder, stage)
    train(engine)
    packed = engine.microbatches(demonstrations(4))
    scores = engine.score(packed)
    engine.export(tmp_path / "out")
    engine.close()
    assert not list((tmp_path / "out").glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for score, expected in zip(scores, logprobs_of(plain, packed), strict=True):
        assert torch.allclose(score.logprobs, expected, atol=1e-5)
    again = start(tmp_path / "out")  # the next phase: fresh adapters on what was learned
    for a, b in zip(scores, again.score(packed), strict=True):
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-5)
        assert torch.equal(a.values, b.values)
    again.close()


@pytest.mark.parametrize("stage", fast([3], STAGES))
def test_resume_continues_exactly(folder, tmp_path, stage):
    engine = start(folder, stage)
    train(engine, 2)
    save_state(engine, tmp_path / "state")
    expected, last = train(engine, 3, seed=20), full_state(engine)
    engine.close()
    resumed = start(folder, stage)
    assert train(resumed, 1) != expected[:1]
    load_state(resumed, tmp_path / "state")
    assert train(resumed, 3, seed=20) == expected
    state = full_state(resumed)
    assert all(np.array_equal(state[name], last[name]) for name in last)
    resumed.close()


@pytest.mark.parametrize("stage", fast([3], [0, 3]))
def test_a_perturbed_kind_is_published_and_restored(folder, stage):
    engine = start(folder, stage)
    train(engine, 2)
    before = published(engine)
    for kind in [kind for kind in WEIGHT_KINDS if kind not in ("vision", "projector")]:
        assert engine.perturb(kind, seed=1)
        during = published(engine)
        assert any(not torch.equal(before[n], during[n]) for n in before), kind
        engine.restore()
        after = published(engine)
        assert all(torch.equal(before[n], after[n]) for n in before)
    engine.close()


@pytest.mark.parametrize("stage", fast([2], STAGES))
def test_bfloat16_with_checkpointing_and_offload(folder, stage):
    cfg = lora_config(stage, "bfloat16", gradient_checkpointing=True)
    cfg = replace(cfg, learner=replace(cfg.learner, offload=stage > 0))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 20, True)
    assert {p.dtype for p in engine.model.trunk.parameters()} == {torch.bfloat16}
    data = demonstrations(4)
    metrics = [sft_step(engine, data, cfg.sft) for _ in range(10)]
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.02
    packed = engine.microbatches(data)
    merged = plain_model(folder, published(engine)).to(torch.bfloat16)
    (expected,) = logprobs_of(merged, packed)
    assert torch.allclose(engine.score(packed)[0].logprobs, expected, atol=0.1)
    engine.close()


def test_a_reference_has_no_adapters(folder):
    reference = ReferencePolicy(folder, lora_config())
    assert not any(is_adapter(n) for n, _ in reference._forward.named_parameters())


def test_targets_choose_the_layers(folder):
    engine = start(folder, lora_targets=["q_proj", "v_proj"])
    names = [n for n, _ in engine.model.named_parameters() if "lora_A" in n]
    assert len(names) == 2 * 2
    assert all("q_proj" in n or "v_proj" in n for n in names)
    engine.close()


@pytest.mark.parametrize("target", ["wq", "lm_head", "embed_tokens", "norm"])
def test_targets_that_cannot_be(folder, target):
    with pytest.raises(ValueError, match=f"model.lora_targets={target}: no linear layer"):
        start(folder, lora_targets=["q_proj", target])


@pytest.mark.parametrize("stage", fast([3], [0, 3]))
@pytest.mark.parametrize("freeze", ["none", "vision"])
def test_a_vision_language_model(tmp_path, stage, freeze):
    """Adapters in trunk, connector and, unless it is frozen, vision tower; names as checkpoints."""
    folder = save_idefics(tmp_path / "vision")
    cfg = lora_config(stage, freeze=freeze)
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 10, True)
    adapted = {n for n, _ in engine.model.named_parameters() if is_adapter(n)}
    assert any("text_model" in n for n in adapted)
    assert any("vision_model" in n for n in adapted) is (freeze == "none")
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    expected = load_file(folder / "model.safetensors")
    assert {n for n, *_ in engine.weight_shapes()} == set(expected)
    ppo_update(engine, with_pictures(trajectories(12), folder, without=2), cfg, 0)
    weights = published(engine)
    changed = {n for n in expected if not torch.equal(weights[n], expected[n])}
    assert any("vision_model" in n for n in changed) is (freeze == "none")
    assert any("text_model" in n for n in changed)
    assert not any("embed" in n or "norm" in n for n in changed)
    engine.export(tmp_path / "out")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    assert set(again) == set(plain.state_dict())
    assert all(
        torch.equal(weights[n], t) for n, t in load_file(tmp_path / "out/model.safetensors").items()
    )
    engine.close()


def test_what_is_frozen_for_other_reasons_gets_no_adapter(folder):
    trunk = load_trunk(folder, torch.float32, "sdpa")
    trunk.model.layers[0].requires_grad_(False)
    add_adapters(trunk, lora_config().model, seed=0)
    assert not any(is_adapter(n) for n, _ in trunk.model.layers[0].named_parameters())
    assert any(is_adapter(n) for n, _ in trunk.model.layers[1].named_parameters())


@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]])
def test_the_check_counts_the_adapters(folder, targets):
    cfg = ModelConfig(lora_rank=4, lora_targets=targets)
    trunk = load_trunk(folder, torch.float32, "sdpa")
    add_adapters(trunk, cfg, seed=0)
    expected = sum(p.numel() for p in trunk.parameters() if p.requires_grad)
    size = ModelSize({}, 2, 32, 48, None, matrices_of(folder))
    assert adapter_parameters(cfg, size) == expected
    assert adapter_parameters(replace(cfg, lora_rank=0, lora_targets=[]), size) == 0


def matrices_of(folder):
    """As `check_model` finds them in the folder's headers."""
    tensors = load_file(folder / "model.safetensors")
    return {n: tuple(t.shape) for n, t in tensors.items() if is_matrix(n, tuple(t.shape))}


def test_the_check_refuses_targets(folder):
    size = check_model(folder)
    assert size.matrices == matrices_of(folder)
    cfg = ModelConfig(path=str(folder), lora_rank=4, lora_targets=["q_proj", "k_porj"])
    with pytest.raises(ConfigError, match=r"lora_targets=k_porj: .* the nearest is k_proj"):
        adapter_parameters(cfg, size)
    with pytest.raises(ConfigError, match="lora_targets=lm_head"):
        adapter_parameters(replace(cfg, lora_targets=["lm_head"]), size)


@pytest.mark.parametrize("keys", [[], ["model.lora_rank=4"]])
def test_adapters_of_a_tiny_model_take_less_memory(tmp_path, keys, monkeypatch):
    monkeypatch.setattr("cluster.preflight.check.available_bytes", lambda: 2**40)  # enough
    resolved = check(load("gp_l_debug", [f"cluster.root={tmp_path}", *keys]))
    n, init = sum(resolved.parameters.values()), resolved.cfg.model.init
    if keys:  # a layer: 4 attention and 3 feed-forward matrices
        wide = 4 * 2 * init.hidden + 3 * (init.hidden + init.mlp)
        n = 4 * init.layers * wide + resolved.parameters["value head"]
    assert resolved.memory["learner optimizer"] == 8 * n
    assert resolved.memory["learner gradients"] == 4 * n


def test_targets_without_a_rank_are_refused():
    wrong = lora_config(lora_rank=0, lora_targets=["q_proj"])
    assert any(
        sentence.startswith("model.lora_targets names") for sentence in contradictions(wrong)
    )
    assert not any("lora" in sentence for sentence in contradictions(lora_config()))


def test_rank_0_trains_every_weight(folder):
    trunk = load_trunk(folder, torch.float32, "sdpa")
    add_adapters(trunk, ModelConfig(), seed=0)
    adapters = Adapters(trunk)
    assert not adapters
    assert all(p.requires_grad for p in trunk.parameters())
    assert dict(adapters.plain_weights()) == dict(trunk.named_parameters())


def _two_ranks(rank, folder, out):
    engine = start(folder, 3)
    train(engine, 2)
    weights = list(engine.weights(10_000))
    assert [bool(bucket) for bucket in weights] == [rank == 0] * len(weights)
    engine.export(out)
    engine.close()


@pytest.mark.slow
def test_two_ranks_under_zero_3_export_what_one_does(folder, tmp_path):
    spawn(_two_ranks, 2, folder, tmp_path / "two")
    engine = start(folder, 0)
    train(engine, 2)
    weights = published(engine)
    engine.close()
    two = AutoModelForCausalLM.from_pretrained(tmp_path / "two").state_dict()
    # Each rank trained on the same demonstrations, so the mean gradient is that of one rank.
    assert all(torch.allclose(weights[n], two[n], atol=1e-4) for n in weights)
