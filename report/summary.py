"""What a run came to: the contents of `summary.json`.

Input: a run folder, complete or not; output: one dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import safe_open

from configs.load import ConfigError
from configs.text import one_line
from report.evaluation import questions_name, with_intervals
from report.floors import read_floors
from report.metrics import Record, is_incident, outcomes, read, read_object

STAGES = ("start", "sft", "ppo")
COUNTED = ("sft", "ppo")  # phases that may hold others
PARITY = ("parity_mean_abs", "parity_kl")


@dataclass
class Span:
    """A phase's time from begin to end, s since the run began; depth 1 inside another."""

    name: str
    begin: float
    end: float
    depth: int


def summarise_run(folder: str | Path) -> Record:
    """Sum up a run folder.

    Returns:
        name, seed, status (finished, interrupted, failed), cause, model {path, parameters};
        elapsed_s, from the first record to the last, without the start of Ray and of engines and
        without the time between an interruption and its resume; stages {stage: {variant:
        {success, n, interval, first_try, metrics, …}}};
        sft {demonstrations, dropped, epoch}: how many there are, how many more were longer than
        sft.max_tokens, and how often each was trained on, or None;
        questions: what an episode asks (hands, routes); floors {variant: [{baseline, …}]};
        parity {mean_abs, kl, syncs}: the largest of the run, and the number of publishes;
        seconds by phase, without the phases inside it; tokens_per_second by part; incidents.
    """
    folder = Path(folder)
    records = read_evaluated(folder)
    config = load_config(folder)
    end = ended(folder)
    return {
        "name": config.get("name", folder.name),
        "seed": config.get("seed"),
        "status": end["status"],
        "cause": end["cause"],
        "model": _model(folder, config),
        "elapsed_s": max((r["elapsed_s"] for r in records), default=0.0),
        "stages": stages(records),
        "sft": _demonstrations(records),
        "questions": questions_name(config),
        "floors": read_floors(folder),
        "parity": _parity(records),
        "seconds": seconds(spans(records)),
        "tokens_per_second": _tokens_per_second(records),
        "incidents": [r for r in records if is_incident(r)],
    }


def read_evaluated(folder: Path) -> list[Record]:
    """A run's records; evaluations that lead with the first answer get its interval."""
    return with_intervals(read(folder), lambda: outcomes(folder))


def load_config(folder: Path) -> Record:
    """The run's resolved configuration as plain values; empty when it is not there.

    Raises:
        ConfigError: the file holds something else.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_bytes()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {one_line(error, None)}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: must hold keys and values")
    return config


def stages(records: list[Record]) -> dict[str, dict[str, Record]]:
    """The newest evaluation of each stage and variant; stages in the order of a run."""
    found: dict[str, dict[str, Record]] = {}
    skipped = {"kind", "time", "elapsed_s", "stage", "variant"}
    for stage in STAGES:
        for record in records:
            if record["kind"] == "eval" and record["stage"] == stage:
                kept = {k: v for k, v in record.items() if k not in skipped}
                found.setdefault(stage, {})[record["variant"]] = kept
    return found


def spans(records: list[Record]) -> list[Span]:
    """The phases in order of their begins.

    One without an end, as a kill leaves it, ends with the last record before the next begin
    that it cannot contain.
    """
    found: list[Span] = []
    opened: list[Span] = []
    previous = 0.0

    def close(since: int, at: float) -> None:
        for span in opened[since:]:
            span.end = at
        del opened[since:]

    for record in records:
        at = record["elapsed_s"]
        if record["kind"] == "phase":
            names = [span.name for span in opened]
            if record["phase"] in names:
                begun_again = record["event"] == "begin"
                close(names.index(record["phase"]), previous if begun_again else at)
            if record["event"] == "begin":
                if opened and opened[-1].name not in COUNTED:
                    close(len(opened) - 1, previous)
                span = Span(record["phase"], at, at, len(opened))
                opened.append(span)
                found.append(span)
        previous = at
    close(0, previous)
    return found


def seconds(phases: list[Span]) -> dict[str, float]:
    """Seconds by phase name; a phase inside another counts for itself alone."""
    total: dict[str, float] = {}
    outer = ""
    for span in phases:
        length = span.end - span.begin
        total[span.name] = total.get(span.name, 0.0) + length
        if span.depth == 0:
            outer = span.name
        else:
            total[outer] -= length
    return total


def ended(folder: Path) -> dict[str, str]:
    """How the driver says that the run ended; a killed driver says nothing."""
    end = read_object(folder / "status.json")
    return {"status": end.get("status", "interrupted"), "cause": end.get("cause", "")}


def _model(folder: Path, config: Record) -> Record:
    own = folder / "model"
    path = str(own) if own.is_dir() else (config.get("model") or {}).get("path")
    return {"path": path, "parameters": parameters(Path(path)) if path else None}


def parameters(model: Path) -> int | None:
    """Parameters in a folder's safetensors files, tied ones once; None without such files."""
    files = [f for f in model.glob("*.safetensors") if f.name != "value_head.safetensors"]
    total = 0
    for file in files:
        with safe_open(str(file), framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                size = 1
                for dimension in tensors.get_slice(name).get_shape():
                    size *= dimension
                total += size
    return total if files else None


def _demonstrations(records: list[Record]) -> Record | None:
    last = next((r for r in reversed(records) if r["kind"] == "sft" and "epoch" in r), None)
    return last and {key: last.get(key, 0) for key in ("demonstrations", "dropped", "epoch")}


def _parity(records: list[Record]) -> Record:
    """Engine against learner: the largest differences of log-probabilities in the run."""
    measured = list(records)
    for record in records:
        measured += (record.get("check") or {}).values() if record["kind"] == "sync" else []
    mean_abs, kl = (
        max((abs(r[key]) for r in measured if r.get(key) is not None), default=None)
        for key in PARITY
    )
    syncs = sum(r["kind"] == "sync" and not r.get("check") for r in records)
    return {"mean_abs": mean_abs, "kl": kl, "syncs": syncs}


def _tokens_per_second(records: list[Record]) -> dict[str, float]:
    """Means over the run: tokens of all records by their seconds."""
    sft = [r for r in records if r["kind"] == "sft" and r.get("tokens_per_second")]
    ppo = [r for r in records if r["kind"] == "ppo"]
    trained = [(r["tokens_trained"], r["tokens_per_second"]) for r in sft]
    found = {}
    if trained:
        found["sft"] = sum(n for n, _ in trained) / sum(n / rate for n, rate in trained)
    for part, time in (("learner", "learn_seconds"), ("rollout", "busy_seconds")):
        known = [r for r in ppo if r.get(f"{part}_tokens_per_second") and r.get(time)]
        if known:
            tokens = sum(r[f"{part}_tokens_per_second"] * r[time] for r in known)
            found[part] = tokens / sum(r[time] for r in known)
    return found
