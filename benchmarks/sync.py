"""A publish of a Llama of SmolLM2-135M's shapes over Ray's object store; prints one JSON row.

A round of `python -m benchmarks.sync` is a memory copy of all weights, a publish, and the same with
one call for each parameter. `--engines 4` has four engines on the node; `--engine copy` has a
process in vLLM's place that only copies each bucket, which leaves the channel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.handles import BufferHandle, Environments
from cluster.stream.buffer import TrajectoryBuffer
from cluster.weights.object_store import publish
from configs.load import load
from configs.paths import ROOT
from configs.schema import RunConfig
from learner.tiny_tokenizer import train_tokenizer
from rollout.bucket import NamedTensor, PackedBucket, buckets, pack
from rollout.bucket_file import BucketFile, MappedFiles
from rollout.engine import InferenceEngine
from rollout.engine_load import LoadRecorder
from rollout.engine_settings import EngineSettings

SHAPES = {"135M": (576, 1536, 30, 9, 3, 49152), "tiny": (64, 128, 2, 2, 1, 256)}
MIB = 2**20


class CopyingLLM:
    """Of vLLM's AsyncLLM what an update needs: a bucket is copied to memory of this process."""

    def __init__(self, largest: int) -> None:
        self._memory = np.zeros(largest, np.uint8)
        self._files = MappedFiles()

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: asyncio.sleep(0)

    async def update_weights(self, request: Any) -> None:
        """Copy it."""
        info = request.update_info
        size = info["header"]["bytes"]
        data = self._files.read(info["path"], info["offset"], size, info["lasts"])
        await asyncio.to_thread(np.copyto, self._memory[:size], data)

    async def finish_weight_update(self, version: str) -> None:
        """Let go of it."""
        self._files.close()


@ray.remote(max_concurrency=8, num_cpus=0)
class EngineActor:
    """An engine that only receives weights; answers what a publish asks of a rollout actor."""

    async def start(self, folder: str = "", kind: str = "vllm", largest: int = 0) -> int:
        """Start the engine of a folder; without one it has started."""
        if not folder:
            return os.getpid()
        settings = EngineSettings(folder, context_tokens=64, max_sequences=4, kv_cache_gib=0.05)
        if kind == "copy":
            llm: Any = CopyingLLM(largest)
            self._engine = InferenceEngine(settings, llm, LoadRecorder())
        else:
            self._engine = await InferenceEngine.start(settings)
        self._loading = 0.0
        for step in ("start_weight_update", "update_weights", "finish_weight_update"):
            setattr(self._engine, step, self._timed(getattr(self._engine, step)))
        return os.getpid()

    async def reconfigure(self, cfg: RunConfig, environments: Environments) -> None:
        """It plays nothing."""

    async def heartbeat(self, seconds: float) -> int:
        """As `RolloutActor.heartbeat`."""
        await asyncio.sleep(seconds)
        return os.getpid()

    def _timed(self, step: Any) -> Any:
        async def timed(*arguments: Any) -> None:
            begin = time.monotonic()
            await step(*arguments)
            self._loading += time.monotonic() - begin

        return timed

    async def node(self) -> str:
        """Ray's id of this node."""
        return str(ray.get_runtime_context().get_node_id())

    async def receive(self, version: int, refs: list[ray.ObjectRef[PackedBucket]]) -> float:
        """As `RolloutActor.receive`."""
        self._loading = 0.0
        return await self._engine.receive(version, [await ref for ref in refs])

    async def loading(self) -> float:
        """Seconds in which the engine loaded, of its last pause."""
        return self._loading

    async def call(self, step: str, *arguments: Any) -> None:
        """One step of an update."""
        await getattr(self._engine, step)(*arguments)

    async def load_parameter(self, bucket: PackedBucket) -> None:
        """Load one parameter."""
        with BucketFile([bucket]) as file:
            file.write(0)
            await self._engine.update_weights(file.message(0))

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


