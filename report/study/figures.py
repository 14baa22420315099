"""All figures of a study, in the shapes of the paper's.

Output: a PNG and the rows behind it. A figure whose arms the study lacks gives no rows, and
FIGURES says what it would need.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from report.metrics import Record
from report.plots import FAINT, STYLE
from report.study import bars, curves
from report.study.results import Study


@dataclass(frozen=True)
class Drawing:
    """One figure.

    key: its file's name. note: what its lines, bars and bands mean. needs: what a study must have.
    panels: a panel for 'each' variant, for each 'outside' of the distribution, or 'one' for all.
    """

    key: str
    title: str
    note: str
    needs: str
    panels: str
    draw: Callable[[Study, Sequence[Axes], Sequence[str]], list[Record]]


def draw(study: Study, drawing: Drawing, file: Path) -> list[Record]:
    """Draw one figure into a PNG; returns its rows, none (and no file) where data is lacking."""
    choices = {"each": study.variants, "outside": study.outside, "one": study.variants[:1]}
    variants = choices[drawing.panels]
    if not variants:
        return []
    with matplotlib.rc_context(STYLE | {"font.size": 10, "legend.fontsize": 9}):
        across = 3 if len(variants) > 4 else min(len(variants), 2)
        down = -(-len(variants) // across)
        size = (10, 4.3 * down + 0.5)
        figure = Figure(figsize=size, dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, squeeze=False).flatten()
        axes = list(grid[: len(variants)])
        for unused in grid[len(variants) :]:
            unused.remove()
        rows = drawing.draw(study, axes, variants)
        if rows:
            caption = textwrap.fill(f"{drawing.note} {played(study)}", 145)
            figure.suptitle(caption, x=0.01, ha="left", fontsize=8.5, color=FAINT)
            handles = _handles(axes)
            if handles:
                columns = len(handles) if len(handles) <= 6 else 4
                figure.legend(handles=handles, loc="outside lower center", ncols=columns)
            figure.savefig(file)
    return rows


def played(study: Study) -> str:
    """How much stands behind a figure: training seeds, episodes and distinct questions."""
    pretrained = {arm.name for arm in study.of_kind("pretrain")}  # no figure has them
    points = [p for p in study.points if p.arm not in pretrained]
    if not points:
        return ""
    decodings = " and ".join(sorted({p.decoding for p in points}))
    several = [p for p in points if p.samples and p.decoding == "greedy"]
    answers = {tally.rows for p in several for tally in p.samples.values()}
    some = {len(p.samples) for p in several}
    sampled = f", and {_span(answers)} sampled ones to {_span(some)} of them" if answers else ""
    return (
        f"n = {len(study.seeds)} training seeds; an evaluation has "
        f"{_span({p.rows for p in points})} episodes of "
        f"{_span({len(p.measures['success']) for p in points})} distinct {study.questions}, "
        f"{decodings} answers{sampled}."
    )


def _span(counts: Collection[int]) -> str:
    return " to ".join(f"{n:,}" for n in dict.fromkeys((min(counts), max(counts))))


def _handles(axes: Sequence[Axes]) -> list[Artist]:
    found: dict[str, Artist] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values())


BAND = (
    "Lines are means over training seeds, bands reach from the lowest to the highest seed; "
    "a panel is one variant, and their scales differ."
)
FIGURES = (
    Drawing(
        "compute",
        "Success against compute",
        f"{BAND} The paper's main figure.",
        "arms with SFT or PPO, evaluated along the way",
        "each",
        curves.compute,
    ),
    Drawing(
        "frontier",
        "Success out of distribution against success in distribution",
        f"{BAND} Higher at the same place from left to right is better; the large mark is the end.",
        "a variant out of distribution and arms that are evaluated along the way",
        "outside",
        curves.frontier,
    ),
    Drawing(
        "bars",
        "Start, SFT and RL",
        "Bars: all seeds' episodes together, at each arm's end. Whiskers: 95 % interval over "
        "distinct questions, which holds for these models. Dots: one training seed each.",
        "any finished arm",
        "one",
        bars.bars,
    ),
    Drawing(
        "rl_and_sft",
        "RL with and without SFT",
        BAND,
        "an arm of RL after SFT and one without it",
        "each",
        curves.with_and_without,
    ),
    Drawing(
        "sft_sweep",
        "SFT checkpoint by checkpoint",
        f"{BAND} A ring marks the highest mean.",
        "an SFT arm with sft.eval_every",
        "each",
        curves.sweep,
    ),
    Drawing(
        "sharpness",
        "Sharpness against skill",
        f"{BAND} On the dashed line sampled answers solve as many as greedy ones; the large mark "
        "is the end.",
        "evaluations with greedy and with sampled answers",
        "each",
        curves.sharpness,
    ),
    Drawing(
        "recognition",
        "Recognition against success",
        f"{BAND} The large mark is the end.",
        "arms that read pictures (-VL) or another task with recognition",
        "each",
        curves.recognition,
    ),
    Drawing(
        "verify_iterations",
        "Verification iterations",
        "Growth of success from an arm's first evaluation to its end, mean over training seeds; "
        "whiskers: Student's 95 % interval over seeds. The paper's points are its own model's, at "
        "equal compute.",
        "arms of RL with different env.settings.verify_iter",
        "outside",
        bars.verification,
    ),
    Drawing(
        "forgetting",
        "KL to the start against forgetting",
        BAND,
        "evaluations that record kl_start",
        "each",
        curves.forgetting,
    ),
)
