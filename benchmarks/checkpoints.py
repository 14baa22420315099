"""What a checkpoint costs the training that goes on meanwhile, on the tiny model of the demo.

`python -m benchmarks.checkpoints` takes SFT steps in pairs of blocks, one with a checkpoint at its
begin and one without, in turn, and prints one JSON row: the seconds that a checkpoint adds to its
block, how long training stands still for the copy, and the share of one every five minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cluster.checkpoints.checkpoint_store import CheckpointStore
from cluster.checkpoints.checkpointer import Checkpointer
from cluster.checkpoints.cursor import Cursor, kept_states
from cluster.driver.train import make_tiny_model
from configs.load import load
from learner import batch
from learner.engine import TrainingEngine
from learner.sft import sft_step
from learner.snapshot import snapshot_bytes


def demonstrations(rng: np.random.Generator, rows: int) -> list[batch.Sequence]:
    """Random demonstrations of about the demo's lengths."""
    lengths = rng.integers(24, 48, rows)
    return [
        batch.Sequence(rng.integers(0, 30, n).astype(np.int32), np.arange(n) >= n // 2)
        for n in lengths
    ]


def measure(config: str, blocks: int, steps: int) -> dict[str, float | str | int]:
    """Paired blocks of steps, without and with a checkpoint."""
    cfg = load(config)
    torch.set_num_threads(cfg.learner.threads)
    rng = np.random.default_rng(0)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    copies = []
    with tempfile.TemporaryDirectory() as folder:
        make_tiny_model(cfg, Path(folder, "model"))
        total = (2 * blocks + 1) * steps
        engine = TrainingEngine(Path(folder, "model"), cfg, cfg.sft.optimizer, total, False)
        checkpointer = Checkpointer(
            cfg,
            0,
            CheckpointStore(f"{folder}/state"),
            move=lambda cursor: cursor.save(Path(folder), keep=2),
            kept=lambda: kept_states(Path(folder)),
            stop_requested=lambda: False,
            report=print,
        )
        size = snapshot_bytes(engine.snapshot())
        for block in range(2 * blocks + 1):
            saves = block % 2 == 1
            begin = time.perf_counter()
            if saves:
                checkpointer.begin(engine, Cursor("sft", step=block))
                copies.append(time.perf_counter() - begin)
            for _ in range(steps):
                sft_step(engine, demonstrations(rng, cfg.sft.batch_size), cfg.sft, None)
                checkpointer.due(1)
            checkpointer.finish()
            if block:  # the first warms up
                seconds[saves].append(time.perf_counter() - begin)
    pairs = zip(seconds[True], seconds[False], strict=True)
    added = statistics.median(a - b for a, b in pairs)
    return {
        "benchmark": "checkpoints",
        "config": config,
        "pairs": blocks,
        "state_mib": round(size / 2**20, 2),
        "copy_s": round(statistics.median(copies), 4),
        "added_s": round(added, 4),
        "block_s": round(statistics.median(seconds[False]), 3),
        "share_at_five_minutes": round(added / 300, 6),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="gp_l")
    parser.add_argument("--blocks", type=int, default=5, help="pairs")
    parser.add_argument("--steps", type=int, default=8, help="of a block")
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.config, options.blocks, options.steps)))


if __name__ == "__main__":
    main()
