"""Sequence parallelism: two ranks that share rows have the losses and gradients of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, MistralConfig, MistralForCausalLM

from learner import distributed, output_layer
from learner.batch import microbatches
from learner.engine import ReferencePolicy, TrainingEngine
from learner.ppo import ppo_update
from learner.sequence_parallel import Rows, split
from learner.sft import sft_step
from learner.training_trajectory import split_tokens
from tests.support.learner import (
    FORBIDDEN,
    VOCABULARY,
    config,
    demonstrations,
    full_state,
    relative,
    save_llama,
    sgd,
    sgd_config,
    spawn,
    trajectories,
)

LR = 1e3  # so large that the step shows the gradient to full float32 precision
VARIANTS = {  # by name: ZeRO stage, packing, microbatch budget, trajectories of rank 0, model keys
    "padded": (0, "padded", 4096, 8, {}),
    "packed": (0, "packed", 256, 12, {}),  # rank 1 has no trajectory of its own
    "zero-3": (3, "packed", 256, 3, {}),
    "adapters": (2, "flat", 256, 8, {"lora_rank": 4, "gradient_checkpointing": True}),
}


def configured(name: str, ranks: int):
    stage, packing, budget, _, model = VARIANTS[name]
    cfg = config(
        stage=stage,
        budget=budget,
        temperature=0.7,
        entropy_coef=0.01,
        kl_coef=0.05,
        epochs=1,
        minibatch=12,
        baseline="optimal",
        optimizer=sgd_config(LR),
    )
    size = min(2, ranks)
    learner = replace(cfg.learner, ranks=ranks, sequence_parallel=size, packing=packing)
    return replace(cfg, model=replace(cfg.model, **model), learner=learner)


def updated(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Metrics, gradient and parameters of one update of one SGD step, and losses of SFT."""
    ranks, rank = distributed.world_size(), distributed.rank()
    cfg, share = configured(name, ranks), VARIANTS[name][3]
    reference = ReferencePolicy(folder / "reference", cfg, FORBIDDEN)
    with pytest.MonkeyPatch.context() as patch:
        if name == "zero-3":  # with its logits in chunks
            patch.setattr(output_layer, "CHUNK_ELEMENTS", 20 * VOCABULARY)
        engine = TrainingEngine(
            folder / "model",
            cfg,
            cfg.ppo.optimizer,
            4,
            True,
            make_optimizer=sgd,
            forbidden=FORBIDDEN,
        )
    before = full_state(engine)
    played = trajectories(12)
    if ranks == 2:
        played = [played[:share], played[share:]][rank]
    elif ranks > 2:
        played = played[rank::ranks]
    metrics = ppo_update(engine, played, cfg, 0, reference)
    after = full_state(engine)
    engine.close()
    result = {name: np.array([value]) for name, value in metrics.items()}
    for key, value in after.items():
        result[f"after.{key}"] = value.ravel()
        result[f"gradient.{key}"] = (before[key] - value).ravel() / LR
    return result | (supervised(folder, cfg, share) if name == "packed" else {})


def supervised(folder: Path, cfg, share: int) -> dict[str, np.ndarray]:
    """Loss and gradient's norm of two steps."""
    engine = TrainingEngine(folder / "model", cfg, cfg.sft.optimizer, 10, False)
    data = demonstrations(8)
    ranks, rank = distributed.world_size(), distributed.rank()
    if ranks > 1:
        data = [data[:share], data[share:]][rank] if ranks == 2 else data[rank::ranks]
    steps = [sft_step(engine, data, cfg.sft) for _ in range(2)]
    engine.close()
    return {"sft": np.array([(step["loss"], step["grad_norm"]) for step in steps])}


def log_probabilities(folder: Path, ranks: int) -> np.ndarray:
    """Of a model in windows of 6 tokens, in rows of one sequence and of several."""
    engine = opened(folder / "windowed", ranks)
    data = demonstrations(8)
    scored = []
    for packing in ("padded", "packed"):
        engine.packing = packing
        packed = engine.microbatches(data)
        columns = split_tokens(packed, [s.logprobs for s in engine.score(packed)])
        scored.append(np.concatenate(columns))
    engine.close()
    return np.stack(scored)


def opened(folder: Path, ranks: int) -> TrainingEngine:
    cfg = configured("padded", ranks)
    return TrainingEngine(folder, cfg, cfg.sft.optimizer, 4, False)


