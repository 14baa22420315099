"""A run's numbers as Ray's Prometheus metrics: those of `EXPORTED` and the depths of its queues.

Ray exports each from the node of the process that sets it, under its name with `ray_` before it.
`docs/grafana.json` is a dashboard of them, drawn by `tools/draw_grafana.py`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from ray.util.metrics import Gauge

from report.metrics import plain


class Metric(NamedTuple):
    """A gauge.

    name: without Ray's prefix.
    meaning: one phrase.
    tag: by which it has several values; every gauge has the tag `run` too.
    """

    name: str
    meaning: str
    tag: str = ""


QUEUES = Metric(
    "cardinal_episodes",
    "episodes by where the ledger has them; trained and dropped since the run began or was resumed",
    "state",
)
# By kind and field of a record (report/metrics.py). The values of a list are tagged by their
# index, those of a dictionary by their key, a number by the record's field of the tag's name.
EXPORTED = {
    ("sft", "step"): Metric("cardinal_sft_step", "optimizer steps of SFT so far"),
    ("sft", "loss"): Metric("cardinal_sft_loss", "loss of SFT"),
    ("sft", "tokens_per_second"): Metric("cardinal_sft_tokens_per_second", "trained on by SFT"),
    ("ppo", "update"): Metric("cardinal_ppo_update", "PPO updates so far"),
    ("ppo", "seconds"): Metric("cardinal_update_seconds", "of the last update"),
    ("ppo", "phase_seconds"): Metric(
        "cardinal_phase_seconds", "of rank 0 since the update before, by span", "phase"
    ),
    ("ppo", "learner_idle"): Metric(
        "cardinal_learner_idle_ratio", "share of the last update for which the learner waited"
    ),
    ("ppo", "engine_idle"): Metric(
        "cardinal_engine_idle_ratio", "share of the time in which an engine was not busy", "engine"
    ),
    ("ppo", "rollout_tokens_per_second"): Metric(
        "cardinal_rollout_tokens_per_second", "sampled by all engines while they were busy"
    ),
    ("ppo", "learner_tokens_per_second"): Metric(
        "cardinal_learner_tokens_per_second", "of the last update's trajectories, while learning"
    ),
    ("ppo", "staleness"): Metric(
        "cardinal_trajectories", "of the last update, by staleness", "staleness"
    ),
    ("ppo", "failed"): Metric("cardinal_failed_episodes", "failed in the last update"),
    ("ppo", "reward"): Metric("cardinal_reward", "mean of the last update's episodes"),
    ("ppo", "success"): Metric("cardinal_success", "share of the last update's episodes"),
    ("ppo", "kl"): Metric("cardinal_kl", "of proximal to current policy"),
    ("ppo", "entropy"): Metric("cardinal_entropy", "of the policy, nats a token"),
    ("ppo", "correction_overlap"): Metric(
        "cardinal_correction_overlap",
        "effective sample size by proximal / behaviour, share of the last update's tokens",
    ),
    ("ppo", "parity_mean_abs"): Metric(
        "cardinal_parity", "mean difference of log-probabilities, engine and learner"
    ),
    ("sync", "seconds"): Metric("cardinal_sync_seconds", "of the last publish"),
    ("sync", "paused_seconds"): Metric(
        "cardinal_paused_seconds", "of each engine in the last publish", "engine"
    ),
    ("eval", "success"): Metric("cardinal_eval_success", "of the last evaluation", "variant"),
}
METRICS = {metric.name: metric for metric in (*EXPORTED.values(), QUEUES)}


class RunMetrics:
    """Exports the numbers of a run from this process."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}
        self._tags: dict[str, set[str]] = defaultdict(set)

    def record(self, kind: str, fields: Mapping[str, object]) -> None:
        """Export what a record has."""
        for (of_kind, field), metric in EXPORTED.items():
            if of_kind != kind or field not in fields:
                continue
            value = plain(fields[field])
            if isinstance(value, dict):
                self.set_all(metric, value)
            elif isinstance(value, list):
                self.set_all(metric, {str(i): each for i, each in enumerate(value)})
            else:
                self._set(metric, str(fields.get(metric.tag)), value)

    def set_all(self, metric: Metric, values: Mapping[str, float | None]) -> None:
        """Export a number for each tag; 0 for a tag that had one before and has none now."""
        for tag in self._tags[metric.name] | values.keys():
            self._set(metric, tag, values.get(tag, 0.0))

    def _set(self, metric: Metric, tag: str, value: float | None) -> None:
        """Export a number; where there is none, NaN in the place of an earlier one: a gap."""
        if value is None and tag not in self._tags[metric.name]:
            return
        self._tags[metric.name].add(tag)
        gauge = self._gauges.get(metric.name)
        if gauge is None:
            keys = ("run", metric.tag) if metric.tag else ("run",)
            gauge = self._gauges[metric.name] = Gauge(metric.name, metric.meaning, keys)
        tags = {"run": self._run} | ({metric.tag: tag} if metric.tag else {})
        words = {key: _utf8(word) for key, word in tags.items()}
        gauge.set(math.nan if value is None else float(value), words)


def _utf8(word: str) -> str:
    """The name of a run or variant; bytes in it that are no UTF-8 as Python writes them."""
    return word.encode("utf-8", "backslashreplace").decode()