def one_by_one(version: int, named: list[NamedTensor], actors: list[Any]) -> None:
    """An update of all engines with one call of each for each parameter."""
    ray.get([actor.call.remote("start_weight_update") for actor in actors])
    for tensor in named:
        bucket = ray.put(pack([tensor]))
        ray.get([actor.load_parameter.remote(bucket) for actor in actors])
    ray.get([actor.call.remote("finish_weight_update", version) for actor in actors])


@contextmanager
def shared_bytes(seen: list[int]) -> Iterator[None]:
    """Add the most bytes that files of weights had at a time."""
    end, most = Event(), 0

    def look() -> None:
        nonlocal most
        while not end.wait(0.002):
            files = Path("/dev/shm").glob("cardinal-w-*")
            try:
                most = max(most, sum(file.stat().st_blocks * 512 for file in files))
            except FileNotFoundError:  # removed meanwhile
                continue

    thread = Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        seen.append(most)


def measure(named: list[NamedTensor], actors: list[Any], args: argparse.Namespace) -> Any:
    """Figures of each round: a copy, a publish, and one call for each parameter."""
    size = sum(tensor.nbytes for _, tensor in named)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    made = TrajectoryBuffer.remote(actors, load("gp_l"))  # type: ignore[attr-defined]
    buffer = BufferHandle(made)
    ray.get(buffer.start.remote())
    figures: dict[str, list[float]] = defaultdict(list)
    shared: list[int] = []
    for version in range(args.rounds + 2):  # the first two warm up
        begin = time.monotonic()
        np.copyto(target, source)
        copied = time.monotonic() - begin
        with shared_bytes(shared):
            halves = buckets(named, args.bucket_mib * MIB // 2)  # as ObjectStoreChannel cuts them
            result = publish(version, halves, buffer, 600.0)()
        loading = ray.get([actor.loading.remote() for actor in actors])
        begin = time.monotonic()
        one_by_one(version, named, actors)
        single = time.monotonic() - begin
        if version > 1:
            paused = [seconds for seconds in result.paused_seconds if seconds is not None]
            pauses = zip(paused, loading, strict=True)
            figures["copy_seconds"].append(copied)
            figures["whole_seconds"].append(result.seconds)
            figures["learner_seconds"].append(result.sent_seconds)
            figures["pause_seconds"].append(max(paused))
            figures["one_by_one_seconds"].append(single)
            figures["whole_in_copies"].append(result.seconds / copied)
            figures["pause_in_loads"].append(max(pause / own for pause, own in pauses))
            figures["one_by_one_in_wholes"].append(single / result.seconds)
    row = {name: statistics.median(values) for name, values in figures.items()}
    least = {f"least_{name}": min(figures[name]) for name in ("copy_seconds", "whole_seconds")}
    return {"bytes": size, "shared_bytes": max(shared), **row, **least}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start the engines and measure."""
    model = make_model(args.model)
    named = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        train_tokenizer(["1 + 1"]).save_pretrained(folder)
        largest = max(sum(t.nbytes for _, t in b) for b in buckets(named, args.bucket_mib * MIB))
        actors: list[Any] = [
            EngineActor.remote()  # type: ignore[attr-defined]
            for _ in range(args.engines)
        ]
        started: list[ray.ObjectRef[int]] = [
            actor.start.remote(folder, args.engine, largest + MIB) for actor in actors
        ]
        ray.get(started)
        row = measure(named, actors, args)
        if args.engine == "vllm":
            ray.get([actor.shutdown.remote() for actor in actors])
    return row


def main(arguments: list[str] | None = None) -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="135M", choices=sorted(SHAPES))
    parser.add_argument("--bucket-mib", type=int, default=256, help="as cluster.sync_bucket_mib")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", type=int, default=1, help="on this node")
    parser.add_argument("--engine", default="vllm", choices=("vllm", "copy"))
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
        row = run(args)
    finally:
        ray.shutdown()
    print(json.dumps({"benchmark": "sync", **vars(args), **row}))


if __name__ == "__main__":
    main()
