"""The figures of a study, in the shapes of the paper's; each a function of axes and a Study.

Output: a PNG and the rows behind it. A figure whose arms the study lacks gives no rows, and
FIGURES says what it would need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.plots import COLORS, FAINT, INK, MARKERS, STYLE
from report.statistics import over_seeds, wilson
from report.study.published import SOURCE, VERIFY
from report.study.results import Arm, Point, Study

KIND_COLORS = {
    "start": COLORS["start"],
    "sft": COLORS["sft"],
    "rl": COLORS["ppo"],
    "rl_without_sft": "#CC79A7",
    "rl_overfit": "#009E73",
}
DASHES = ((None, None), (4, 2), (1.5, 1.5), (6, 2, 1.5, 2))
Row = dict[str, Any]
Value = Callable[[Point], float | None]
Panels = tuple[tuple[str, list[str]], ...]


@dataclass(frozen=True)
class Drawing:
    """One figure: its file's name, title, what it needs, panels, and how it is drawn.

    panels_by_variant: a panel for what is in distribution and one for each variant out of it; or one panel.
    """

    key: str
    title: str
    note: str
    needs: str
    panels_by_variant: bool
    draw: Callable[[Study, Sequence[Axes]], list[Row]]


def draw(study: Study, drawing: Drawing, file: Path) -> list[Row]:
    """Draw one figure into a PNG; returns its rows, none (and no file) where data is lacking."""
    with matplotlib.rc_context(STYLE | {"font.size": 10, "legend.fontsize": 9}):
        panels = len(panels_of(study)) if drawing.panels_by_variant else 1
        across = 3 if panels > 4 else min(panels, 2)
        down = -(-panels // across)
        figure = Figure(figsize=(10, 4.3 * down), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, squeeze=False).flatten()
        axes = list(grid[:panels])
        for unused in grid[panels:]:
            unused.remove()
        rows = drawing.draw(study, axes)
        if rows:
            handles = _handles(axes)
            if handles:
                columns = len(handles) if len(handles) <= 6 else 4
                figure.legend(handles=handles, loc="outside lower center", ncols=columns)
            figure.savefig(file)
    return rows


def _handles(axes: Sequence[Axes]) -> list[Any]:
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values())


def arm_style(study: Study, arm: Arm) -> dict[str, Any]:
    """Colour by kind; line and marker by the arm's place among its kind."""
    place = study.of_kind(arm.kind).index(arm)
    return {
        "color": KIND_COLORS.get(arm.kind, INK),
        "dashes": DASHES[place % len(DASHES)],
        "marker": MARKERS[(study.arms.index(arm)) % len(MARKERS)],
    }


def panels_of(study: Study) -> Panels:
    """The panels: all variants in distribution, and each that asks another question."""
    apart = ((f"out of distribution: {variant}", [variant]) for variant in study.outside)
    return ((f"in distribution: {', '.join(study.inside)}", study.inside), *apart)


def _along(
    study: Study, arm: Arm, variants: list[str], x: Value, y: Value
) -> list[tuple[float, float, float, float, int, str, int]]:
    """(x, mean, lowest and highest seed, seeds, phase, step) of an arm, in order of training.

    Each seed's y is its mean over variants; a step counts once every variant was played.
    """
    steps: dict[tuple[str, int], dict[int, list[tuple[float, float]]]] = {}
    for p in study.points:
        if p.arm == arm.name and p.variant in variants:
            at, value = x(p), y(p)
            if at is not None and value is not None:
                by_seed = steps.setdefault((p.phase, p.step), {})
                by_seed.setdefault(p.seed, []).append((at, value))
    found = []
    for (phase, step), by_seed in steps.items():
        whole = [v for v in by_seed.values() if len(v) == len(variants)]
        if whole:
            at = float(np.mean([pair[0] for v in whole for pair in v]))
            spread = over_seeds([float(np.mean([pair[1] for pair in v])) for v in whole])
            found.append((at, spread.mean, spread.low, spread.high, spread.n, phase, step))
    return found


