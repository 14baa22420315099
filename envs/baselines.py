"""Policies without a model, measured: the floor that a result is compared with.

Input: an environment, whose `baselines` are played on the episodes of given seeds. Output: a Floor
for each of them, and their table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envs.base import Baseline, TextEnv

COLUMNS = {
    "success": "success",
    "first_try": "first_try",
    "per_step_accuracy": "per step",
    "recognition": "recognition",
    "recognition_all": "all recognised",
}
"""Metrics of a table, with their headings."""


@dataclass(frozen=True)
class Floor:
    """What a baseline scored.

    episodes, questions: played, and how many of them ask something different.
    metrics: means over the episodes that have each.
    """

    baseline: Baseline
    episodes: int
    questions: int
    metrics: dict[str, float]


def play(env: TextEnv, baseline: Baseline, seed: int) -> dict[str, float]:
    """The metrics of one episode.

    Raises:
        EnvironmentFailure: the environment broke.
    """
    observation, _ = env.reset(seed=seed)
    while True:
        observation, _, terminated, truncated, info = env.step(baseline.answer(observation))
        if terminated or truncated:
            metrics: dict[str, float] = info["metrics"]
            return metrics


def floor(env: TextEnv, baseline: Baseline, seeds: Sequence[int]) -> Floor:
    """Play the episodes of the seeds, which must not be empty."""
    values: dict[str, list[float]] = defaultdict(list)
    questions: set[str] = set()
    for seed in seeds:
        for name, value in play(env, baseline, seed).items():
            values[name].append(value)
        questions.add(env.question or f"seed {seed}")
    means = {name: sum(column) / len(column) for name, column in values.items()}
    return Floor(baseline, len(seeds), len(questions), means)


def floors(
    env: TextEnv, episodes: int, seed: int, trained: Sequence[Mapping[str, object]] = ()
) -> list[Floor]:
    """Each baseline on the episodes of seed, seed + 1, ...; trained: as `TextEnv.baselines`."""
    seeds = range(seed, seed + episodes)
    return [floor(env, baseline, seeds) for baseline in env.baselines(seed, trained)]


def table(rows: list[Floor], headline: str) -> str:
    """The floors in per cent, the headline's column first; what each baseline does below."""
    shown = [name for name in COLUMNS if any(name in row.metrics for row in rows)]
    shown.sort(key=lambda name: name != headline)
    lines = [["baseline", *(COLUMNS[name] for name in shown), "n", "distinct"]]
    for row in rows:
        cells = [f"{100 * row.metrics[n]:.1f} %" if n in row.metrics else "-" for n in shown]
        lines.append([row.baseline.name, *cells, str(row.episodes), str(row.questions)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    notes = [f"{row.baseline.name}: {row.baseline.description}" for row in rows]
    return "\n".join([*text, "", *notes])


def show(env: TextEnv, settings: Mapping[str, object], episodes: int, seed: int) -> None:
    """Print the floors of an environment made with these settings.

    Raises:
        ValueError: it has no baselines.
    """
    rows = floors(env, episodes, seed)
    if not rows:
        raise ValueError(f"{type(env).__name__} has no baselines: TextEnv.baselines gives none")
    print(table(rows, env.headline(settings)))
