"""A study's folder as the runner leaves it, made in a second: for tests of studies' reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cluster.study_results import OUTCOMES, run_folder

VARIANTS = ("train", "held_out", "rule_11_12_13", "all_5", "red_suits")
ARMS: dict[str, dict[str, Any]] = {
    "start": {"kind": "start"},
    "sft": {"kind": "sft"},
    "sft_ppo": {"kind": "rl", "from": "sft"},
    "ppo_only": {"kind": "rl_without_sft"},
    "overfit_ppo": {"kind": "rl_overfit"},
}
STEPS = {"start": [], "sft": [100, 200, 400, 800]}  # and PPO's updates:
UPDATES = [5, 10, 15, 20]
# Success in distribution and out of it after the whole of an arm.
ENDS = {"start": (0.10, 0.08), "sft": (0.62, 0.12), "sft_ppo": (0.70, 0.26),
        "ppo_only": (0.11, 0.09), "overfit_ppo": (0.64, 0.05)}  # fmt: skip


def make_study(
    folder: Path, arms: dict[str, dict[str, Any]] = ARMS, seeds: tuple[int, ...] = (0, 1, 2),
    n: int = 200, vision: bool = True, variants: tuple[str, ...] = VARIANTS,
    ends: dict[str, tuple[float, float]] = ENDS,
) -> Path:  # fmt: skip
    """Write a complete study; an arm may carry `verify_iter`."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {
        k: {key: v for key, v in arm.items() if key != "verify_iter"} for k, arm in arms.items()
    }
    (folder / "study.yaml").write_text(yaml.safe_dump({
        "name": "gp_l", "seeds": list(seeds), "arms": shown,
        "variants": {v: {} for v in variants},
        "model": {"name": "tiny transformer", "parameters": 1_234_567, "from_scratch": True},
    }, sort_keys=False))  # fmt: skip
    for i, (arm, said) in enumerate(arms.items()):
        for seed in seeds:
            rng = np.random.default_rng([i, seed])
            goal = ends.get(arm, (0.5, 0.1 + 0.02 * said.get("verify_iter", 0)))
            _run(run_folder(folder, arm, seed), said, seed, goal, rng, n, vision, variants)
    return folder


def _run(
    run: Path, said: dict[str, Any], seed: int, goal: tuple[float, float],
    rng: np.random.Generator, n: int, vision: bool, variants: tuple[str, ...],
) -> None:  # fmt: skip
    run.mkdir(parents=True)
    settings = {"verify_iter": said.get("verify_iter", 5)}
    (run / "config.yaml").write_text(yaml.safe_dump({
        "name": run.name, "seed": seed, "model": {"path": None},
        "env": {"id": "cardinal/GeneralPoints-v0", "settings": settings},
    }))  # fmt: skip
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    phase = {"start": "start", "sft": "sft"}.get(said["kind"], "ppo")
    steps = STEPS["sft"] if phase == "sft" else UPDATES if phase == "ppo" else []
    before = (0.62, 0.12) if said.get("from") else (0.10, 0.08)
    base = 3e14 if said.get("from") else 0.0
    points = [("start", 0, 0.0)] + [(phase, s, (k + 1) / len(steps)) for k, s in enumerate(steps)]
    for name, step, part in points:
        for v, variant in enumerate(variants):
            side = int(v > 1)
            share = before[side] + (goal[side] - before[side]) * (1 - math.exp(-3 * part)) / 0.95
            if name == "start":
                share = (0.10, 0.08)[side]
            if phase == "sft" and side:  # early peak
                share += 0.16 * math.sin(math.pi * part) * (part < 1)
            share = float(np.clip(share + rng.normal(0, 0.02) - 0.015 * v * (part > 0), 0.01, 0.99))
            rows += _episodes(name, step, variant, share, n, seed, vision, part, phase, rng)
            flops = 0.0 if name == "start" else base + part * (3e14 if phase == "sft" else 9e14)
            records.append({
                "time": 1.79e9, "kind": "eval", "elapsed_s": 10.0 * len(records), "stage": name,
                "update": step, "variant": variant, "success": share, "interval": [0, 1], "n": n,
                "flops": flops, "flops_formula": 1.1 * flops,
                "kl_start": part * (0.9 if phase == "sft" else 0.3 + (0.9 if base else 0)),
            })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), run / OUTCOMES)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (run / "episodes.jsonl").write_text(json.dumps(_sample(phase, steps)) + "\n")


def _episodes(
    phase: str, step: int, variant: str, share: float, n: int, seed: int, vision: bool,
    part: float, kind: str, rng: np.random.Generator,
) -> list[dict[str, Any]]:  # fmt: skip
    # A hand's difficulty is its own in every arm, so that pairs hang together.
    hard = np.random.default_rng(7).normal(size=n)
    score = 0.7 * hard + 0.7 * rng.normal(size=n)
    wins = score < np.quantile(score, share)
    read = 0.6 + (0.2 * part if kind == "ppo" else -0.25 * part if kind == "sft" else 0)
    return [
        {"phase": phase, "step": step, "variant": variant, "seed": 900_000 + i,
         "success": bool(won), "first_try": bool(won and i % 2),
         "recognition": float(np.clip(rng.normal(read, 0.1), 0, 1)) if vision else None}
        for i, won in enumerate(wins)
    ]  # fmt: skip


def _sample(phase: str, steps: list[int]) -> dict[str, Any]:
    return {
        "stage": phase, "variant": "train", "update": steps[-1] if steps else 0, "seed": 900_000,
        "end": "terminated", "success": 1.0, "reward": 5.0,
        "messages": [
            {"role": "user", "content": "Cards: 7 3 8 A. <b>Make</b> 24."},
            {"role": "assistant", "content": "(7-1)*(8/2)=24", "reward": 5.0, "verdict": "Correct"},
        ],
    }  # fmt: skip
