"""The picture of a run, `report.png`: curves over time, phases, success by variant.

Input: records and their summary; output: one PNG. Colours are Okabe and Ito's, which
colour-blind readers tell apart; markers and line styles repeat the distinction.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from report.evaluation import FIRST_TRY, SUCCESS, WITHIN, Headline, episodes_of, headline
from report.floors import Floors, best
from report.metrics import Record
from report.statistics import wilson
from report.summary import Span, spans

COLORS = {"start": "#8A8A8A", "sft": "#0072B2", "ppo": "#D55E00"}
RECOGNITION = "#009E73"
PHASES = {"sft": "#BFDDF0", "ppo": "#F6D3BC", "eval": "#DDDDDD", "other": "#F0F0F0"}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
INK, FAINT, FLOOR = "#222222", "#777777", "#9A9A9A"
FLOOR_LINE: dict[str, Any] = {"lw": 1.2, "dashes": (2, 1.5)}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "errorbar.capsize": 2.5,
}


def draw(records: list[Record], summary: Record, file: Path) -> None:
    """Draw the run's picture into a PNG file."""
    variants = list(dict.fromkeys(v for stage in summary["stages"].values() for v in stage))
    height = max(6.2, 1.6 + 0.85 * len(variants))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, height), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
        grid = figure.add_gridspec(3, 2, width_ratios=(1.75, 1), height_ratios=(3, 2.2, 0.42))
        success = figure.add_subplot(grid[0, 0])
        learning = figure.add_subplot(grid[1, 0], sharex=success)
        strip = figure.add_subplot(grid[2, 0], sharex=success)
        unit, name = _time_unit(summary["elapsed_s"])
        phases = spans(records)
        _success(success, records, variants, unit)
        _learning(learning, records, unit)
        _strip(strip, phases, unit, summary["elapsed_s"] / unit)
        for axes in (success, learning):
            _shade(axes, phases, unit)
            axes.tick_params(labelbottom=False)
        strip.set_xlabel(f"time since the run began, {name}   (grey: evaluations)")
        success.set_xlim(0, max(summary["elapsed_s"] / unit, 1e-3) * 1.005)
        bars = figure.add_subplot(grid[:, 1])
        _bars(bars, summary["stages"], variants, summary["questions"])
        _floors(bars, summary["floors"], summary["stages"], variants)
        _legend(bars, summary["stages"])
        figure.savefig(file)


def stage_name(stage: str, variants: dict[str, Record]) -> str:
    """'after PPO', or 'PPO, update 20' where the newest evaluation was in the middle of it."""
    update = max((r.get("update") or 0 for r in variants.values()), default=0)
    if update:
        return f"PPO, update {update}"
    return {"start": "start", "sft": "after SFT", "ppo": "after PPO"}[stage]


def _time_unit(elapsed: float) -> tuple[float, str]:
    """Seconds a unit of the time axis, and its name."""
    if elapsed < 120:
        return 1.0, "s"
    return (60.0, "min") if elapsed < 3 * 3600 else (3600.0, "h")


def _shade(axes: Axes, phases: list[Span], unit: float) -> None:
    for span in phases:
        if span.name in ("sft", "ppo"):
            axes.axvspan(
                span.begin / unit, span.end / unit, color=PHASES[span.name], alpha=0.28, lw=0
            )


def plain(name: str) -> str:
    """A name as text of a picture: between two dollar signs matplotlib reads formulas."""
    return name.replace("$", r"\$")


def _success(axes: Axes, records: list[Record], variants: list[str], unit: float) -> None:
    """Success over time: evaluations of each variant, and the training episodes of PPO."""
    evaluated = [headline(r) for r in records if r["kind"] == "eval"]
    of = " of greedy answers\n" if any(one.greedy for one in evaluated) else " "
    axes.set_title(f"Success{of}(whiskers: 95 % intervals, band: the same of training)")
    axes.set_ylabel("episodes solved, %")
    handles = [
        _evaluated(axes, records, variant, MARKERS[i % len(MARKERS)], i, unit)
        for i, variant in enumerate(variants)
    ]
    handles += _trained(axes, records, variants, unit)
    read = _recognition(axes, records, variants, unit)
    handles += read
    top = 100.0 if read else max(axes.get_ylim()[1], 5.0)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= min(top, 100)])
    # The legend has room of its own above all that is drawn.
    axes.set_ylim(0, top * (1.05 + 0.11 * math.ceil(len(handles) / 2)))
    if handles:
        axes.legend(handles=handles, loc="upper left", ncols=2)


