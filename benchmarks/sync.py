"""A publish of weights over Ray's object store to a real engine, against one memory copy of them.

`python -m benchmarks.sync` sends a Llama of SmolLM2-135M's shapes (float32, 538 MB) to a vLLM
engine on this machine and prints one JSON row: seconds of the whole, of the learner's part and of
the engine's pause, as multiples of one copy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.buffer import TrajectoryBuffer
from cluster.handles import BufferHandle, Environments
from cluster.weights.object_store import publish
from configs.load import load
from configs.paths import ROOT
from configs.schema import RunConfig
from learner.tiny_tokenizer import train_tokenizer
from rollout.bucket import PackedBucket, buckets
from rollout.engine import EngineSettings, InferenceEngine

SHAPES = {"135M": (576, 1536, 30, 9, 3, 49152), "tiny": (64, 128, 2, 2, 1, 256)}
MIB = 2**20


@ray.remote(max_concurrency=8, num_cpus=0)
class EngineActor:
    """An engine that only receives weights; answers what a publish asks of a rollout actor."""

    async def start(self, folder: str = "") -> int:
        """Start the engine of a folder; without one it has started."""
        if not folder:
            return os.getpid()
        settings = EngineSettings(folder, context_tokens=64, max_sequences=4, kv_cache_gib=0.05)
        self._engine = await InferenceEngine.start(settings)
        return os.getpid()

    async def reconfigure(self, cfg: RunConfig, environments: Environments) -> None:
        """It plays nothing."""

    async def heartbeat(self, seconds: float) -> int:
        """As `RolloutActor.heartbeat`."""
        await asyncio.sleep(seconds)
        return os.getpid()

    async def node(self) -> str:
        """Ray's id of this node."""
        return str(ray.get_runtime_context().get_node_id())

    async def receive(self, version: int, refs: list[ray.ObjectRef[PackedBucket]]) -> float:
        """As `RolloutActor.receive`."""
        return await self._engine.receive(version, [await ref for ref in refs])

    async def shutdown(self) -> None:
        """End the engine."""
        await self._engine.shutdown()


def make_model(name: str) -> LlamaForCausalLM:
    """A random Llama, its head tied to its input."""
    hidden, mlp, layers, heads, kv, vocabulary = SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config)


def measure(model: LlamaForCausalLM, bucket_bytes: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds, each with a copy and a publish, one after the other."""
    named = [(n, p.detach()) for n, p in model.named_parameters()]
    size = sum(tensor.nbytes for _, tensor in named)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    copies, wholes, sents, pauses = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        train_tokenizer(["1 + 1"]).save_pretrained(folder)
        actor = EngineActor.remote()  # type: ignore[attr-defined]
        ray.get(actor.start.remote(folder))
        made = TrajectoryBuffer.remote([actor], load("gp_l"))  # type: ignore[attr-defined]
        buffer = BufferHandle(made)
        ray.get(buffer.start.remote())
        for version in range(rounds + 1):
            begin = time.monotonic()
            np.copyto(target, source)
            copied = time.monotonic() - begin
            result = publish(version, buckets(named, bucket_bytes), buffer, 120.0)()
            if version:  # the first one warms up
                copies.append(copied)
                wholes.append(result.seconds)
                sents.append(result.sent_seconds)
                pauses.append(result.paused_seconds[0])
        ray.get(actor.shutdown.remote())
    copy = statistics.median(copies)
    parts = {"whole": wholes, "learner": sents, "pause": pauses}
    seconds = {name: statistics.median(values) for name, values in parts.items()}
    return {
        "bytes": size,
        "copy_seconds": copy,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        **{f"{name}_copies": value / copy for name, value in seconds.items()},
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="135M", choices=sorted(SHAPES))
    parser.add_argument("--bucket-mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    env = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=2**31,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=env,
    )
    try:
        row = measure(make_model(args.model), args.bucket_mib * MIB, args.rounds)
    finally:
        ray.shutdown()
    print(json.dumps({"benchmark": "sync", "model": args.model, **row}))


if __name__ == "__main__":
    main()
