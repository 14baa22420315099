"""A study's table while it runs: `study.json` and `results.csv`.

Input: a StudyConfig, its run folders and how each run ended. `report.html` is written by `page`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from configs.study import StudyConfig
from report.metrics import Record
from report.study import compute
from report.study.points import KS
from report.study.results import run_folder
from report.summary import ended

COLUMNS = (
    "arm",
    "source",
    "seed",
    "stage",
    "step",
    "update",
    "variant",
    "overlap",
    "headline",
    "success",
    "n",
    "low",
    "high",
    "first_try",
    "greedy",
    "sampled",
    *(f"pass_at_{k}" for k in KS),
    *compute.columns(compute.Spent(), compute.Spent()),
)


def write_results(study: StudyConfig, statuses: Mapping[str, str]) -> None:
    """study.json (how each run ended) and results.csv (one row per evaluation of finished runs)."""
    sources = {arm: (found.source, found.at) for arm, found in study.arms.items()}
    rows = [
        {"arm": arm, "source": found.source, "seed": seed, **row}
        for arm, found in study.arms.items()
        for seed in study.seeds
        if ended(run_folder(study.folder, arm, seed))["status"] == "finished"
        for row in _rows(study.folder, sources, arm, seed)
    ]
    ends = {"name": study.name, "runs": dict(statuses)}
    (study.folder / "study.json").write_text(json.dumps(ends))
    with (study.folder / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _rows(study: Path, sources: compute.Sources, arm: str, seed: int) -> list[Record]:
    """One row per evaluation of a run, with what was spent until then."""
    earlier = compute.before(study, sources, arm, seed)
    return [
        {k: record[k] for k in COLUMNS if k in record}
        | _decodings(record)
        | compute.columns(spent, earlier)
        for record, spent in compute.along(run_folder(study, arm, seed))
        if record["kind"] == "eval"
    ]


def _decodings(record: Record) -> Record:
    """Success within all tries with n and interval, and what there is of the decodings.

    Of the greedy answers, as `first_try` is, where there are any.
    """
    shown = record.get("greedy") or record
    low, high = shown["interval"]
    found = {"success": shown["success"], "n": shown["n"], "low": low, "high": high}
    found |= {key: (record.get(key) or {}).get("success") for key in ("greedy", "sampled")}
    return found | {f"pass_at_{k}": (record.get("pass_at") or {}).get(str(k)) for k in KS}