def ranks_work(rank: int, folder: Path, out: Path) -> None:
    np.save(out / f"windowed.{rank}.npy", log_probabilities(folder, 2))
    with pytest.raises(ValueError, match=r"learner\.sequence_parallel=2") as refusal:
        opened(folder / "convolutional", 2)
    (out / f"refused.{rank}").write_text(str(refusal.value))
    for name in VARIANTS:
        np.savez(out / f"{name}.{rank}.npz", **updated(folder, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("learner")
    save_llama(root / "model", tied=False)
    save_llama(root / "reference", tied=False, seed=1)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    windowed = MistralConfig(**sizes, **layers, sliding_window=6, initializer_range=0.2)
    MistralForCausalLM(windowed).save_pretrained(root / "windowed")
    kinds = ["conv", "full_attention"]
    mixed = Lfm2Config(**sizes, **layers, layer_types=kinds, initializer_range=0.2)
    Lfm2ForCausalLM(mixed).save_pretrained(root / "convolutional")
    cfg = config()
    engine = TrainingEngine(root / "model", cfg, cfg.ppo.optimizer, 1, True)
    torch.nn.init.normal_(engine.model.value_head.outer.weight, std=0.5)
    engine.export(root / "model")
    engine.close()
    return root


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    spawn(ranks_work, 2, folder, out)
    return out


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_and_gradients_are_those_of_one_rank(folder: Path, two_ranks: Path, name: str):
    assert_same(dict(np.load(two_ranks / f"{name}.0.npz")), updated(folder, name))


def four_ranks_work(rank: int, folder: Path, out: Path) -> None:
    np.savez(out / f"{rank}.npz", **updated(folder, "packed"))


@pytest.mark.slow
def test_two_groups_of_two_have_them_too(folder: Path, tmp_path: Path):
    spawn(four_ranks_work, 4, folder, tmp_path)
    assert_same(dict(np.load(tmp_path / "0.npz")), updated(folder, "packed"))


def assert_same(shared: dict[str, np.ndarray], alone: dict[str, np.ndarray]) -> None:
    for key in ("loss", "policy_loss", "value_loss", "entropy", "kl_ref", "tokens", "turns"):
        assert shared[key] == pytest.approx(alone[key], rel=1e-5), key
    for part in ("gradient.", "after."):
        names = [key for key in alone if key.startswith(part)]
        assert len(names) > 10
        a, b = (np.concatenate([r[key] for key in names]) for r in (shared, alone))
        assert np.linalg.norm(b) > 0
        assert relative(a, b) < 1e-5, part
    assert shared.keys() == alone.keys()
    if "sft" in alone:
        assert np.allclose(shared["sft"], alone["sft"], rtol=1e-5)


def test_layers_see_as_far_back_as_on_one_rank(folder: Path, two_ranks: Path):
    alone = log_probabilities(folder, 1)
    for rank in range(2):
        assert np.load(two_ranks / f"windowed.{rank}.npy") == pytest.approx(alone, abs=1e-5)
    assert alone[0] == pytest.approx(alone[1], abs=1e-5)


def test_layers_that_carry_a_state_along_a_row_are_refused(two_ranks: Path):
    for rank in range(2):
        said = (two_ranks / f"refused.{rank}").read_text()
        assert "Lfm2ForCausalLM has layers by which a token depends on others than by" in said


@pytest.mark.parametrize("packing", ["padded", "packed", "flat"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_parts_are_the_rows(packing: str, ranks: int):
    """Each action token and value is one part's, which has the state that it comes from."""
    rng = np.random.default_rng(0)
    data = [replace(d, value_positions=rng.choice(len(d.token_ids), 2)) for d in demonstrations(8)]
    for packed in microbatches(data, 60, packing):
        before = Rows.of(packed)
        rows = before.widen(ranks)
        length, old = rows.token_ids.shape[1], before.token_ids.shape[1]
        assert length % ranks == 0
        assert 0 <= length - old < ranks
        assert torch.equal(rows.token_ids[:, :old], before.token_ids)
        assert torch.equal(rows.position_ids[:, :old], before.position_ids)
        steps = rows.position_ids[:, old - 1 :].diff()
        assert torch.equal(steps, torch.ones_like(steps))
        parts = split(rows, ranks)
        for name in ("token_ids", "position_ids"):
            whole = torch.cat([getattr(part, name) for part in parts], 1)
            assert torch.equal(whole, getattr(rows, name))
        tokens, positions = before.token_ids.view(-1), before.position_ids.view(-1)
        for part in parts:
            actions = before.actions[part.actions]
            assert torch.equal(part.targets, tokens[actions])
            assert torch.equal(part.token_ids.view(-1)[part.states], tokens[actions - 1])
            assert torch.equal(part.position_ids.view(-1)[part.states], positions[actions - 1])
            values = before.value_positions[part.values]
            assert torch.equal(part.token_ids.view(-1)[part.value_states], tokens[values])
            assert torch.equal(part.position_ids.view(-1)[part.value_states], positions[values])
        for name in ("actions", "values"):
            places = torch.cat([getattr(part, name) for part in parts]).sort().values
            assert torch.equal(places, torch.arange(len(places)))
