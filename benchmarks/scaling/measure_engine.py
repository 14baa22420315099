"""Measures an engine's parts on this machine: decode steps by running sequences, prompts, loading.

The engine is vLLM under the run's own rollout worker and environment; whole waves of episodes with
answers of at most so many tokens, so that the number of running sequences is known. Seconds are the
processors', by how many the least disturbed wave kept busy: others may use the machine meanwhile.
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
WAVES = ((1, 16), (8, 16), (32, 16), (64, 4), (64, 16), (64, 48), (128, 16))  # sequences, answer
FULL = 32  # sequences with which an engine is busy all the time
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


async def _play(worker: RolloutWorker, at_once: int, answer: int) -> Wave:
    """Waves of so many episodes at once."""
    worker._in_flight, worker._limits = at_once, EpisodeLimits(answer, CONTEXT, 600.0)
    count = max(2 * at_once, 8)
    loaded, before, begin = worker.total_load(), _processor_s(), time.perf_counter()
    await worker.submit(EpisodeRequest(f"{i:05d}", "v", i, i) for i in range(count))
    lengths: list[tuple[int, int]] = []
    while len(lengths) < count:
        for numbers in from_columns((await worker.next_block())[1]):
            lengths.append((numbers.tokens - numbers.action_tokens, numbers.action_tokens))
    seconds, spent = time.perf_counter() - begin, _processor_s() - before
    sampled = worker.total_load().after(loaded).tokens
    return Wave(count, at_once, sampled / count, seconds, spent, lengths)


async def _prompt(engine: InferenceEngine, tokens: int, at_once: int, seed: int) -> float:
    """Processor's seconds until so many prompts, without a common part, have got a token each."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(3, 64, (at_once, tokens), generator=draw).tolist()
    before = _processor_s()
    requests = [
        engine.generate(ids, max_tokens=1, temperature=1.0, seed=number)
        for number, ids in enumerate(prompts)
    ]
    await asyncio.gather(*requests)
    return _processor_s() - before


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
    environments = {"v": (cfg.env.id, dict(cfg.env.settings))}
    limits, processes, rollout = EpisodeLimits(1, CONTEXT, 600.0), ProcessLimits(), cfg.rollout
    sizes = rollout.in_flight, rollout.block
    worker = RolloutWorker(settings, renderer, environments, limits, processes, *sizes)
    await worker.start()
    assert worker.engine is not None
    engine = worker.engine
    await _play(worker, *WAVES[0])  # environments begin
    waves: dict[tuple[int, int], Wave] = {}
    prompts: dict[int, float] = {}
    threads = 1.0
    for number in range(rounds):
        for key in WAVES:
            wave = await _play(worker, *key)
            if key[0] >= FULL:
                threads = max(threads, wave.processor_s / wave.seconds)
            if key not in waves or wave.processor_s < waves[key].processor_s:
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
    await worker.shutdown()
    prompt_s = (prompts[PROMPTS[1]] - prompts[PROMPTS[0]]) / 16 / (PROMPTS[1] - PROMPTS[0])
    costs = replace(fit(list(waves.values()), threads), prompt_token_s=max(0.0, prompt_s / threads))
    lengths = waves[LEARNED].lengths[::4]  # in order of their ends
    return EngineParts(costs, load_s, copied.nbytes, put_s / copied.nbytes, lengths)


def fit(waves: list[Wave], threads: float) -> EngineCosts:
    """Seconds of E episodes, n at once, with answers of A tokens: E·r + E·A/n·(a + b·n)."""
    columns = [
        [w.episodes for w in waves],
        [w.episodes * w.answer / w.at_once for w in waves],
        [w.episodes * w.answer for w in waves],
    ]
    request, step, sequence = non_negative_fit(columns, [w.processor_s / threads for w in waves])
    return EngineCosts(step_s=step, sequence_s=sequence, request_s=request, threads=threads)
