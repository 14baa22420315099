"""Runs against each other: success by stage and variant, differing keys, speed.

Input: run folders. Output: a Comparison. The others are compared with the first, on the questions
that both answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.evaluation import FIRST_TRY, SUCCESS, Headline, headline
from report.metrics import Record
from report.statistics import paired_interval
from report.study.points import Played, read_played
from report.summary import STAGES, load_config, summarise_run

NOT_COMPARED = ("name", "cluster.root", "cluster.address")  # where a run is, not what it is
ABSENT, END = "–", "end"


@dataclass(frozen=True)
class Run:
    """One run: its name in tables, its summary, its configuration by dotted key.

    played: what the last evaluation of each stage and variant played.
    """

    name: str
    summary: Record
    config: dict[str, object]
    played: dict[tuple[str, str], Played]


@dataclass(frozen=True)
class Difference:
    """A run minus the first one, on the questions that both answered.

    share: mean difference, from -1 to 1. interval: 95 %, paired by question.
    """

    share: float
    interval: tuple[float, float]
    questions: int


@dataclass(frozen=True)
class Row:
    """One stage and variant: the headline of each run, and its difference from the first run's.

    stage: one of STAGES, or END for the last one of each run.
    None: the run has no such evaluation; of a difference also: no question is common to both, or
    outcomes.jsonl is not there.
    """

    stage: str
    variant: str
    headlines: list[Headline | None]
    differences: list[Difference | None]


@dataclass(frozen=True)
class Comparison:
    """All that is compared.

    keys: those whose values differ, with the value of each run.
    speed: (what, value of each run): tokens per second by part, then seconds by phase.
    """

    runs: list[Run]
    rows: list[Row]
    keys: dict[str, list[object]]
    speed: list[tuple[str, list[float | None]]]


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Read and compare runs, the others with the first."""
    places = [Path(folder) for folder in folders]
    short = [place.resolve().name for place in places]
    names = short if len(set(short)) == len(short) else [str(place) for place in places]
    runs = [_read(place, name) for place, name in zip(places, names, strict=True)]
    return Comparison(runs, list(_rows(runs)), _differing(runs), _speed(runs))


def _read(folder: Path, name: str) -> Run:
    config = load_config(folder)
    temperature = (config.get("eval") or {}).get("temperature", 1.0)
    played = {
        (stage, variant): found
        for (stage, _, variant), found in read_played(folder, temperature).items()
    }
    return Run(name, summarise_run(folder), dict(_flat(config)), played)


def _flat(values: Record, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of nested values; an empty section counts as a value."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _rows(runs: list[Run]) -> Iterator[Row]:
    """Stage by stage; first the ends of the runs, where they end in different stages."""
    ends = [next(reversed(run.summary["stages"]), "") for run in runs]
    if len(set(ends)) > 1:
        yield from _rows_of(END, runs, ends)
    for stage in STAGES:
        yield from _rows_of(stage, runs, [stage] * len(runs))


def _rows_of(name: str, runs: list[Run], stages: list[str]) -> Iterator[Row]:
    """The rows of one stage of each run."""
    found = [run.summary["stages"].get(at, {}) for run, at in zip(runs, stages, strict=True)]
    for variant in dict.fromkeys(each for variants in found for each in variants):
        shown = [headline(v[variant]) if variant in v else None for v in found]
        measures = {one.measure for one in shown if one}
        # With one try both measures are the same number.
        measure = FIRST_TRY if FIRST_TRY in measures else SUCCESS
        first, *others = (
            run.played.get((at, variant)) for run, at in zip(runs, stages, strict=True)
        )
        differences = [_difference(other, first, measure) for other in others]
        yield Row(name, variant, shown, differences)


def _difference(played: Played | None, first: Played | None, measure: str) -> Difference | None:
    if played is None or first is None or played.decoding != first.decoding:
        return None
    one, other = (p.measures.get(measure, {}) for p in (played, first))
    shared = sorted({*one} & {*other})
    if not shared:
        return None
    # A question weighs as many rows as the first run has of it, on both sides.
    counts = [other[question].rows for question in shared]
    gains = [other[q].rows * (one[q].mean - other[q].mean) for q in shared]
    interval = paired_interval(gains, counts)
    return Difference(sum(gains) / sum(counts), interval, len(shared))


def _differing(runs: list[Run]) -> dict[str, list[object]]:
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in NOT_COMPARED)
    values = {key: [run.config.get(key, ABSENT) for run in runs] for key in keys}
    return {key: given for key, given in values.items() if any(v != given[0] for v in given)}


def _speed(runs: list[Run]) -> list[tuple[str, list[float | None]]]:
    rows: list[tuple[str, list[float | None]]] = []
    for field, unit in (("tokens_per_second", "tokens/s"), ("seconds", "s")):
        found = [run.summary[field] for run in runs]
        for part in dict.fromkeys(part for values in found for part in values):
            rows.append((f"{part}, {unit}", [values.get(part) for values in found]))
    return [*rows, ("all, s", [run.summary["elapsed_s"] for run in runs])]