def _curves(
    study: Study,
    axes: Sequence[Axes],
    arms: list[Arm],
    x: Value,
    name: str,
    y: Value,
    unit: float = 100.0,
) -> list[Row]:
    """Mean over seeds with the range of seeds, a panel a side."""
    rows: list[Row] = []
    for one, (side, variants) in zip(axes, panels_of(study), strict=True):
        one.set_title(side, fontsize=9.5)
        for arm in arms:
            line = _along(study, arm, variants, x, y) if variants else []
            if len(line) < 2:
                continue
            at, mean, low, high = (np.array([p[i] for p in line]) for i in range(4))
            style = arm_style(study, arm)
            one.fill_between(at, unit * low, unit * high, color=style["color"], alpha=0.14, lw=0)
            one.plot(at, unit * mean, label=arm.name, lw=1.8, ms=5, mec="white", mew=0.7, **style)
            rows += [
                {
                    "arm": arm.name,
                    "distribution": side.split()[0],
                    "variants": ", ".join(variants),
                    "phase": p[5],
                    "step": p[6],
                    name: p[0],
                    "mean": p[1],
                    "lowest_seed": p[2],
                    "highest_seed": p[3],
                    "seeds": p[4],
                }
                for p in line
            ]
    return rows


def _success(p: Point) -> float:
    return p.success


def _shares(axes: Sequence[Axes], label: str) -> None:
    """Success from 0 on; each panel has its own scale, for little is solved out of distribution."""
    for one in axes:
        one.set_ylim(0, min(max(5.0, one.get_ylim()[1]), 103))
        one.set_xlabel(label)
    _left(axes, "episodes solved, %")


def _left(axes: Sequence[Axes], label: str) -> None:
    """Name the y axis of each row of panels."""
    for one in axes:
        place = one.get_subplotspec()
        if place is not None and place.is_first_col():
            one.set_ylabel(label)


