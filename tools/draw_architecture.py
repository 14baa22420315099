"""Draws docs/pictures/architecture.png: the processes of a run and what travels between them.

Run `python tools/draw_architecture.py`. Boxes are processes, arrows are messages: dashed ones
carry references and numbers, solid ones large data through Ray's object store or to disk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
BOXES = (  # title, lines, (left, bottom, width, height), colour
    (
        "driver",
        "cluster/driver/train.py\nplaces, starts, shows progress",
        (0.2, 7.2, 4.0, 1.3),
        "#eeeeee",
    ),
    ("run folder", "metrics.jsonl, checkpoints/,\nreport.html", (8.8, 7.2, 4.0, 1.3), "#ffffff"),
    (
        "rollout actor × N",
        "cluster/actors.py, rollout/\nM episodes in flight:\nenvironment and vLLM in turn",
        (0.2, 3.7, 4.0, 1.6),
        "#dcebf7",
    ),
    (
        "learner rank × D",
        "cluster/phases/, learner/\nDeepSpeed ZeRO, value head;\nrank 0 drives",
        (8.8, 3.7, 4.0, 1.6),
        "#e2f2e0",
    ),
    (
        "trajectory buffer",
        "cluster/stream/buffer.py\nreferences and summaries,\nnever an array",
        (4.75, 0.4, 3.5, 1.6),
        "#f7efdc",
    ),
)
ARROWS = (  # from, to, label, where the label stands, dashed
    ((4.2, 5.0), (8.8, 5.0), "blocks of trajectories", (6.5, 5.25), False),
    ((8.8, 4.1), (4.2, 4.1), "weights in buckets,\ntagged with their version", (6.5, 4.55), False),
    ((5.3, 2.0), (3.4, 3.7), "requests", (5.0, 2.9), True),
    ((1.4, 3.7), (4.75, 1.0), "block references,\nsummaries", (1.6, 1.9), True),
    ((9.6, 3.7), (7.7, 2.0), "collect", (8.1, 2.9), True),
    ((8.25, 1.0), (11.6, 3.7), "each rank's share:\nreferences, rows", (11.4, 1.9), True),
    ((10.8, 5.3), (10.8, 7.2), "metrics, checkpoints", (9.4, 6.3), False),
    ((8.8, 7.85), (4.2, 7.85), "progress, failure.json", (6.5, 8.05), True),
    ((2.2, 7.2), (2.2, 5.3), "start, end", (1.3, 6.3), True),
    ((3.6, 7.2), (9.1, 5.3), "start, restart", (5.0, 6.3), True),
)


def _box(axes: Axes, title: str, lines: str, place: tuple[float, ...], colour: str) -> None:
    left, bottom, width, height = place
    shape = FancyBboxPatch((left, bottom), width, height, "round,pad=0,rounding_size=0.15")
    shape.set(facecolor=colour, edgecolor="#444444")
    axes.add_patch(shape)
    middle, top = left + width / 2, bottom + height
    axes.text(middle, top - 0.15, title, ha="center", va="top", weight="bold", size=13)
    axes.text(middle, top - 0.52, lines, ha="center", va="top", size=11, linespacing=1.3)


def draw(target: Path) -> None:
    """Write the picture."""
    figure, axes = pyplot.subplots(figsize=(11.5, 7.5), dpi=110)
    axes.set(xlim=(0, 13), ylim=(0.3, 8.6))
    axes.axis("off")
    for box in BOXES:
        _box(axes, *box)
    for begin, end, label, where, dashed in ARROWS:
        arrow = FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=16, color="#333333")
        arrow.set_linestyle("--" if dashed else "-")
        axes.add_patch(arrow)
        axes.text(*where, label, ha="center", va="center", size=11, color="#333333")
    figure.savefig(target, bbox_inches="tight", pad_inches=0.1, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Draw to the file given, or to the one that the documentation shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=str(ROOT / "docs" / "pictures" / "architecture.png"))
    draw(Path(parser.parse_args(arguments).out))


if __name__ == "__main__":
    main()
