"""Rollouts: how full the engine is, how much the episode runner costs, how little leaves it.

Bare: the same prompts, answer lengths, seeds and token mask given to vLLM's AsyncLLM directly,
as many at once.
Run `python -m benchmarks.rollout`; prints one JSON row per figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import platform
import statistics
import tempfile
import time
from datetime import date
from typing import Any

from configs.load import build
from configs.schema import RunConfig
from envs.registry import make
from learner.init_model import init_model
from rollout.engine import FORBIDDEN_BIAS
from rollout.engine_settings import EngineSettings
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory import Trajectory, from_block
from rollout.worker import RolloutWorker

ENV = "cardinal/GeneralPoints-v0"


async def collect(worker: RolloutWorker, requests: list[EpisodeRequest]) -> tuple[list, int, int]:
    """Play; returns trajectories, bytes of their blocks and of their summaries."""
    await worker.submit(requests)
    played: list[Trajectory] = []
    blocks = numbers = 0
    while len(played) < len(requests):
        block, rows = await worker.next_block()
        blocks += block.nbytes
        numbers += len(pickle.dumps(rows))
        played += from_block(block)
    return played, blocks, numbers


def calls(played: list[Trajectory]) -> list[tuple[list[int], int]]:
    """(prompt, answer length) of every answer of the episodes."""
    return [
        (segment.token_ids[: turn.begin].tolist(), turn.end - turn.begin)
        for trajectory in played
        for segment in trajectory.segments
        for turn in segment.turns
    ]


async def bare(
    llm: Any, work: list[tuple[list[int], int]], at_once: int, forbidden: tuple[int, ...]
) -> float:
    """Seconds that vLLM alone needs for the same prompts and lengths."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    gate = asyncio.Semaphore(at_once)

    async def one(number: int, prompt: list[int], length: int) -> None:
        parameters = SamplingParams(
            max_tokens=length,
            ignore_eos=True,
            temperature=1.0,
            logprobs=0,
            seed=number,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            logit_bias=dict.fromkeys(forbidden, FORBIDDEN_BIAS),
        )
        async with gate:
            async for _ in llm.generate(tokens_input(prompt), parameters, f"b{number}"):
                pass

    begin = time.perf_counter()
    await asyncio.gather(*(one(i, p, n) for i, (p, n) in enumerate(work)))
    return time.perf_counter() - begin


def row(name: str, ours: float, reference: float, unit: str) -> None:
    record = {
        "name": name,
        "ours": round(ours, 4),
        "reference": round(reference, 4),
        "ratio": round(ours / reference, 4),
        "unit": unit,
        "machine": f"{platform.machine()}, {platform.processor() or 'cpu'}",
        "date": date.today().isoformat(),
    }
    print(json.dumps(record), flush=True)


async def measure(style: str, episodes: int, in_flight: int, rounds: int) -> None:
    context, answer = (64, 16) if style == "brief" else (1024, 64)
    settings = {"prompt_style": style, "verify_iter": 2 if style == "brief" else 5}
    cfg = build(RunConfig, {"rollout": {"context_tokens": context}}, "")
    with tempfile.TemporaryDirectory() as folder:
        init_model(folder, cfg, make(ENV, settings).corpus())
        renderer = Renderer.load(folder)
        engine = EngineSettings(
            folder,
            max_sequences=in_flight,
            context_tokens=context,
            forbidden=renderer.forbidden,
            stop_ids=renderer.stop_ids,
        )
        limits = EpisodeLimits(answer, context, 600.0)
        environments, processes = {"v": (ENV, settings)}, ProcessLimits()
        worker = RolloutWorker(engine, renderer, environments, limits, processes, in_flight, 64)
        await worker.start()
        assert worker.engine is not None
        rates, references, running = [], [], []
        for number in range(rounds + 1):  # the first warms up
            asked = [
                EpisodeRequest(f"{number}/{i:05d}", "v", i, i, sampling_seed=number)
                for i in range(episodes)
            ]
            await worker.engine._llm.reset_prefix_cache()
            worker.pop_load()
            begin = time.perf_counter()
            played, blocks, numbers = await collect(worker, asked)
            ours = time.perf_counter() - begin
            running.append(worker.pop_load()[0])
            work = calls(played)
            await worker.engine._llm.reset_prefix_cache()
            theirs = await bare(worker.engine._llm, work, in_flight, renderer.forbidden)
            tokens = sum(length for _, length in work)
            rates.append(tokens / ours)
            references.append(tokens / theirs)
        await worker.shutdown()
    best = statistics.median(a / b for a, b in zip(rates[1:], references[1:], strict=True))
    reference = statistics.median(references[1:])
    row(f"rollout {style}: sampled tokens", best * reference, reference, "tokens/s")
    row(
        f"rollout {style}: running in the engine",
        statistics.median(running[1:]),
        in_flight,
        "sequences",
    )
    row(f"rollout {style}: numbers beside the blocks", numbers, blocks, "bytes")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--styles", nargs="+", default=["brief", "full"], help="of the prompts")
    options = parser.parse_args(arguments)
    for style in options.styles:  # full prompts are longer: half as many
        episodes = options.episodes // (1 if style == "brief" else 2)
        asyncio.run(measure(style, episodes, options.in_flight, options.rounds))


if __name__ == "__main__":
    main()
