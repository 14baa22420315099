"""Learner against bare loops: tokens/s of SFT and PPO steps, of packed and of padded training.

Bare: forward, backward and fused AdamW of the same Llama on the same data, no engine, nothing
of learner/. And an update that was packed ahead against one that packs. Prints one JSON row per
figure (ours, reference, ratio).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import NamedTuple

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from configs.schema import OptimizerConfig, PPOConfig, RunConfig, SFTConfig
from learner.batch import Sequence
from learner.engine import TrainingEngine
from learner.minibatches import update_minibatches
from learner.packed_update import pack_ahead
from learner.ppo import ppo_steps, ppo_update
from learner.sft import sft_step
from rollout.trajectory import Segment, Trajectory, Turn

BATCH = 64  # sequences an optimizer step
EPOCHS = 4  # of a PPO update


def make_model(folder: str, vocabulary: int) -> int:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def make_trajectories(n: int, turns: int, seed: int, vocabulary: int) -> list[Trajectory]:
    """Episodes of 1 to `turns` turns, prompts of 8-16 tokens, answers of 12-40."""
    rng = np.random.default_rng(seed)
    trajectories = []
    for i in range(n):
        ids: list[int] = rng.integers(0, vocabulary, rng.integers(8, 17)).tolist()
        mask, played = [False] * len(ids), []
        for _ in range(int(rng.integers(1, turns + 1))):
            length = int(rng.integers(12, 41))
            played.append(Turn(len(ids), len(ids) + length, float(rng.normal())))
            ids += rng.integers(0, vocabulary, length + 4).tolist()
            mask += [True] * length + [False] * 4
        ids, mask = ids[:-4], mask[:-4]
        segment = Segment(
            np.array(ids, np.int32),
            np.array(mask),
            np.where(mask, -4.4, 0).astype(np.float32),
            np.where(mask, 0, -1).astype(np.int32),
            tuple(played),
        )
        metrics = {"success": 0.0, "first_try": 0.0}
        trajectories.append(
            Trajectory(f"b/{i:04d}", "b", "train", i, i, (segment,), "truncated", metrics)
        )
    return trajectories


def rates(
    works: dict[str, tuple[int, Callable[[], object]]], seconds: float
) -> dict[str, list[float]]:
    """Tokens/s of each work (tokens, callable) in each of several rounds.

    In a round all works run once, one after the other, in every second round in reverse: whatever
    else the machine does hits all alike, and figures of one round are compared with each other.
    """
    measured: dict[str, list[float]] = {name: [] for name in works}
    for _, work in works.values():
        work()
    order = list(works.items())
    end = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < end or not measured[order[0][0]]:
        for name, (tokens, work) in order:
            begin = time.perf_counter()
            work()
            measured[name].append(tokens / (time.perf_counter() - begin))
        order.reverse()
    return measured


class Rows(NamedTuple):
    """What the bare loop reads: int64 [R, L] twice; int64 [N], flat indices of the answers."""

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    actions: torch.Tensor


def fill_rows(sequences: list[Sequence], factor: int) -> Rows:
    """Rows of `factor` times the longest sequence, filled in order of arrival.

    factor: 0 gives each sequence a row of its own.
    """
    width = max(factor, 1) * max(len(s.token_ids) for s in sequences)
    rows: list[list[Sequence]] = []
    used = width
    for sequence in sequences:
        if factor == 0 or used + len(sequence.token_ids) > width:
            rows.append([])
            used = 0
        rows[-1].append(sequence)
        used += len(sequence.token_ids)
    token_ids = np.zeros((len(rows), width), np.int64)
    positions, actions = token_ids.copy(), np.zeros((len(rows), width), bool)
    for row, parts in enumerate(rows):
        begin = 0
        for part in parts:
            span = slice(begin, begin := begin + len(part.token_ids))
            token_ids[row, span], actions[row, span] = part.token_ids, part.action_mask
            positions[row, span] = np.arange(len(part.token_ids))
        positions[row, begin:] = np.arange(width - begin)  # padding is a sequence of its own
    flat = torch.from_numpy(np.flatnonzero(actions))
    return Rows(torch.from_numpy(token_ids), torch.from_numpy(positions), flat)


class Bare:
    """The loop one would write by hand."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def epoch(self, steps: list[Rows]) -> None:
        """One optimizer step for each batch of rows."""
        for rows in steps:
            logits = self.model(
                input_ids=rows.token_ids, position_ids=rows.position_ids, use_cache=False
            ).logits
            predicting = logits.flatten(0, 1)[rows.actions - 1]
            F.cross_entropy(predicting, rows.token_ids.flatten()[rows.actions]).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


