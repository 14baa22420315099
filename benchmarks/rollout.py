"""Rollouts against bare vLLM, one JSON row per figure: `python -m benchmarks.rollout`.

A round plays episodes, and gives vLLM alone the same prompts, answer lengths and seeds, as many at
once; who begins alternates. "streaming" ends with the last start: till then all places are taken.
"turn by turn" gives vLLM a prompt when the answer before it has come, as every runner must.
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
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import date
from functools import partial
from typing import TypeVar

from configs.load import build
from configs.schema import RunConfig
from envs.registry import make
from learner.init_model import init_model
from rollout.engine import FORBIDDEN_BIAS, InferenceEngine
from rollout.engine_settings import EngineSettings
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory import Trajectory, from_block
from rollout.worker import RolloutWorker

ENV = "cardinal/GeneralPoints-v0"
T = TypeVar("T")


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


Call = tuple[list[int], int]  # a prompt, and the length of its answer


def calls(played: list[Trajectory]) -> list[list[Call]]:
    """The calls of each episode."""
    return [
        [
            (segment.token_ids[: turn.begin].tolist(), turn.end - turn.begin)
            for segment in trajectory.segments
            for turn in segment.turns
        ]
        for trajectory in played
    ]


async def bare(
    engine: InferenceEngine,
    work: list[list[Call]],
    at_once: int,
    forbidden: tuple[int, ...],
    started: Started,
) -> None:
    """Give the engine's vLLM alone lists of calls, those of each list one after another."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    llm, load = engine._llm, engine._load
    gate = asyncio.Semaphore(at_once)

    async def one(number: int, requests: list[Call]) -> None:
        async with gate:
            started.one()
            for turn, (prompt, length) in enumerate(requests):
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
                load.requests(1)
                async for _ in llm.generate(tokens_input(prompt), parameters, f"b{number}.{turn}"):
                    pass
                load.requests(-1)

    await asyncio.gather(*(one(number, requests) for number, requests in enumerate(work)))


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


class Started:
    """Takes note of when the last of so many began, and of the tokens sampled until then."""

    def __init__(self, worker: RolloutWorker, count: int) -> None:
        self._worker, self._left = worker, count
        self._before, self._begin = worker.total_load(), time.perf_counter()
        self.rate = self.running = 0.0

    def one(self) -> None:
        """One began."""
        self._left -= 1
        if not self._left:
            load = self._worker.total_load().after(self._before)
            self.rate = load.tokens / (time.perf_counter() - self._begin)
            self.running = load.mean_running


class StartingWorker(RolloutWorker):
    """Says when an episode begins."""

    started: Started

    async def _run(self, request: EpisodeRequest) -> None:
        self.started.one()
        await super()._run(request)


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
        worker = StartingWorker(engine, renderer, environments, limits, processes, in_flight, 64)
        await worker.start()
        requests = [EpisodeRequest(f"{i:05d}", "v", i, i) for i in range(episodes)]
        figures = await compare(worker, requests, in_flight, renderer.forbidden, rounds)
        await worker.shutdown()
    ratio = {name: statistics.median(values) for name, values in figures.items()}
    streaming, turns = ratio["streaming bare"], ratio["turn by turn bare"]
    row(f"rollout {style}: streaming", ratio["streaming"] * streaming, streaming, "tokens/s")
    row(f"rollout {style}: turn by turn", ratio["turn by turn"] * turns, turns, "tokens/s")
    both = ratio["streaming turn by turn bare"]
    ours = ratio["streaming turn by turn"] * both
    row(f"rollout {style}: streaming turn by turn", ours, both, "tokens/s")
    row(f"rollout {style}: running", ratio["running"], ratio["running bare"], "sequences")
    row(f"rollout {style}: numbers beside the blocks", ratio["numbers"], ratio["blocks"], "bytes")


async def compare(
    worker: StartingWorker,
    requests: list[EpisodeRequest],
    in_flight: int,
    forbidden: tuple[int, ...],
    rounds: int,
) -> dict[str, list[float]]:
    """Figures of each round; those of ours are shares of the bare ones of the same round."""
    assert worker.engine is not None
    engine, figures = worker.engine, defaultdict(list)
    whole: dict[str, float] = {}
    started: dict[str, Started] = {}
    work: list[list[Call]] = []

    async def timed(name: str, playing: Callable[[Started], Awaitable[T]], count: int) -> T:
        await engine._llm.reset_prefix_cache()
        started[name] = Started(worker, count)
        begin = time.perf_counter()
        result = await playing(started[name])
        whole[name] = time.perf_counter() - begin
        return result

    async def ours(note: Started) -> tuple[list[Trajectory], int, int]:
        worker.started = note
        return await collect(worker, requests)

    for number in range(rounds + 1):  # the first warms up
        order = ("ours", "single", "turns") if number % 2 else ("turns", "single", "ours")
        for name in order if work else ("ours",):
            if name == "ours":
                played, blocks, numbers = await timed(name, ours, len(requests))
                work = work or calls(played)
                continue
            lists = work if name == "turns" else [[call] for one in work for call in one]
            await timed(name, partial(bare, engine, lists, in_flight, forbidden), len(lists))
        if not number:
            continue
        tokens = sum(length for one in work for _, length in one)
        figures["streaming bare"].append(started["single"].rate)
        figures["streaming"].append(started["ours"].rate / started["single"].rate)
        figures["turn by turn bare"].append(tokens / whole["turns"])
        figures["turn by turn"].append(whole["turns"] / whole["ours"])
        figures["streaming turn by turn bare"].append(started["turns"].rate)
        figures["streaming turn by turn"].append(started["ours"].rate / started["turns"].rate)
        figures["running"].append(started["ours"].running)
        figures["running bare"].append(started["single"].running)
        figures["numbers"].append(numbers)
        figures["blocks"].append(blocks)
    return figures


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
