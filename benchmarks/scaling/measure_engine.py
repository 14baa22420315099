"""Measures an engine's parts on this machine: decode steps by running sequences, prompts, loading.

The engine is vLLM under the run's own rollout worker and environment; whole waves of episodes with
answers of equal length, so that the number of running sequences is known.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM

from benchmarks.scaling.parts import non_negative_fit
from benchmarks.simulation.costs import EngineCosts
from configs.schema import RunConfig
from rollout.bucket import PackedBucket, pack
from rollout.engine import InferenceEngine
from rollout.engine_settings import EngineSettings
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory_summary import from_columns
from rollout.worker import RolloutWorker

CONTEXT = 1024  # of the engine: for prompts of PROMPTS tokens
PROMPTS = (16, 512)
WAVES = ((1, 16), (4, 16), (16, 16), (64, 4), (64, 16), (64, 48), (128, 16))  # sequences, answer
LEARNED = (128, 16)  # whose lengths the learner's parts are measured with


@dataclass(frozen=True)
class EngineParts:
    """Costs of the engine; seconds of its pause for weights, and of a byte put into a bucket.

    lengths: tokens of the prompt and the answer of episodes that were played.
    """

    engine: EngineCosts
    load_s: float
    weights_bytes: int
    put_byte_s: float
    lengths: list[tuple[int, int]]


@dataclass
class Wave:
    """Episodes that were played: how many, at once, tokens of each answer; seconds of wall, CPU.

    lengths: tokens of the prompt and the answer of each.
    """

    episodes: int
    at_once: int
    answer: float
    seconds: float
    processor_s: float
    lengths: list[tuple[int, int]] = field(default_factory=list)


def _processor_s() -> float:
    own = psutil.Process()
    times = [p.cpu_times() for p in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in times)


async def _play(
    engine: InferenceEngine, cfg: RunConfig, renderer: Renderer, at_once: int, answer: int
) -> Wave:
    """Two waves of episodes on a worker of their own."""
    limits = EpisodeLimits(answer, CONTEXT, 600.0)
    settings = EngineSettings("")
    environments = {"v": (cfg.env.id, dict(cfg.env.settings))}
    worker = RolloutWorker(
        settings, renderer, environments, limits, ProcessLimits(), at_once, cfg.rollout.block
    )
    worker.engine = engine
    count = max(2 * at_once, 8)
    requests = [EpisodeRequest(f"{i:05d}", "v", i, i) for i in range(count)]
    await worker.submit(requests[:at_once])  # environments begin
    played = 0
    while played < min(at_once, count):
        played += len((await worker.next_block())[1]["end"])
    worker.pop_load()
    before, begin = _processor_s(), time.perf_counter()
    await worker.submit(requests)
    lengths: list[tuple[int, int]] = []
    while len(lengths) < count:
        for numbers in from_columns((await worker.next_block())[1]):
            lengths.append((numbers.tokens - numbers.action_tokens, numbers.action_tokens))
    seconds, spent = time.perf_counter() - begin, _processor_s() - before
    tokens = worker.pop_load().tokens
    await worker._environments.close()
    return Wave(count, at_once, tokens / count, seconds, spent, lengths)


async def _prompt(engine: InferenceEngine, tokens: int, at_once: int, seed: int) -> float:
    """Seconds until so many prompts, which have nothing in common, have got a token each."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(3, 64, (at_once, tokens), generator=draw).tolist()
    begin = time.perf_counter()
    requests = [
        engine.generate(ids, max_tokens=1, temperature=1.0, seed=number)
        for number, ids in enumerate(prompts)
    ]
    await asyncio.gather(*requests)
    return time.perf_counter() - begin


async def _load(engine: InferenceEngine, bucket: PackedBucket, rounds: int) -> float:
    seconds = [await engine.receive(version, [bucket]) for version in range(1, rounds + 3)]
    return min(seconds[2:])  # the first goes through vLLM's own reload


async def measure(folder: Path, cfg: RunConfig, rounds: int = 3) -> EngineParts:
    """In each round all waves; the fastest of each counts."""
    renderer = Renderer.load(str(folder))
    settings = EngineSettings(
        str(folder),
        max_sequences=max(at_once for at_once, _ in WAVES),
        context_tokens=CONTEXT,
        forbidden=renderer.forbidden,
        stop_ids=renderer.stop_ids,
        kv_cache_gib=cfg.rollout.kv_cache_gib,
        threads=cfg.rollout.threads,
    )
    engine = await InferenceEngine.start(settings)
    waves: dict[tuple[int, int], Wave] = {}
    prompts: dict[int, float] = {}
    for number in range(rounds):
        for key in WAVES:
            wave = await _play(engine, cfg, renderer, *key)
            if key not in waves or wave.seconds < waves[key].seconds:
                waves[key] = wave
        for tokens in PROMPTS:
            seconds = await _prompt(engine, tokens, 16, number * len(PROMPTS) + tokens)
            prompts[tokens] = min(seconds, prompts.get(tokens, seconds))
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    named = [(name, weight.detach()) for name, weight in model.named_parameters()]
    begin = time.perf_counter()
    bucket = pack(named)
    copied = np.concatenate([w.numpy().reshape(-1) for _, w in named])  # as into the object store
    put_s = time.perf_counter() - begin
    load_s = await _load(engine, bucket, rounds)
    await engine.shutdown()
    costs = fit(list(waves.values()))
    prompt_s = (prompts[PROMPTS[1]] - prompts[PROMPTS[0]]) / 16 / (PROMPTS[1] - PROMPTS[0])
    costs = replace(costs, prompt_token_s=max(0.0, prompt_s))
    lengths = waves[LEARNED].lengths
    return EngineParts(costs, load_s, copied.nbytes, put_s / copied.nbytes, lengths)


def fit(waves: list[Wave]) -> EngineCosts:
    """Seconds of E episodes, n at once, with answers of A tokens: E·r + E·A/n·(a + b·n)."""
    columns = [
        [w.episodes for w in waves],
        [w.episodes * w.answer / w.at_once for w in waves],
        [w.episodes * w.answer for w in waves],
    ]
    request, step, sequence = non_negative_fit(columns, [w.seconds for w in waves])
    fullest = max(waves, key=lambda w: w.at_once)
    return EngineCosts(
        step_s=step,
        sequence_s=sequence,
        request_s=request,
        threads=max(1.0, fullest.processor_s / fullest.seconds),
    )
