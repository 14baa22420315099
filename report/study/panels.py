"""What the figures of a study share: panels, colours, and curves over training.

A panel is one variant: shares on variants of different difficulty are never averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from report.evaluation import FIRST_TRY
from report.metrics import Record
from report.plots import COLORS, INK, MARKERS, plain
from report.statistics import over_seeds
from report.study.points import ORDER, Point
from report.study.results import Arm, Study

KIND_COLORS = {
    "start": COLORS["start"],
    "sft": COLORS["sft"],
    "rl": COLORS["ppo"],
    "rl_without_sft": "#CC79A7",
    "rl_overfit": "#009E73",
}
DASHES = ((None, None), (4, 2), (1.5, 1.5), (6, 2, 1.5, 2))
TRAINED = ("sft", "rl", "rl_without_sft", "rl_overfit")
Value = Callable[[Point], float | None]


class Step(NamedTuple):
    """An arm at one step of training: x and y as means over seeds, and the range of seeds' y."""

    x: float
    mean: float
    low: float
    high: float
    seeds: int
    phase: str
    step: int


def arm_style(study: Study, arm: Arm) -> Record:
    """Colour by kind; line and marker by the arm's place among its kind."""
    place = study.of_kind(arm.kind).index(arm)
    return {
        "color": KIND_COLORS.get(arm.kind, INK),
        "dashes": DASHES[place % len(DASHES)],
        "marker": MARKERS[(study.arms.index(arm)) % len(MARKERS)],
    }


def distribution(study: Study, variant: str) -> str:
    """'in distribution' or 'out of distribution'."""
    return "in distribution" if variant in study.inside else "out of distribution"


def name_panel(study: Study, one: Axes, variant: str, counted: str = "at the first answer") -> None:
    """Title a panel with its variant and distribution; with several tries, with what counts."""
    solved = f", {counted}" if study.headline(variant) == FIRST_TRY else ""
    one.set_title(f"{plain(variant)}\n({distribution(study, variant)}{solved})", fontsize=9.5)


def along(study: Study, arm: Arm, variant: str, x: Value, y: Value) -> list[Step]:
    """An arm's steps in order of training; a point without x or y is left out.

    The ends of all seeds are one step, also where `match` gave each its own number of steps.
    """
    ends = [p for seed in study.seeds if (p := study.last(arm.name, seed, variant))]
    end = round(sum(p.step for p in ends) / len(ends)) if ends else 0
    last = {(p.seed, p.phase, p.step) for p in ends}
    steps: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    for p in study.points:
        if (p.arm, p.variant) == (arm.name, variant):
            at, value = x(p), y(p)
            if at is not None and value is not None:
                step = end if (p.seed, p.phase, p.step) in last else p.step
                steps.setdefault((ORDER.get(p.phase, 3), step, p.phase), []).append((at, value))
    found = []
    for (_, step, phase), pairs in sorted(steps.items()):
        spread = over_seeds([value for _, value in pairs])
        at = float(np.mean([at for at, _ in pairs]))
        found.append(Step(at, spread.mean, spread.low, spread.high, spread.n, phase, step))
    return found


def curves(
    study: Study,
    axes: Sequence[Axes],
    variants: Sequence[str],
    arms: Sequence[Arm],
    x: Value,
    name: str,
    y: Value,
    end: bool = False,
) -> list[Record]:
    """A panel a variant: each arm's mean over seeds, and a band from the lowest to the highest.

    Args:
        study: what is drawn.
        axes: one per variant.
        variants: whose panels they are.
        arms: a line each, where it has two steps or more.
        x: of a point.
        name: of x in the rows.
        y: of a point, a share or a difference of two.
        end: whether the last step gets a large mark.
    """
    rows: list[Record] = []
    for one, variant in zip(axes, variants, strict=True):
        name_panel(study, one, variant)
        for arm in arms:
            line = along(study, arm, variant, x, y)
            if len(line) < 2:
                continue
            _line(one, line, arm_style(study, arm), plain(arm.name), end)
            side = {"arm": arm.name, "variant": variant}
            side |= {"distribution": distribution(study, variant).split()[0]}
            rows += [side | _row(step, name) for step in line]
    return rows


def _line(one: Axes, line: Sequence[Step], style: Record, label: str, end: bool) -> None:
    at = np.array([step.x for step in line])
    low, mean, high = (
        100 * np.array(values)
        for values in zip(*((step.low, step.mean, step.high) for step in line), strict=True)
    )
    one.fill_between(at, low, high, color=style["color"], alpha=0.14, lw=0)
    one.plot(at, mean, label=label, lw=1.8, ms=5, mec="white", mew=0.7, clip_on=False, **style)
    if end:
        mark = {"color": style["color"], "marker": style["marker"], "clip_on": False}
        one.plot(at[-1:], mean[-1:], ms=10, mec="white", zorder=4, **mark)


def _row(step: Step, name: str) -> Record:
    return {
        "phase": step.phase,
        "step": step.step,
        name: step.x,
        "mean": step.mean,
        "lowest_seed": step.low,
        "highest_seed": step.high,
        "seeds": step.seeds,
    }


def share_axes(axes: Sequence[Axes], label: str, below: str = "episodes solved, %") -> None:
    """Shares from 0 on; each panel has its own scale, for little is solved out of distribution."""
    for one in axes:
        one.set_ylim(0, min(max(5.0, one.get_ylim()[1]), 103))
        one.set_xlabel(label)
    name_left(axes, below)


def name_left(axes: Sequence[Axes], label: str) -> None:
    """Name the y axis of each row of panels."""
    for one in axes:
        place = one.get_subplotspec()
        if place is not None and place.is_first_col():
            one.set_ylabel(label)
