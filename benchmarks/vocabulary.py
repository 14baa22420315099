"""Memory and time of a learner step at a large vocabulary: logits in chunks, and all at once.

Prints one JSON row. Each side steps in a process of its own: its peak is that of one optimizer
step above what the process held before it; the time is that of the fastest of the later steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")


def main(argv: list[str] | None = None) -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=4096, help="action tokens of the step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--side", choices=("chunks", "whole"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side:
        print(json.dumps(measure(args.vocabulary, args.tokens, args.steps, args.side == "whole")))
        return
    sides = {}
    for side in ("whole", "chunks"):
        command = [sys.executable, "-m", "benchmarks.vocabulary", "--side", side]
        command += [f"--{k}={getattr(args, k)}" for k in ("vocabulary", "tokens", "steps")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        sides[side] = json.loads(done.stdout.splitlines()[-1])
    peaks = {side: values["peak_bytes"] for side, values in sides.items()}
    entries = args.tokens * args.vocabulary
    print(
        json.dumps(
            {
                "benchmark": "vocabulary",
                "vocabulary": args.vocabulary,
                "tokens": args.tokens,
                "bytes_an_entry": {k: round(v / entries, 2) for k, v in peaks.items()},
                "peak_ratio": round(peaks["whole"] / peaks["chunks"], 2),
                "seconds": {k: round(v["seconds"], 2) for k, v in sides.items()},
                "speed_ratio": round(sides["whole"]["seconds"] / sides["chunks"]["seconds"], 2),
                "loss": {k: v["loss"] for k, v in sides.items()},
                "grad_norm": {k: v["grad_norm"] for k, v in sides.items()},
            }
        )
    )


def measure(vocabulary: int, tokens: int, steps: int, whole: bool) -> dict[str, float]:
    """Steps of cross-entropy on random tokens; peak_bytes, seconds, and the first step's result."""
    import numpy as np
    import psutil

    from benchmarks.learner_throughput import make_model
    from configs.schema import LearnerConfig, OptimizerConfig, RunConfig, SFTConfig
    from learner import output_layer
    from learner.batch import Sequence
    from learner.engine import TrainingEngine
    from learner.sft import sft_step

    if whole:
        output_layer.CHUNK_ELEMENTS = vocabulary * (tokens + 1)
    rng, length = np.random.default_rng(0), min(tokens, 256)
    mask = np.arange(length + 1) > 0
    batch = [
        Sequence(rng.integers(0, vocabulary, length + 1), mask) for _ in range(tokens // length)
    ]
    optimizer = OptimizerConfig(lr=1e-3)
    learner = LearnerConfig(microbatch_tokens=2 * tokens)
    cfg = RunConfig(sft=SFTConfig(optimizer=optimizer), learner=learner)
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, vocabulary)
        engine = TrainingEngine(Path(folder), cfg, optimizer, steps + 1, value=False)
    warm_up = [Sequence(batch[0].token_ids[:9], mask[:9])]
    sft_step(engine, warm_up, cfg.sft)  # the optimizer's state, and torch's threads
    process = psutil.Process()
    before = process.memory_info().rss
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    seconds, results = [], []
    for _ in range(steps):
        begin = time.monotonic()
        results.append(sft_step(engine, batch, cfg.sft))
        seconds.append(time.monotonic() - begin)
    done.set()
    thread.join()
    first = {key: results[0][key] for key in ("loss", "grad_norm")}
    return {"peak_bytes": peak[0] - before, "seconds": min(seconds), **first}


if __name__ == "__main__":
    main()
