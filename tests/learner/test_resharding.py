"""A state is loaded by another number of ranks than wrote it, at each ZeRO stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learner.engine import TrainingEngine
from learner.sft import sft_step
from tests.support.learner import (
    config,
    demonstrations,
    full_state,
    load_state,
    save_llama,
    save_state,
    spawn,
)

STAGES = (0, 1, 2, 3)


def start(model: Path, stage: int) -> TrainingEngine:
    cfg = config(stage=stage)
    return TrainingEngine(model, cfg, cfg.sft.optimizer, 10, True)


def step(engine: TrainingEngine, seed: int, rank: int = 0, ranks: int = 1) -> float:
    return sft_step(engine, demonstrations(4, seed)[rank::ranks], config().sft)["loss"]


def two_ranks(rank: int, folder: Path) -> None:
    """Load what one rank wrote, go on, and write what one rank will load."""
    for stage in STAGES:
        engine = start(folder / "model", stage)
        load_state(engine, folder / f"one-{stage}")
        assert engine.counters["steps"] == 2
        losses = [step(engine, seed, rank, 2) for seed in (2, 3)]
        save_state(engine, folder / f"two-{stage}")
        losses.append(step(engine, 4, rank, 2))
        last = full_state(engine)
        engine.close()
        if rank == 0:
            np.savez(folder / f"two-{stage}.npz", losses=losses, **last)


@pytest.mark.slow
def test_one_rank_goes_on_as_two_and_two_as_one(tmp_path):
    model = save_llama(tmp_path / "model")
    expected = {}
    for stage in STAGES:
        engine = start(model, stage)
        step(engine, 0)
        step(engine, 1)
        save_state(engine, tmp_path / f"one-{stage}")
        losses = [step(engine, seed) for seed in (2, 3, 4)]
        expected[stage] = losses, full_state(engine)
        engine.close()
    spawn(two_ranks, 2, tmp_path)
    for stage, (losses, last) in expected.items():
        found = np.load(tmp_path / f"two-{stage}.npz")
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        engine = start(model, stage)
        load_state(engine, tmp_path / f"two-{stage}")
        assert engine.counters["steps"] == 4
        assert step(engine, 4) == pytest.approx(losses[2], rel=1e-5)
        now = full_state(engine)
        engine.close()
        for name, weights in last.items():
            assert np.allclose(found[name], weights, atol=1e-5), (stage, name)
            assert np.allclose(now[name], weights, atol=1e-5), (stage, name)
