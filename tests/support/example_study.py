"""A study's folder as the runner leaves it, made in a second: for tests of studies' reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from report.study.results import OUTCOMES, run_folder

VARIANTS: dict[str, dict[str, Any]] = {
    "train": {},
    "held_out": {"hands": "held_out"},
    "rule_11_12_13": {"face_rule": "ranks"},
    "all_5": {"face_rule": "five"},
    "red_suits": {"suits": "red"},
}
OVERLAPS = {"held_out": "none", "rule_11_12_13": "some"}  # of every other variant: all
ARMS: dict[str, dict[str, Any]] = {
    "sft": {},
    "sft_long": {"from": "sft"},
    "sft_ppo": {"from": "sft"},
    "ppo_only": {},
    "overfit_ppo": {"from": "sft_long"},
}
PPO_TOKENS, SAME_COMPUTE = 1600, 24_000
STEPS = [100, 200, 400, 800]
UPDATES = [5, 10, 15, 20]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "vocab_size": 64,
}
# Success in distribution and out of it after the whole of an arm.
ENDS = {
    "": (0.10, 0.08),
    "sft": (0.62, 0.12),
    "sft_long": (0.66, 0.05),
    "sft_ppo": (0.70, 0.26),
    "ppo_only": (0.11, 0.09),
    "overfit_ppo": (0.67, 0.06),
}


def make_study(
    folder: Path,
    arms: dict[str, dict[str, Any]] = ARMS,
    seeds: tuple[int, ...] = (0, 1, 2),
    n: int = 200,
    vision: bool = True,
    ends: dict[str, tuple[float, float]] = ENDS,
    primary: list[dict[str, str]] | None = None,
    samples: int = 0,
    ppo_tokens: int = PPO_TOKENS,
    several: tuple[str, ...] = (),
) -> Path:
    """Write a complete study; an arm may carry `verify_iter`, from 1 to 10.

    samples: sampled answers per question besides a greedy one; 0 writes rows without `question` and
    `decoding`, as older runs did.
    ppo_tokens: of each logged PPO update; SAME_COMPUTE makes an arm of PPO as dear as one of SFT.
    several: variants whose records lead with the first answer. With samples records say which
    questions training can ask, and runs have floors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = {name: {"from": a.get("from"), "at": None, "set": []} for name, a in arms.items()}
    (folder / "study.yaml").write_text(
        yaml.safe_dump(
            {
                "base": "gp_l",
                "seeds": list(seeds),
                "set": [],
                "primary": primary or [],
                "arms": said,
            },
            sort_keys=False,
        )
    )
    for i, (name, arm) in enumerate(arms.items()):
        end = ends.get(name, (0.7, 0.12 + 0.02 * arm.get("verify_iter", 0)))
        for seed in seeds:
            rng = np.random.default_rng([i, seed])
            run = run_folder(folder, name, seed)
            source = arm.get("from") or ""
            _config(run, name, seed, arm.get("verify_iter", 5))
            _run(run, "ppo" in name, source, (ends[source], end), rng, n, vision, ppo_tokens)
            if samples:
                _sample_too(run, samples, rng)
                _describe(run, several)
    return folder


def _config(run: Path, name: str, seed: int, tries: int) -> None:
    run.mkdir(parents=True)
    ppo = "ppo" in name
    (run / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "name": run.name,
                "seed": seed,
                "model": {"path": None},
                "sft": {
                    "steps": 0 if ppo else STEPS[-1],
                    "batch_size": 8,
                    "loss": "ce",
                    "demonstrations": 3200,
                },
                "ppo": {"updates": UPDATES[-1] if ppo else 0, "minibatch": 16, "kl_coef": 0.0},
                "eval": {"variants": VARIANTS},
                "env": {
                    "id": "cardinal/GeneralPoints-v0",
                    "settings": {"hands": "train", "verify_iter": tries},
                },
            },
            sort_keys=False,
        )
    )
    write_model(run / "model")


