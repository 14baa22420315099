"""Evaluation: episodes of a variant on fixed seeds, summed up with an interval.

Input: a buffer whose workers play, and a variant. Output: the variant's record, a few sample
conversations and a row an episode. Nothing here trains or publishes.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

import ray

from cluster.collect import collect, fetch
from cluster.conversation import conversation
from cluster.handles import BufferHandle
from configs.schema import RunConfig
from report.metrics import Record
from report.statistics import wilson
from rollout.episode import EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory_summary import TrajectorySummary

SAMPLES = 4  # conversations kept a stage and variant


class Evaluation(NamedTuple):
    """What an evaluation gives.

    record: success with its interval, means of all measures, ends, seconds.
    samples: conversations.
    outcomes: a row an episode, by seed.
    """

    record: Record
    samples: list[Record]
    outcomes: list[Record]


def evaluation_requests(cfg: RunConfig, stage: str, variant: str) -> list[EpisodeRequest]:
    """The same seeds for every stage and run, so that stages are compared on the same hands."""
    return [
        EpisodeRequest(
            id=f"{stage}/{variant}/{i:06d}",
            variant=f"eval/{variant}",
            seed=cfg.eval.seed + i,
            group_id=cfg.eval.seed + i,
            temperature=cfg.eval.temperature,
            sampling_seed=cfg.seed,
        )
        for i in range(cfg.eval.episodes)
    ]


def evaluate(
    cfg: RunConfig, buffer: BufferHandle, renderer: Renderer, stage: str, variant: str
) -> Evaluation:
    """Play one variant; the buffer holds its trajectories afterwards."""
    begin = time.monotonic()
    requests = evaluation_requests(cfg, stage, variant)
    summaries = collect(cfg, buffer, requests)
    seconds = time.monotonic() - begin
    record = {"stage": stage, "variant": variant, **summarise(summaries, seconds)}
    samples = [
        {"stage": stage} | conversation(trajectory, renderer)
        for trajectory in fetch(ray.get(buffer.first.remote(SAMPLES)))
    ]
    return Evaluation(record, samples, outcomes(requests, summaries, stage, variant))


def summarise(summaries: list[TrajectorySummary], seconds: float) -> Record:
    """The numbers of a variant's record; failed episodes count among its ends alone."""
    played = [summary for summary in summaries if summary.end != "failed"]
    means = measures([summary.metrics for summary in played])
    wins = sum(summary.metrics["success"] > 0 for summary in played)
    return {
        "success": means["success"],
        "n": len(played),
        "interval": list(wilson(wins, len(played))),
        "first_try": means["first_try"],
        "metrics": means,
        "reward": sum(summary.reward for summary in played) / len(played),
        "ends": dict(Counter(summary.end for summary in summaries)),
        "tokens_per_second": sum(summary.action_tokens for summary in played) / seconds,
        "seconds": seconds,
    }


def outcomes(
    requests: list[EpisodeRequest], summaries: list[TrajectorySummary], stage: str, variant: str
) -> list[Record]:
    """A row an episode by seed, which is the same hand or route in every stage and run."""
    seeds = {request.id: request.seed for request in requests}
    rows = [
        {
            "stage": stage,
            "variant": variant,
            "seed": seeds[summary.id],
            "end": summary.end,
            "reward": summary.reward,
            **summary.metrics,
        }
        for summary in summaries
    ]
    return sorted(rows, key=lambda row: row["seed"])


def measures(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over the episodes that have it: not every route has a landmark."""
    return {
        name: sum(values) / len(values)
        for name in sorted({name for one in metrics for name in one})
        if (values := [one[name] for one in metrics if name in one])
    }
