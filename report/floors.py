"""Policies without a model, as a run measured them: the floor that success is compared with.

Input: a folder's floors.json, by variant one row per baseline. Output: rows, the best one, a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from report.evaluation import FIRST_TRY, SUCCESS
from report.html import table
from report.metrics import Record, read_object

FLOORS = "floors.json"
COLUMNS = {
    SUCCESS: "success, %",
    FIRST_TRY: "first try, %",
    "recognition": "recognition, %",
    "per_step_accuracy": "per step, %",
}
Floors = Mapping[str, Sequence[Record]]  # variant to rows of baseline, description, n, …


def read_floors(folder: Path) -> dict[str, list[Record]]:
    """A run's floors; empty where it has none, as older runs and environments without baselines."""
    return read_object(folder / FLOORS)


def best(rows: Sequence[Record], measure: str) -> Record | None:
    """The baseline that scores most by a measure; None where none has it."""
    known = [row for row in rows if row["metrics"].get(measure) is not None]
    return max(known, key=lambda row: float(row["metrics"][measure]), default=None)


def floor_table(floors: Mapping[str, Floors]) -> str:
    """Success and other measures of each baseline on each variant; what each does, once.

    floors: by arm. Those of arms that agree stand once; a run is a single arm of any name.
    """
    groups: dict[str, tuple[list[str], str, Sequence[Record]]] = {}
    for arm, by_variant in floors.items():
        for variant, rows in by_variant.items():
            same = json.dumps([variant, rows], sort_keys=True)
            groups.setdefault(same, ([], variant, rows))[0].append(arm)
    if not groups:
        return ""
    every = [row for _, _, rows in groups.values() for row in rows]
    shown = [name for name in COLUMNS if any(name in row["metrics"] for row in every)]
    variants = [variant for _, variant, _ in groups.values()]
    lines = []
    for arms, variant, rows in sorted(groups.values(), key=lambda g: variants.index(g[1])):
        several = f" ({', '.join(arms)})" if variants.count(variant) > 1 else ""
        for row in rows:
            cells = [_percent(row["metrics"].get(name)) for name in shown]
            counts = [f"{row['n']:,}", f"{row['questions']:,}"]
            lines.append([escape(variant + several), escape(row["baseline"]), *cells, *counts])
    head = ["variant", "baseline", *(COLUMNS[name] for name in shown), "n", "distinct"]
    said = dict.fromkeys((row["baseline"], row["description"]) for row in every)
    notes = "".join(f"<br><b>{escape(name)}</b>: {escape(what)}" for name, what in said)
    intro = (
        "Policies without a model on the first of the evaluation's episodes: what a model does not "
        "exceed, it need not have learned."
    )
    return f'{table(head, lines)}\n<p class="faint">{intro}{notes}</p>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
