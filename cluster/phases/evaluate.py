"""Evaluation of a variant on fixed seeds: greedy answers, then several samples of some questions.

Success and every verdict are of the greedy answers, which do not depend on how sharp a policy
is; samples give success at the temperature of play, and pass@k. Nothing here trains or publishes.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import NamedTuple

from cluster.environments import TRAINING, Environment, environments
from cluster.failures import TooManyFailures
from cluster.handles import BufferHandle
from cluster.phases.conversation import conversation
from cluster.stream.collect import collect, first_trajectories
from configs.ancestors import ancestors
from configs.load import ConfigError
from configs.schema import RunConfig
from envs.registry import headline, overlap
from report.metrics import Record
from report.statistics import passes_at, summarise
from rollout.episode import EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory_summary import TrajectorySummary, mean_metrics

CONVERSATIONS = 4  # kept a stage and variant
PASS_AT = (1, 4, 16)


class Evaluation(NamedTuple):
    """What an evaluation gives.

    record: success of the greedy answers with its interval, means of all measures, ends,
        seconds; `sampled`, `pass_at` of the samples, and its questions and interval.
    samples: conversations of greedy episodes.
    outcomes: one row per episode, by decoding, seed and sample.
    """

    record: Record
    samples: list[Record]
    outcomes: list[Record]


class Played(NamedTuple):
    """The episodes of one decoding, greedy or sampled: requests, and summaries in their order."""

    decoding: str
    requests: list[EpisodeRequest]
    summaries: list[TrajectorySummary]


def greedy_requests(cfg: RunConfig, stage: str, variant: str) -> list[EpisodeRequest]:
    """The same seeds for every stage and run, so that stages are compared on the same hands."""
    return [_request(cfg, stage, variant, i, 0, 0.0) for i in range(cfg.eval.episodes)]


def sampled_requests(cfg: RunConfig, stage: str, variant: str) -> list[EpisodeRequest]:
    """`eval.samples` of each of the first seeds of the greedy ones."""
    return [
        _request(cfg, stage, variant, i, sample, cfg.eval.temperature)
        for i in range(min(cfg.eval.sampled_questions, cfg.eval.episodes))
        for sample in range(cfg.eval.samples)
    ]


def _request(
    cfg: RunConfig, stage: str, variant: str, index: int, sample: int, temperature: float
) -> EpisodeRequest:
    decoding = "sampled" if temperature else "greedy"
    return EpisodeRequest(
        id=f"{stage}/{variant}/{decoding}/{index:06d}/{sample:03d}",
        variant=f"eval/{variant}",
        seed=cfg.eval.seed + index,
        group_id=cfg.eval.seed + index,
        sample_index=sample,
        temperature=temperature,
        sampling_seed=cfg.seed,
    )


def evaluate(
    cfg: RunConfig, buffer: BufferHandle, renderer: Renderer, stage: str, variant: str
) -> Evaluation:
    """Play one variant; the buffer holds its samples afterwards, or its only episodes."""
    begin = time.monotonic()
    greedy = _play(cfg, buffer, "greedy", greedy_requests(cfg, stage, variant))
    first = first_trajectories(cfg, buffer, CONVERSATIONS)
    samples = [{"stage": stage} | conversation(trajectory, renderer) for trajectory in first]
    sampled = _play(cfg, buffer, "sampled", sampled_requests(cfg, stage, variant))
    seconds = time.monotonic() - begin
    settings = environments(cfg)
    evaluated = settings[f"eval/{variant}"]
    record = {
        "stage": stage,
        "variant": variant,
        "headline": headline(*evaluated),
        "overlap": overlap_of_training(cfg, evaluated),
        **variant_record(greedy, sampled, seconds),
    }
    rows = outcomes(greedy, stage, variant) + outcomes(sampled, stage, variant)
    return Evaluation(record, samples, rows)


def overlap_of_training(cfg: RunConfig, evaluated: Environment) -> str:
    """Which of an evaluation's questions training can have asked: that of this run and before.

    Returns:
        all, some, unknown or none: the first that holds of any run of the chain.
    """
    try:
        chain = [cfg, *ancestors(cfg)]
    except ConfigError:  # written by another version of the schema
        chain, found = [cfg], {"unknown"}
    else:
        found = set[str]()
    for run in chain:
        by_settings = overlap(*environments(run)[TRAINING], *evaluated)
        # Nobody knows what demonstrations of the user's hold.
        own_data = run.sft.steps > 0 and run.sft.data is not None
        found.add("unknown" if own_data and by_settings != "all" else by_settings)
    return next(word for word in ("all", "some", "unknown", "none") if word in found)


def _play(
    cfg: RunConfig, buffer: BufferHandle, decoding: str, requests: list[EpisodeRequest]
) -> Played:
    summaries = collect(cfg, buffer, requests) if requests else []
    assert [s.id for s in summaries] == [r.id for r in requests], "summaries in another order"
    return Played(decoding, requests, summaries)


def variant_record(greedy: Played, sampled: Played, seconds: float) -> Record:
    """The numbers of a variant's record; failed episodes count among its ends alone."""
    played = _not_failed(greedy.summaries)
    if not played:
        cause = greedy.summaries[0].failure
        raise TooManyFailures(f"every evaluated episode failed; the first: {cause}")
    both = [*greedy.summaries, *sampled.summaries]
    versions = {summary.oldest_version for summary in both if summary.action_tokens}
    assert len(versions) <= 1, f"an evaluation of several policies: versions {sorted(versions)}"
    record = {
        **_shares(played),
        "metrics": mean_metrics(played),
        "reward": sum(summary.reward for summary in played) / len(played),
        "ends": dict(Counter(summary.end for summary in both)),
        "tokens_per_second": sum(summary.action_tokens for summary in both) / seconds,
        "seconds": seconds,
        "greedy": _shares(played),
    }
    if sampled.summaries:
        record["sampled"] = _shares(_not_failed(sampled.summaries))
        record |= passes(sampled)
    return record