def _evaluated(
    axes: Axes, records: list[Record], variant: str, marker: str, place: int, unit: float
) -> Line2D:
    """The evaluations of one variant with their intervals; returns the legend's handle."""
    style: Record = {"color": "#555555", "lw": 0.9, "mec": "white"}
    style["dashes"] = (None, None) if place == 0 else (2 + 2 * place, 2)
    points = [r for r in records if r["kind"] == "eval" and r["variant"] == variant]
    at = [r["elapsed_s"] / unit for r in points]
    shown = [headline(r) for r in points]
    share = [math.nan if one.share is None else 100 * one.share for one in shown]
    axes.plot(at, share, zorder=3, **style)
    mark: Record = {"marker": marker, "ms": 6, "mec": "white", "mew": 0.8, "lw": 1.2}
    for x, y, r, one in zip(at, share, points, shown, strict=True):
        color = COLORS[r["stage"]]
        axes.errorbar(x, y, _error(one), color=color, zorder=4, clip_on=False, **mark)
    first = ", first answer" if any(one.several for one in shown) else ""
    return Line2D(
        [], [], marker=marker, ms=5.5, label=f"evaluation: {plain(variant)}{first}", **style
    )


def _trained(axes: Axes, records: list[Record], variants: list[str], unit: float) -> list[Line2D]:
    """PPO's own episodes, update by update, with Wilson's interval as a band.

    By the measure of the first variant, which is usually the environment that is trained in.
    """
    first = [r for r in records if r["kind"] == "eval" and r["variant"] in variants[:1]]
    several = any(headline(r).several for r in first)
    measure = FIRST_TRY if several else SUCCESS
    updates = [r for r in records if r["kind"] == "ppo" and r.get(measure) is not None]
    if not updates:
        return []
    x = [r["elapsed_s"] / unit for r in updates]
    counts = ["episodes_played" if "episodes_played" in r else "episodes" for r in updates]
    bounds = [wilson(r[measure] * r[n], r[n]) for r, n in zip(updates, counts, strict=True)]
    low, high = (100 * np.array(side) for side in zip(*bounds, strict=True))
    axes.fill_between(x, low, high, color=COLORS["ppo"], alpha=0.2, lw=0)
    axes.plot(x, [100 * r[measure] for r in updates], color=COLORS["ppo"], lw=1.4)
    label = f"training episodes, {'first answer' if several else 'each update'}"
    return [Line2D([], [], color=COLORS["ppo"], lw=1.6, label=label)]


def _recognition(
    axes: Axes, records: list[Record], variants: list[str], unit: float
) -> list[Line2D]:
    """Success and what was read right (cards, landmarks), where the environment measures it."""
    style: Record = {"color": RECOGNITION, "lw": 1.2, "ls": ":"}
    evaluated: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    for r in records:
        read = (r.get("metrics") or {}).get("recognition") if r["kind"] == "eval" else None
        if read is not None:
            evaluated[r["variant"]].append((r["elapsed_s"] / unit, 100 * read))
    for i, variant in enumerate(variants):
        if evaluated[variant]:
            at, share = zip(*evaluated[variant], strict=True)
            marker = {"marker": MARKERS[i % len(MARKERS)], "ms": 4, "mec": "white", "mew": 0.5}
            axes.plot(at, share, **style | {"ls": ""} | marker, clip_on=False)
    points = next(iter(evaluated.values()), []) + [
        (r["elapsed_s"] / unit, 100 * r["metric_recognition"])
        for r in records
        if r["kind"] == "ppo" and r.get("metric_recognition") is not None
    ]
    if not points:
        return []
    x, y = zip(*sorted(points), strict=True)
    axes.plot(x, y, **style)
    return [
        Line2D([], [], label=f"recognition (line: {plain(variants[0])}, markers as above)", **style)
    ]


def _learning(axes: Axes, records: list[Record], unit: float) -> None:
    """Loss of SFT on the left scale, reward of PPO on the right one."""
    axes.set_title("Loss and reward")
    sft = [r for r in records if r["kind"] == "sft" and r.get("loss") is not None]
    ppo = [r for r in records if r["kind"] == "ppo" and r.get("reward") is not None]
    right = axes.twinx()
    right.grid(False)
    for side, found, key, kind, label in (
        (axes, sft, "loss", "sft", "SFT loss, nats a token"),
        (right, ppo, "reward", "ppo", "PPO reward an episode"),
    ):
        if not found:
            side.set_yticks([])
            continue
        values = [r[key] for r in found]
        side.plot([r["elapsed_s"] / unit for r in found], values, color=COLORS[kind], lw=1.4)
        side.set_ylabel(label, color=COLORS[kind])
        side.tick_params(axis="y", colors=COLORS[kind])
    if sft:
        axes.set_ylim(bottom=0)
    if ppo:
        right.spines["right"].set_visible(True)