def compute(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """Success against compute."""
    arms = study.of_kind("sft", "rl", "rl_without_sft", "rl_overfit")
    rows = _curves(study, axes, arms, lambda p: p.flops, "flops", _success)
    for row in rows:
        there = (row["arm"], row["phase"], row["step"])
        formulas = [p.flops_formula for p in study.points if (p.arm, p.phase, p.step) == there]
        known = [value for value in formulas if value is not None]
        row["flops_formula"] = float(np.mean(known)) if known else None
    _shares(axes, "compute since the initial model, FLOPs")
    return rows


def bars(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """Start, SFT and RL on each variant; all seeds' Wilson interval, each seed a dot."""
    one, rows = axes[0], []
    shown: list[tuple[str, str, Arm | None]] = [("start", KIND_COLORS["start"], None)]
    shown += [
        (arm.name, KIND_COLORS[arm.kind], arm)
        for arm in study.of_kind("sft", "rl", "rl_without_sft", "rl_overfit")
    ]
    variants, thick = [*study.inside, *study.outside], 0.84 / len(shown)
    for j, (name, color, arm) in enumerate(shown):
        again = sum(c == color for _, c, _ in shown[:j])
        for i, variant in enumerate(variants):
            found = [
                p
                for seed in study.seeds
                if (p := study.last(arm.name, seed, variant) if arm else study.start(seed, variant))
            ]
            if not found:
                continue
            n = sum(len(p.outcomes) for p in found)
            wins = sum(sum(p.outcomes.values()) for p in found)
            low, high = wilson(wins, n)
            at, share = i + (j - (len(shown) - 1) / 2) * thick, wins / n
            one.bar(
                at,
                100 * share,
                thick * 0.9,
                color=_pale(color, 0.35 * min(again, 2)),
                label=name if i == 0 else None,
            )
            error = [[100 * max(0.0, share - low)], [100 * max(0.0, high - share)]]
            one.errorbar(at, 100 * share, yerr=error, color=INK, lw=1, capsize=2)
            dots = [at + 0.22 * thick * (k - (len(found) - 1) / 2) for k in range(len(found))]
            one.scatter(
                dots, [100 * p.success for p in found], s=9, color="white", ec=INK, lw=0.6, zorder=4
            )
            rows.append(
                {
                    "arm": name,
                    "variant": variant,
                    "n": n,
                    "success": share,
                    "low": low,
                    "high": high,
                    "seeds": len(found),
                }
            )
    border = len(study.inside) - 0.5
    if 0 < len(study.inside) < len(variants):
        one.axvline(border, color=FAINT, lw=0.8, dashes=(3, 3))
    labels = [f"{v}\n{'in' if v in study.inside else 'out of'} distribution" for v in variants]
    one.set_xticks(range(len(variants)), labels)
    one.tick_params(axis="x", length=0)
    one.set_ylabel("episodes solved, %")
    one.set_ylim(bottom=0)
    return rows


def _pale(color: str, by: float) -> tuple[float, float, float]:
    """A colour mixed with white, for the second arm of a kind."""
    red, green, blue = (part + (1 - part) * by for part in to_rgb(color))
    return red, green, blue


def recognition(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """Recognition against success along training; the large mark is the end."""
    arms = [a for a in study.arms if a.kind not in ("pretrain", "start", "not begun")]
    rows = _curves(study, axes, arms, lambda p: _percent(p.recognition), "recognition", _success)
    _shares(axes, "cards or landmarks read right, %")
    for one in axes:
        for line in one.get_lines():
            at, y = (np.asarray(values, float) for values in line.get_data())
            one.plot(
                at[-1:],
                y[-1:],
                marker=line.get_marker(),
                ms=10,
                color=line.get_color(),
                mec="white",
                zorder=4,
            )
    return rows


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def verification(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """Growth out of distribution during RL, by graded answers an episode."""
    rows: list[Row] = []
    one = axes[0]
    arms = [arm for arm in study.of_kind("rl") if arm.verify_iter]
    if len({arm.verify_iter for arm in arms}) < 2:
        return []
    known = sorted({*VERIFY, *(arm.verify_iter or 0 for arm in arms)})
    one.plot(
        [known.index(k) for k in VERIFY],
        list(VERIFY.values()),
        color=FAINT,
        marker="D",
        ms=5,
        lw=1,
        dashes=(3, 2),
        label=f"published, GP-L ({SOURCE})",
    )
    for arm in sorted(arms, key=lambda arm: arm.verify_iter or 0):
        gains = []
        for seed in study.seeds:
            lines = [study.at(arm.name, seed, v) for v in study.outside]
            if lines and all(len(line) > 1 for line in lines):
                gains.append(float(np.mean([x[-1].success - x[0].success for x in lines])))
        if not gains:
            continue
        found, at = over_seeds(gains), known.index(arm.verify_iter or 0)
        low, high = found.interval or (found.mean, found.mean)
        error = [[100 * (found.mean - low)], [100 * (high - found.mean)]]
        first = not rows
        one.errorbar(
            at,
            100 * found.mean,
            yerr=error,
            color=COLORS["ppo"],
            marker="o",
            ms=7,
            lw=1.3,
            label="this study: mean, 95 % over seeds" if first else None,
        )
        one.scatter(
            [at + 0.08] * len(gains),
            [100 * g for g in gains],
            s=14,
            color="white",
            ec=COLORS["ppo"],
            zorder=4,
            label="each seed" if first else None,
        )
        rows.append(
            {
                "arm": arm.name,
                "verify_iter": arm.verify_iter,
                "growth": found.mean,
                "low": low,
                "high": high,
                "seeds": found.n,
            }
        )
    one.axhline(0, color=FAINT, lw=0.8)
    one.set_xticks(range(len(known)), [str(k) for k in known])
    one.set_xlim(-0.5, len(known) - 0.5)
    one.set_xlabel("verification iterations in training")
    one.set_ylabel("growth out of distribution, points")
    return rows


def with_and_without(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """RL with SFT, without it and from an overfitted SFT, by update."""
    arms = study.of_kind("rl", "rl_without_sft", "rl_overfit")
    if len({arm.kind for arm in arms}) < 2:
        return []

    def update(p: Point) -> float | None:
        return None if p.phase == "sft" else float(p.step)

    rows = _curves(study, axes, arms, update, "update", _success)
    _shares(axes, "PPO update")
    for one in axes:
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
    return rows


def sweep(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """SFT's checkpoints; a ring is the highest mean."""
    arms = study.of_kind("sft")

    def steps(p: Point) -> float | None:
        return None if p.phase == "ppo" else float(p.step) + _before(study, study.arm(p.arm))

    rows = _curves(study, axes, arms, steps, "sft_step", _success)
    if len({(r["arm"], r["step"]) for r in rows}) < 3:
        return []
    _shares(axes, "SFT steps since the initial model")
    for one in axes:
        points = [
            (y, at, line.get_color())
            for line in one.get_lines()
            for at, y in zip(*(np.asarray(v, float) for v in line.get_data()), strict=True)
        ]
        if points:
            y, at, color = max(points, key=lambda point: point[0])
            one.plot(at, y, marker="o", ms=13, mfc="none", color=color)
    return rows


def _before(study: Study, arm: Arm) -> float:
    """SFT steps of the arms that an arm begins with."""
    if arm.source is None or study.arm(arm.source).kind != "sft":
        return 0.0
    source = study.arm(arm.source)
    done = max((p.step for p in study.points if p.arm == source.name), default=0)
    return (arm.at or done) + _before(study, source)


def forgetting(study: Study, axes: Sequence[Axes]) -> list[Row]:
    """Success against the start, by KL to the start."""

    def change(p: Point) -> float | None:
        start = study.start(p.seed, p.variant)
        return p.success - start.success if start else None

    arms = study.of_kind("sft", "rl", "rl_without_sft", "rl_overfit")
    rows = _curves(study, axes, arms, lambda p: p.kl, "kl_start", change)
    for one in axes:
        one.axhline(0, color=FAINT, lw=0.8, zorder=1)
        one.set_xlabel("KL to the initial model, nats a token")
    _left(axes, "success minus the start's, points")
    return rows


BAND = (
    "Lines are means over training seeds and a panel's variants, bands the lowest and highest "
    "seed; the panels' scales differ."
)
FIGURES = (
    Drawing(
        "compute",
        "Success against compute",
        f"{BAND} The paper's main figure.",
        "arms with SFT or PPO, evaluated along the way",
        True,
        compute,
    ),
    Drawing(
        "bars",
        "Start, SFT and RL",
        "Bars: all seeds' episodes together, with Wilson's 95 % "
        "interval, which holds for these runs; dots: one training seed each.",
        "any finished arm",
        False,
        bars,
    ),
    Drawing(
        "rl_and_sft",
        "RL with and without SFT",
        BAND,
        "an arm of RL after SFT and one without it",
        True,
        with_and_without,
    ),
    Drawing(
        "sft_sweep",
        "SFT checkpoint by checkpoint",
        f"{BAND} A ring marks the highest mean.",
        "an SFT arm with sft.eval_every",
        True,
        sweep,
    ),
    Drawing(
        "recognition",
        "Recognition against success",
        f"{BAND} The large mark is the end.",
        "arms that read pictures (-VL) or another task with recognition",
        True,
        recognition,
    ),
    Drawing(
        "verify_iterations",
        "Verification iterations",
        "Growth of success out of "
        "distribution from an arm's first evaluation to its last. The paper's points are its "
        "own model's, at equal compute.",
        "arms of RL with different env.settings.verify_iter",
        False,
        verification,
    ),
    Drawing(
        "forgetting",
        "KL to the start against forgetting",
        BAND,
        "evaluations that record kl_start",
        True,
        forgetting,
    ),
)