def _not_failed(summaries: list[TrajectorySummary]) -> list[TrajectorySummary]:
    return [summary for summary in summaries if summary.end != "failed"]


def _shares(played: list[TrajectorySummary]) -> Record:
    """Success with n, distinct questions and interval, and success at the first answer."""
    questions = [summary.question or summary.id for summary in played]
    success = summarise([float(s.metrics["success"] > 0) for s in played], questions)
    first = summarise([s.metrics["first_try"] for s in played], questions)
    return {**success, "first_try": first["success"], "first_try_interval": first["interval"]}


def passes(sampled: Played) -> Record:
    """pass@k by k, of the samples that did not fail, with its interval and number of questions.

    Seeds may ask the same question.
    """
    solved: dict[str, list[bool]] = defaultdict(list)
    for request, summary in zip(sampled.requests, sampled.summaries, strict=True):
        if summary.end != "failed":
            question = summary.question or f"seed {request.seed}"
            solved[question].append(summary.metrics["success"] > 0)
    tallies = [(len(own), sum(own)) for own in solved.values()]
    found = passes_at(tallies, PASS_AT)
    return {
        "pass_at": {str(k): each.share for k, each in found.items()},
        "pass_at_questions": {str(k): each.questions for k, each in found.items()},
        "pass_at_interval": {str(k): list(each.interval) for k, each in found.items()},
    }


def outcomes(played: Played, stage: str, variant: str) -> list[Record]:
    """One row per episode; a seed is the same hand or route in every stage and run."""
    return [
        {
            "stage": stage,
            "variant": variant,
            "decoding": played.decoding,
            "seed": request.seed,
            "sample": request.sample_index,
            "question": summary.question or f"seed {request.seed}",
            "end": summary.end,
            "reward": summary.reward,
            **({"failure": summary.failure} if summary.failure else {}),
            **summary.metrics,
        }
        for request, summary in zip(played.requests, played.summaries, strict=True)
    ]