def _strip(axes: Axes, phases: list[Span], unit: float, total: float) -> None:
    """What the run did when; a label has the phase's own seconds, without those inside it."""
    axes.grid(False)
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    axes.spines["left"].set_visible(False)
    for span in phases:
        kind = span.name if span.name in ("sft", "ppo") else "other"
        kind = "eval" if span.name.startswith("eval") else kind
        begin, width = span.begin / unit, (span.end - span.begin) / unit
        axes.broken_barh([(begin, width)], (0, 1), color=PHASES[kind], ec="white", lw=0.8)
        long = span.name.upper() if kind in ("sft", "ppo") else span.name
        inside = [s for s in phases if s.depth > span.depth and span.begin <= s.begin < span.end]
        own = span.end - span.begin - sum(s.end - s.begin for s in inside)
        label = f"{long}  {own:.0f} s"
        room = width / max(total, 1e-9) * 95  # characters that fit
        if span.depth == 0 and room > len(long):
            text = label if room > len(label) else long
            axes.text(begin + width / 2, 0.48, text, ha="center", va="center", fontsize=7.5)


def _bars(
    axes: Axes, stages: dict[str, dict[str, Record]], variants: list[str], questions: str
) -> None:
    """The headline of each variant at each stage, with intervals and numbers."""
    shown = {s: {v: headline(r) for v, r in stages[s].items()} for s in COLORS if s in stages}
    every = [one for found in shown.values() for one in found.values()]
    greedy = ",\ngreedy answers" if any(one.greedy for one in every) else ""
    axes.set_title(f"Success by variant{greedy}; whiskers: 95 %")
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    thick = 0.8 / max(len(shown), 1)
    reach = max([100 * _right(one) for one in every if one.share is not None] + [5.0])
    for j, (stage, found) in enumerate(shown.items()):
        for i, variant in enumerate(variants):
            if variant in found and found[variant].share is not None:
                y = i + (j - (len(shown) - 1) / 2) * thick
                _bar(axes, found[variant], y, thick * 0.92, COLORS[stage], reach)
    labels = []
    for variant in variants:
        mine = [found[variant] for found in shown.values() if variant in found]
        counts = dict.fromkeys(episodes_of(one, questions) for one in mine)
        several = "\nat the first answer" if any(one.several for one in mine) else ""
        labels.append(
            f"{plain(variant)}{several}\nn = {', '.join(counts)}".replace(" of ", "\nof ")
        )
    axes.set_yticks(range(len(variants)), labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, reach * 1.13)
    axes.set_xlabel("episodes solved, %")


def _bar(axes: Axes, one: Headline, y: float, height: float, color: str, reach: float) -> None:
    """A bar with its whiskers and number, inside an outline up to success within all tries."""
    assert one.share is not None
    value = 100 * one.share
    axes.barh(y, value, height, color=color)
    if one.several and one.within is not None:
        axes.barh(y, 100 * one.within, height, fill=False, ec=color, lw=0.8)
    axes.errorbar(value, y, xerr=_error(one), color=INK, lw=1)
    axes.text(100 * _right(one) + 0.015 * reach, y, f"{value:.1f}", va="center", fontsize=8)


def _right(one: Headline) -> float:
    """Where a bar ends, with its whisker and outline."""
    ends = [one.share, one.within if one.several else None, one.interval and one.interval[1]]
    return max(end for end in ends if end is not None)


def _error(one: Headline) -> list[list[float]] | None:
    """Whiskers in percent below and above the share; None where its interval is not known."""
    if one.interval is None or one.share is None:
        return None
    low, high = (abs(100 * (bound - one.share)) for bound in one.interval)
    return [[low], [high]]


def _floors(
    axes: Axes, floors: Floors, stages: dict[str, dict[str, Record]], variants: list[str]
) -> None:
    """A faint line across each variant's bars at the best policy without a model."""
    reach = axes.get_xlim()[1] / 1.13
    for i, variant in enumerate(variants):
        records = [found[variant] for found in stages.values() if variant in found]
        measure = FIRST_TRY if any(headline(r).several for r in records) else SUCCESS
        floor = best(floors.get(variant, ()), measure)
        if floor is not None:
            value = 100 * floor["metrics"][measure]
            reach = max(reach, value)
            axes.plot([value, value], [i - 0.46, i + 0.46], color=FLOOR, **FLOOR_LINE)
            text = f" {plain(floor['baseline'])}"
            side = "right" if value > 0.6 * reach else "left"
            axes.text(value, i - 0.47, text, ha=side, va="bottom", fontsize=6.5, color=FAINT)
    axes.set_xlim(0, reach * 1.13)


def _legend(axes: Axes, stages: dict[str, dict[str, Record]]) -> None:
    """What the bars, outlines and lines of the picture's right side are."""
    shown = [stage for stage in COLORS if stage in stages]
    if not shown:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center")
        return
    handles: list[Artist] = [
        Line2D([], [], color=COLORS[s], lw=6, label=stage_name(s, stages[s])) for s in shown
    ]
    if any(headline(r).several for found in stages.values() for r in found.values()):
        handles.append(Patch(fill=False, ec=FAINT, lw=0.8, label=f"outline: {WITHIN}"))
    if any(line.get_color() == FLOOR for line in axes.lines):
        handles.append(Line2D([], [], color=FLOOR, label="best baseline", **FLOOR_LINE))
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.45, -0.085),
        ncols=min(len(handles), 3),
        handlelength=1.2,
    )