def chunks(sequences: list[Sequence]) -> list[list[Sequence]]:
    return [sequences[i : i + BATCH] for i in range(0, len(sequences), BATCH)]


def measure(threads: int, turns: int, seconds: float, count: int) -> list[dict[str, object]]:
    """Rows of one setting: `count` trajectories of up to `turns` turns."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_model(folder, 80)
        trajectories = make_trajectories(count, turns, 0, 80)
        data = [Sequence(s.token_ids, s.action_mask) for t in trajectories for s in t.segments]
        tokens = sum(len(s.token_ids) for s in data)
        by_length = sorted(data, key=lambda s: len(s.token_ids))
        groups = {
            "padded": [fill_rows(c, 0) for c in chunks(by_length)],
            "packed x1": [fill_rows(c, 1) for c in chunks(data)],
            "packed x4": [fill_rows(c, 4) for c in chunks(data)],
        }
        bare = Bare(folder)
        works: dict[str, tuple[int, Callable[[], object]]] = {
            name: (tokens, partial(bare.epoch, group)) for name, group in groups.items()
        }
        works["sft"] = (tokens, sft(folder, data))
        works["ppo"] = (EPOCHS * tokens, ppo(folder, trajectories))
        works["ppo packed ahead"] = (EPOCHS * tokens, ppo(folder, trajectories, ahead=True))
        measured = rates(works, seconds)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    fastest = max(groups, key=lambda name: medians[name])
    pairs = {"sft": fastest, "ppo": fastest, "ppo packed ahead": "ppo"}
    return [
        {
            "name": f"learner {name}, {threads} threads, up to {turns} turns",
            "ours": round(medians[name]),
            "reference": round(medians[reference]),
            "ratio": round(median_ratio(measured[name], measured[reference]), 3),
            "unit": "tokens/s",
            "seconds": [round(works[n][0] / medians[n], 4) for n in (name, reference)],
            "references": {k: round(medians[k]) for k in groups},
            "rounds": len(measured[name]),
            "parameters": parameters,
            "machine": platform.processor() or platform.machine(),
            "date": date.today().isoformat(),
        }
        for name, reference in pairs.items()
    ]


def median_ratio(ours: list[float], reference: list[float]) -> float:
    """Median over the rounds of the ratio of both figures of a round."""
    return statistics.median(a / b for a, b in zip(ours, reference, strict=True))


def sft(folder: str, data: list[Sequence]) -> Callable[[], object]:
    """An epoch of SFT steps, batches in order of arrival."""
    cfg = RunConfig(sft=SFTConfig(optimizer=OptimizerConfig(lr=1e-4)))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, steps=10**6, value=False)
    return lambda: [sft_step(engine, c, cfg.sft) for c in chunks(data)]


def ppo(folder: str, trajectories: list[Trajectory], ahead: bool = False) -> Callable[[], object]:
    """A whole update: scoring pass, advantages, all epochs, metrics.

    ahead: its microbatches are there before it begins.
    """
    count = len(trajectories)
    settings = PPOConfig(
        updates=10**5,
        episodes=count,
        minibatch=min(BATCH, count),
        epochs=EPOCHS,
        critic_warmup=0,
        optimizer=OptimizerConfig(lr=1e-6),
    )
    cfg = RunConfig(ppo=settings)
    engine = TrainingEngine(folder, cfg, settings.optimizer, ppo_steps(settings), value=True)
    steps = update_minibatches([t.id for t in trajectories], settings, cfg.seed, 0)
    packed = pack_ahead(engine, settings, trajectories, steps) if ahead else None
    return lambda: ppo_update(engine, trajectories, cfg, 0, packed=packed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--trajectories", type=int, default=128, help="of an update")
    args = parser.parse_args(arguments)
    for threads in args.threads:
        for turns in args.turns:
            for row in measure(threads, turns, args.seconds, args.trajectories):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
