"""A state is loaded by another number of ranks than wrote it, at each ZeRO stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.schema import OptimizerConfig
from learner import snapshot
from learner.engine import TrainingEngine
from learner.ppo import ppo_update
from learner.resharding import place_steps
from learner.sft import sft_step
from tests.support.learner import (
    config,
    demonstrations,
    full_state,
    load_state,
    relative,
    save_llama,
    save_state,
    spawn,
    trajectories,
)

CASES = (  # ZeRO stage, dtype, and how far losses and updates may be apart
    *((stage, "float32", 1e-5, 0.02, 0.2) for stage in (0, 1, 2, 3)),
    *((stage, "bfloat16", 1e-2, 0.5, 0.8) for stage in (0, 2, 3)),  # of rounded weights
)


def start(model: Path, stage: int, dtype: str) -> TrainingEngine:
    cfg = config(stage=stage)
    cfg = replace(cfg, model=replace(cfg.model, dtype=dtype))
    return TrainingEngine(model, cfg, cfg.sft.optimizer, 10, True)


def step(engine: TrainingEngine, seed: int, rank: int = 0, ranks: int = 1) -> float:
    return sft_step(engine, demonstrations(4, seed)[rank::ranks], config().sft)["loss"]


def two_ranks(rank: int, folder: Path) -> None:
    """Load what one rank wrote, take a step, and write what one rank will load."""
    for stage, dtype, *_ in CASES:
        engine = start(folder / "model", stage, dtype)
        load_state(engine, folder / f"one-{stage}-{dtype}")
        assert engine.counters["steps"] == 2
        loaded = full_state(engine)
        loss = step(engine, 2, rank, 2)
        stepped = full_state(engine)
        save_state(engine, folder / f"two-{stage}-{dtype}")
        engine.close()
        if rank == 0:
            np.savez(folder / f"loaded-{stage}-{dtype}.npz", **loaded)
            np.savez(folder / f"stepped-{stage}-{dtype}.npz", loss=loss, **stepped)


def updates_differ(before, a, b) -> float:
    """Relative L2 distance of two updates of the same weights."""
    one, two = (np.concatenate([(x[n] - before[n]).ravel() for n in before]) for x in (a, b))
    return relative(one, two)


@pytest.mark.slow
def test_one_rank_goes_on_as_two_and_two_as_one(tmp_path):
    """With equal weights after the load, an equal update next: so the optimizer's state is too."""
    model, expected = save_llama(tmp_path / "model"), {}
    for case in CASES:
        stage, dtype, *_ = case
        engine = start(model, stage, dtype)
        step(engine, 0)
        step(engine, 1)
        save_state(engine, tmp_path / f"one-{stage}-{dtype}")
        saved = full_state(engine)
        expected[case] = saved, step(engine, 2), full_state(engine)
        engine.close()
    spawn(two_ranks, 2, tmp_path)
    for case, (saved, loss, stepped) in expected.items():
        stage, dtype, of_loss, of_update, of_two = case
        name = f"{stage}-{dtype}"
        loaded = np.load(tmp_path / f"loaded-{name}.npz")
        assert all(np.array_equal(loaded[key], saved[key]) for key in saved), name
        two = np.load(tmp_path / f"stepped-{name}.npz")
        assert two["loss"] == pytest.approx(loss, rel=of_loss), name
        assert updates_differ(saved, two, stepped) < of_update, name
        engine = start(model, stage, dtype)
        load_state(engine, tmp_path / f"two-{name}")
        assert engine.counters["steps"] == 3
        again = full_state(engine)
        assert all(np.array_equal(again[key], two[key]) for key in saved), name
        step(engine, 3)
        one = start(model, stage, dtype)  # the same step by one rank all along
        load_state(one, tmp_path / f"one-{name}")
        step(one, 2)
        before = full_state(one)
        step(one, 3)
        moved = {key: again[key] + full_state(one)[key] - before[key] for key in saved}
        # Two roundings of Adam's first steps; with other moments it would be about 1.
        assert updates_differ(again, full_state(engine), moved) < of_two, name
        engine.close()
        one.close()