def write_model(folder: Path) -> None:
    """A model folder that can be sized, with nothing in it to run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    shapes = {"embed_tokens": (64, 32), "layers.0.mlp": (32, 128), "layers.1.mlp": (32, 128)}
    tensors = {f"model.{k}.weight": np.zeros(shape, np.float16) for k, shape in shapes.items()}
    save_file(tensors, str(folder / "model.safetensors"))


def _run(
    run: Path,
    ppo: bool,
    source: str,
    ends: tuple[tuple[float, float], tuple[float, float]],
    rng: np.random.Generator,
    n: int,
    vision: bool,
    ppo_tokens: int,
) -> None:
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    phase, steps = ("ppo", UPDATES) if ppo else ("sft", STEPS)
    points = [("start", 0, 0.0)] + [(phase, s, (k + 1) / len(steps)) for k, s in enumerate(steps)]
    for k, (name, step, part) in enumerate(points):
        if k:
            records.append(_trained(name, step, step - points[k - 1][1], ppo_tokens))
        at = {"step": step * (name == "sft"), "update": step * (name == "ppo")}
        for v, variant in enumerate(VARIANTS):
            side = int(v > 1)
            share = (
                ends[0][side] + (ends[1][side] - ends[0][side]) * (1 - math.exp(-3 * part)) / 0.95
            )
            if not ppo and side and not source:  # early peak
                share += 0.16 * math.sin(math.pi * part) * (part < 1)
            share = float(np.clip(share + rng.normal(0, 0.02) - 0.015 * v, 0.01, 0.99))
            read = 0.6 + (0.2 * part if ppo else -0.25 * part)
            common = {"stage": name, "variant": variant, **at}
            rows += [common | e for e in _episodes(share, read if vision else None, n, rng)]
            records.append(
                {
                    "time": 1.79e9,
                    "kind": "eval",
                    "elapsed_s": 10.0 * len(records),
                    **common,
                    "success": share,
                    "interval": [0, 1],
                    "n": n,
                    "kl_start": part * (0.3 if ppo else 0.9) + (0.9 if source else 0),
                }
            )
    (run / OUTCOMES).write_text("".join(json.dumps(r) + "\n" for r in rows))
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (run / "status.json").write_text('{"status": "finished", "cause": ""}')
    (run / "episodes.jsonl").write_text(json.dumps(_sample(phase, steps)) + "\n")


def _trained(phase: str, step: int, steps: int, ppo_tokens: int) -> dict[str, Any]:
    """A log line: 8 demonstrations of 40 tokens a step, or segments of 50 for two epochs."""
    common: dict[str, Any] = {"kind": phase, "elapsed_s": 0.0, "time": 1.79e9}
    if phase == "sft":
        tokens = {"tokens_trained": 320 * steps, "tokens": 320.0, "action_tokens": 80.0}
        return common | {"step": step} | tokens
    segments = {"segments": ppo_tokens / 50, "episodes": 32.0}
    sizes = {"tokens": float(ppo_tokens), "action_tokens": ppo_tokens / 4} | segments
    return common | {"update": step, "steps": 4.0} | sizes


def _episodes(
    share: float, read: float | None, n: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    # A hand's difficulty is its own in every arm, so that pairs hang together.
    hard = np.random.default_rng(7).normal(size=n)
    score = 0.7 * hard + 0.7 * rng.normal(size=n)
    wins = score < np.quantile(score, share)
    seen = {} if read is None else {"recognition": float(np.clip(rng.normal(read, 0.1), 0, 1))}
    return [
        {
            "seed": 900_000 + i,
            "end": "terminated" if won else "truncated",
            "success": float(won),
            "first_try": float(won and i % 2),
            **seen,
        }
        for i, won in enumerate(wins)
    ]


def _sample_too(run: Path, samples: int, rng: np.random.Generator) -> None:
    """Name each row's question, make it greedy, and add sampled ones that solve less."""
    rows = []
    for line in (run / OUTCOMES).read_text().splitlines():
        greedy = json.loads(line)
        greedy["question"] = f"hand {greedy['seed'] - 900_000}"
        rows.append(greedy | {"decoding": "greedy"})
        wins = rng.random(samples) < 0.15 + 0.6 * greedy["success"]
        rows += [greedy | {"decoding": "sampled", "success": float(won)} for won in wins]
    (run / OUTCOMES).write_text("".join(json.dumps(r) + "\n" for r in rows))


def _describe(run: Path, several: tuple[str, ...]) -> None:
    """What records say of their variant, and what policies without a model scored."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for r in records:
        if r["kind"] == "eval":
            r["overlap"] = OVERLAPS.get(r["variant"], "all")
            r["headline"] = "first_try" if r["variant"] in several else "success"
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    row = {"baseline": "blind", "description": "sees no <cards>", "n": 200, "questions": 124}
    floors = {v: [row | {"metrics": {"success": 0.05, "first_try": 0.04}}] for v in VARIANTS}
    (run / "floors.json").write_text(json.dumps(floors))


def _sample(phase: str, steps: list[int]) -> dict[str, Any]:
    return {
        "stage": phase,
        "variant": "train",
        "update": steps[-1] if steps else 0,
        "seed": 900_000,
        "end": "terminated",
        "success": 1.0,
        "reward": 5.0,
        "messages": [
            {"role": "user", "content": "Cards: 7 3 8 A. <b>Make</b> 24."},
            {"role": "assistant", "content": "(7-1)*(8/2)=24", "reward": 5.0, "verdict": "Correct"},
        ],
    }
