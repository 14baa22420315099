"""In bfloat16 each ZeRO stage takes the step of float32 master weights, on two ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param

from configs.schema import OptimizerConfig, RunConfig
from learner.engine import TrainingEngine
from learner.forward import run_forward
from learner.model import ForwardOptions, load_actor_critic
from learner.optimizer import adamw, parameter_groups
from learner.sft import sft_loss, sft_step
from tests.support.learner import config, demonstrations, relative, save_llama, spawn
from tests.support.slow import fast

OPTIMIZER = OptimizerConfig(lr=1e-3, schedule="constant", warmup=0.0, weight_decay=0.1)
STAGES, STEPS = (0, 1, 2, 3), 2
CASES = [*((stage, False) for stage in STAGES), (1, True), (2, True), (3, True)]  # with offload
FEW = [(0, False), (1, True), (2, False), (3, True)]
State = dict[str, np.ndarray]


def half(stage: int, offload: bool = False) -> RunConfig:
    """In bfloat16, with several microbatches a rank, so that gradients are accumulated."""
    cfg = config(stage=stage, budget=60)
    return replace(
        cfg,
        model=replace(cfg.model, dtype="bfloat16"),
        learner=replace(cfg.learner, packing="padded", offload=offload),
    )


def share(step: int, rank: int):
    return demonstrations(12, step)[rank::2]


def two_ranks(rank: int, folder: Path, few: bool) -> None:
    for stage, offload in (case for case in CASES if (case in FEW) == few):
        cfg = half(stage, offload)
        engine = TrainingEngine(folder / "model", cfg, OPTIMIZER, STEPS, True)
        assert len(engine.microbatches(share(0, rank))) > 3
        for step in range(STEPS):
            metrics = sft_step(engine, share(step, rank), cfg.sft)
            masters = {n: safe_get_full_fp32_param(p) for n, p in engine.model.named_parameters()}
            norm = np.array(metrics["grad_norm"])
            np.savez(folder / f"{stage}{offload}-{step}.{rank}.npz", norm=norm, **masters)
        engine.close()


def in_plain_torch(folder: Path) -> tuple[State, list[tuple[float, State]]]:
    """The weights before, and after each step its gradient's norm and the float32 weights."""
    cfg = half(0)
    packer = TrainingEngine(folder, cfg, OPTIMIZER, STEPS, True)
    model = load_actor_critic(folder, cfg, (), cfg.seed)
    weights = dict(model.named_parameters())
    masters = {name: p.detach().float().requires_grad_() for name, p in weights.items()}
    groups = parameter_groups(model, OPTIMIZER)
    for group in groups:
        members = {id(p) for p in group["params"]}
        group["params"] = [masters[name] for name, p in weights.items() if id(p) in members]
    optimizer = adamw(groups, OPTIMIZER)
    before, steps = numpy(masters), []
    for step in range(STEPS):
        actions = sum(int(s.action_mask.sum()) for s in demonstrations(12, step))
        loss_fn = sft_loss(cfg.sft, actions)
        for master in masters.values():
            master.grad = torch.zeros_like(master)
        for microbatch in [m for rank in (0, 1) for m in packer.microbatches(share(step, rank))]:
            loss, _ = loss_fn(run_forward(model, ForwardOptions(), None, microbatch), microbatch)
            loss.backward()
            for name, p in weights.items():  # added up in float32
                if p.grad is not None:
                    masters[name].grad += p.grad.float()
                p.grad = None
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), OPTIMIZER.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(masters[name])
        steps.append((float(norm), numpy(masters)))
    packer.close()
    return before, steps


def numpy(tensors: dict[str, torch.Tensor]) -> State:
    return {name: t.detach().numpy().copy() for name, t in tensors.items()}


def test_the_norm_is_of_all_gradients_though_this_rank_used_few_weights(tmp_path):
    """As an expert that no token of this rank went to: its gradient is the other ranks'."""
    cfg = half(0)
    engine = TrainingEngine(save_llama(tmp_path), cfg, OPTIMIZER, STEPS, False)
    packed = engine.microbatches(share(0, 0))
    engine._backward(packed, sft_loss(cfg.sft, 50), ForwardOptions(), None)
    optimizer = engine._optimizer
    full = torch.cat(optimizer.fp32_groups_actual_gradients_flat)
    expected = float(full.norm())
    optimizer.fp32_groups_has_gradients[0] = [False] * len(optimizer.fp32_groups_has_gradients[0])
    assert engine._update_weights() == pytest.approx(expected, rel=1e-5)
    assert expected > 0
    engine.close()


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masters")
    save_llama(folder / "model", tied=False)
    spawn(two_ranks, 2, folder, True)
    return folder, *in_plain_torch(folder / "model")


@pytest.fixture(scope="module")
def all_stepped(stepped):
    """The same folder, with the cases that slow tests look at."""
    spawn(two_ranks, 2, stepped[0], False)
    return stepped


@pytest.mark.parametrize(("stage", "offload"), fast(FEW, CASES))
def test_each_stage_takes_the_steps_of_plain_torch(request, stage, offload):
    name = "stepped" if (stage, offload) in FEW else "all_stepped"
    folder, before, steps = request.getfixturevalue(name)
    for step, (norm, expected) in enumerate(steps):
        ranks = [np.load(folder / f"{stage}{offload}-{step}.{rank}.npz") for rank in (0, 1)]
        moved, own = (
            np.concatenate([(weights[name] - before[name]).ravel() for name in before])
            for weights in (expected, ranks[0])
        )
        assert np.abs(moved).mean() > 1e-4
        assert relative(own, moved) < 1e-3, step
        assert ranks[0]["norm"] == pytest.approx(norm, rel=1e-4)
        assert all(np.array_equal(ranks[0][name], ranks[1][name]) for name in before)
