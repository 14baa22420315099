"""Evaluation: episodes on fixed seeds for each variant, summed up with intervals.

Comes in: a buffer whose workers play, and the variants; goes out: one record a variant and a
few sample conversations. Knows nothing of training.
"""

from __future__ import annotations

import base64
import io
import time
from collections import Counter
from typing import Any

import ray

from cluster.wait import answer
from configs.schema import RunConfig
from report.statistics import wilson
from rollout.episode import EpisodeRequest
from rollout.pictures import Picture
from rollout.renderer import Renderer
from rollout.trajectory import Trajectory, from_block
from rollout.trajectory_summary import TrajectorySummary

SAMPLES = 4  # conversations kept a stage and variant
PICTURE_SIDE = 320  # pixels


def requests(cfg: RunConfig, stage: str, variant: str) -> list[EpisodeRequest]:
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
    cfg: RunConfig, buffer: Any, renderer: Renderer, stage: str, variant: str
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Play one variant; returns its record, sample conversations, and a row an episode.

    The buffer holds the variant's trajectories afterwards.
    """
    begin = time.monotonic()
    asked = requests(cfg, stage, variant)
    numbers = collect(cfg, buffer, asked)
    played = [n for n in numbers if n.end != "failed"]
    seconds = time.monotonic() - begin
    means = measures([n.metrics for n in played])
    wins = sum(n.metrics["success"] > 0 for n in played)
    record = {
        "stage": stage,
        "variant": variant,
        "success": means["success"],
        "n": len(played),
        "interval": list(wilson(wins, len(played))),
        "first_try": means["first_try"],
        "metrics": means,
        "reward": sum(n.reward for n in played) / len(played),
        "ends": dict(Counter(n.end for n in numbers)),
        "tokens_per_second": sum(n.action_tokens for n in played) / seconds,
        "seconds": seconds,
    }  # fmt: skip
    samples = ray.get(buffer.sample.remote(SAMPLES))
    shown = [{"stage": stage} | conversation(t, renderer) for t in trajectories(samples)]
    return record, shown, outcomes(asked, numbers, stage, variant)


def outcomes(
    asked: list[EpisodeRequest], numbers: list[TrajectorySummary], stage: str, variant: str
) -> list[dict[str, Any]]:
    """A row an episode by seed, which is the same hand or route in every stage and run."""
    seeds = {request.id: request.seed for request in asked}
    rows = [
        {"stage": stage, "variant": variant, "seed": seeds[n.id], "end": n.end,
         "reward": n.reward, **n.metrics}
        for n in numbers
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["seed"])


def measures(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over the episodes that have it: not every route has a landmark."""
    return {
        name: sum(known) / len(known)
        for name in sorted({name for one in metrics for name in one})
        if (known := [one[name] for one in metrics if name in one])
    }


def collect(
    cfg: RunConfig, buffer: Any, asked: list[EpisodeRequest], version: int = 0,
    max_staleness: int | None = None,
) -> list[TrajectorySummary]:  # fmt: skip
    """Have the buffer collect; the deadline is that of all its blocks, one after another.

    Raises:
        RunFailure: as `TrajectoryBuffer.collect`.
    """
    blocks = -(-len(asked) // cfg.rollout.block) + 1
    ref = buffer.collect.remote(asked, version, max_staleness)
    seconds = cfg.cluster.block_deadline_s * blocks
    return answer(ref, "the buffer", "collect the episodes", seconds, "block_deadline_s")


def trajectories(assignment: list[tuple[Any, list[int]]]) -> list[Trajectory]:
    """Fetch blocks and pick their rows; the arrays are views on shared memory."""
    blocks = ray.get([ref for ref, _ in assignment])
    found = []
    for block, (_, rows) in zip(blocks, assignment, strict=True):
        played = from_block(block)
        found += [played[row] for row in rows]
    return found


def _small(picture: Picture) -> str:
    """A picture as a data URI, shrunk for a page."""
    shown = picture.to_pil()
    shown.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    sink = io.BytesIO()
    shown.save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def conversation(trajectory: Trajectory, renderer: Renderer) -> dict[str, Any]:
    """A trajectory as messages, for people; pictures as data URIs."""
    messages: list[dict[str, Any]] = []
    for segment in trajectory.segments:
        start = 0
        for turn in segment.turns:
            prompt = renderer.decode(segment.token_ids[start : turn.begin].tolist())
            answer = renderer.decode(segment.token_ids[turn.begin : turn.end].tolist())
            messages.append({"role": "user", "content": prompt.strip()})
            if start == 0 and segment.pictures:
                messages[-1]["pictures"] = [_small(picture) for picture in segment.pictures]
            messages.append(
                {"role": "assistant", "content": answer, "reward": turn.reward,
                 "verdict": turn.message}
            )  # fmt: skip
            start = turn.end
    return {
        "variant": trajectory.variant.removeprefix("eval/"),
        "seed": trajectory.seed,
        "end": trajectory.end,
        "success": trajectory.metrics.get("success", 0.0),
        "reward": trajectory.total_reward,
        "messages": messages,
    }
