"""A picture of a trace: a row for each track of each process, and how many episodes were where."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from report.spans import Recorded, Span
from report.trace import WAITS, Track, Window, clip, tracks

COLOURS = {
    "score": "#7fb069",
    "learn": "#2f7d4f",
    "step": "#2f7d4f",
    "publish": "#8a5fbf",
    "weights travel": "#8a5fbf",
    "checkpoint": "#5c6b73",
    "export": "#5c6b73",
    "batch": "#9bb7d4",
    "busy": "#2b6cb0",
    "idle": "#f3d9d2",
    "asleep": "#f3d9d2",
    "paused": "#e07a5f",
    "loading": "#c39bd3",
    **dict.fromkeys(WAITS, "#e07a5f"),
}
EVALUATION = "#e0b04c"
AROUND = ("update", "ppo", "sft")  # spans that only hold others


def draw_trace(recorded: Recorded, window: Window, file: Path) -> None:
    """Draw a window of a run to a PNG."""
    figure = trace_figure(recorded, window)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def trace_figure(recorded: Recorded, window: Window) -> Figure:
    """A window of a run: tracks above, counts below."""
    shown = clip(recorded, window)
    rows = tracks(span for span in shown.spans if span.name not in AROUND)
    figure, (top, bottom) = pyplot.subplots(
        2,
        1,
        sharex=True,
        figsize=(11, 1.9 + 0.42 * len(rows)),
        height_ratios=(max(1.0, 0.42 * len(rows)), 1.1),
        layout="constrained",
    )
    colours: dict[str, str] = {}
    for row, spans in enumerate(rows.values()):
        colours |= _bars(top, row, spans, window)
    top.set_yticks(range(len(rows)), [_label(track) for track in rows])
    top.invert_yaxis()
    names: dict[str, list[str]] = defaultdict(list)
    for name, colour in colours.items():
        names[colour].append(name)
    patches = [Patch(color=colour, label=", ".join(each)) for colour, each in names.items()]
    top.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    _counts(bottom, shown, window)
    bottom.set_xlim(0, window.end - window.begin)
    bottom.set_xlabel(f"seconds of {window.name}")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axes: Axes, row: int, spans: list[Span], window: Window) -> dict[str, str]:
    """Draw a track, inner spans over outer ones; the colour of each name."""
    colours = {}
    for span in spans:
        evaluation = span.name.startswith("eval ")
        name = "evaluation" if evaluation else span.name
        colours[name] = EVALUATION if evaluation else COLOURS.get(span.name, "#bbbbbb")
        place = (span.begin - window.begin, span.end - span.begin)
        axes.broken_barh([place], (row - 0.38, 0.76), color=colours[name], linewidth=0)
    return colours


def _label(track: Track) -> str:
    process, name = track
    return process.name if name == "main" else f"{process.name}: {name}"


def _counts(axes: Axes, shown: Recorded, window: Window) -> None:
    """How many episodes were where, as steps."""
    times = [count.time - window.begin for count in shown.counts]
    for name in dict.fromkeys(name for count in shown.counts for name in count.values):
        values = [count.values.get(name, 0.0) for count in shown.counts]
        end = window.end - window.begin
        axes.step([*times, end], [*values, values[-1]], where="post", label=name, linewidth=1.2)
    axes.set_ylabel("episodes")
    if times:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