def test_zero_3_keeps_steps_and_options_of_trunk_and_head_apart(tmp_path, monkeypatch):
    """Converted after the critic's warm-up, the next update is that of a run that went on."""
    optimizer = OptimizerConfig(lr=1e-3, weight_decay=0.1)
    cfg = config(stage=3, critic_warmup=1, optimizer=optimizer, value_lr=1e-2)
    model = save_llama(tmp_path / "model")
    monkeypatch.setattr("learner.deepspeed_config.AT_ONCE", 8000)  # the trunk in several partitions
    engine = TrainingEngine(model, cfg, optimizer, 24, True, frozen_steps=6)
    ppo_update(engine, trajectories(12), cfg, 0)
    ppo_update(engine, trajectories(12, 1), cfg, 1)
    before, own = full_state(engine), options(engine)
    save_state(engine, tmp_path / "state")
    ppo_update(engine, trajectories(12, 2), cfg, 2)
    went_on, steps = full_state(engine), steps_of(engine)
    engine.close()
    monkeypatch.setattr(snapshot, "ranks_of", lambda names: 2)  # it is converted
    engine = TrainingEngine(model, cfg, optimizer, 24, True, frozen_steps=6)
    load_state(engine, tmp_path / "state")
    assert options(engine) == own
    assert len({part for part, _ in own}) == 2
    assert len(engine._optimizer.fp32_partitioned_groups_flat) > len(own) == 4
    ppo_update(engine, trajectories(12, 2), cfg, 2)
    assert steps_of(engine) == steps
    assert len(set(steps)) == 2  # the trunk's are fewer
    resumed = full_state(engine)
    engine.close()
    for part in ("trunk.", "value_head."):
        names = {name: value for name, value in before.items() if name.startswith(part)}
        assert updates_differ(names, resumed, went_on) < 0.01, part


def options(engine: TrainingEngine) -> list[tuple[str, float]]:
    """Of each group its part and weight decay."""
    return [(group["part"], group["weight_decay"]) for group in engine._optimizer.param_groups]


def steps_of(engine: TrainingEngine) -> list[float]:
    """Adam's, of each partition."""
    optimizer = engine._optimizer
    return [float(optimizer.state[p]["step"]) for p in optimizer.fp32_partitioned_groups_flat]


def test_steps_are_where_the_weights_are():
    """Read from a file they are the host's; a GPU's kernel would take their address for its own."""
    weights, step = torch.empty(3, device="meta"), torch.tensor(2.0)
    optimizer = SimpleNamespace(state={weights: {"step": step}})
    place_steps(optimizer)
    assert optimizer.state[weights]["step"].device.type == "meta"


@pytest.mark.parametrize(("stage", "placed"), [(0, 0), (2, 1), (3, 1)])
def test_steps_are_placed_wherever_a_state_is_converted(stage, placed, tmp_path, monkeypatch):
    calls: list[object] = []
    monkeypatch.setattr("learner.resharding.place_steps", calls.append)
    engine = start(save_llama(tmp_path / "model"), stage, "float32")
    step(engine, 0)
    save_state(engine, tmp_path / "state")
    load_state(engine, tmp_path / "state")
    assert calls == []
    monkeypatch.setattr(snapshot, "ranks_of", lambda names: 2)
    load_state(engine, tmp_path / "state")
    assert calls == [engine._optimizer] * placed
    engine.close()


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_are_converted_without_the_weights_that_they_leave(stage, tmp_path, monkeypatch):
    cfg = config(stage=stage)
    cfg = replace(cfg, model=replace(cfg.model, lora_rank=4))
    model, states = save_llama(tmp_path / "model"), []
    for converted in (False, True):
        engine = TrainingEngine(model, cfg, cfg.sft.optimizer, 10, True)
        if converted:
            monkeypatch.setattr(snapshot, "ranks_of", lambda names: 2)
            load_state(engine, tmp_path / "state")
        else:
            step(engine, 0)
            save_state(engine, tmp_path / "state")
        before = full_state(engine)
        step(engine, 1)
        states.append((before, full_state(engine)))
        engine.close()
    (before, went_on), (loaded, resumed) = states
    assert all(np.array_equal(loaded[name], before[name]) for name in before)
    assert updates_differ(before, resumed, went_on) < 0.01
