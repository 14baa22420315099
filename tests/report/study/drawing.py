"""Small studies made of points alone, and figures before they are saved: for tests of figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from report.study.figures import FIGURES, draw
from report.study.points import Point, Tally
from report.study.results import Arm, Study

BY_KEY = {drawing.key: drawing for drawing in FIGURES}


def point(arm: str, phase: str, step: int, share: float, **more: Any) -> Point:
    """Ten questions on variant "in", of which a share is solved; `more` are fields of a Point."""
    wins = round(10 * share)
    tallies = {f"q{i}": Tally(float(i < wins), 1) for i in range(10)}
    fields: dict[str, Any] = {
        "seed": 0,
        "variant": "in",
        "decoding": "greedy",
        "measures": {"success": tallies} | more.pop("measures", {}),
        "samples": {},
        "flops": float(step),
        "flops_formula": None,
        "kl": None,
    }
    return Point(arm=arm, phase=phase, step=step, **fields | more)


def study_of(points: list[Point], *arms: Arm, **more: Any) -> Study:
    """A study in which all seeds of all arms have finished; variant "in" is in distribution."""
    seeds = sorted({p.seed for p in points}) or [0]
    fields: dict[str, Any] = {
        "name": "mine",
        "folder": Path("nowhere"),
        "configs": {arm.name: {} for arm in arms},
        "model": "tiny",
        "parameters": None,
        "from_scratch": True,
        "environment": "mine:Mine-v0",
        "evaluation": "",
        "seeds": seeds,
        "variants": list(dict.fromkeys(p.variant for p in points)),
        "inside": ["in"],
        "primary": (),
        "samples": [],
        "finished": {(arm.name, seed) for arm in arms for seed in seeds},
    }
    return Study(arms=list(arms), points=points, **fields | more)


def panels(count: int) -> list[Axes]:
    """Empty panels in one row."""
    figure = Figure()
    FigureCanvasAgg(figure)
    return list(figure.subplots(1, count, squeeze=False).flatten())


def drawn(
    monkeypatch: pytest.MonkeyPatch, study: Study, key: str
) -> tuple[Figure, list[dict[str, Any]]]:
    """The figure before it is saved, laid out, and its rows."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    rows = draw(study, BY_KEY[key], Path("nowhere.png"))
    kept[0].canvas.draw()
    return kept[0], rows
