"""The figures of a study that are curves over training, one panel per variant."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.evaluation import WITHIN
from report.metrics import Record
from report.plots import FAINT, plain
from report.study.panels import (
    TRAINED,
    Step,
    Value,
    along,
    curves,
    name_left,
    name_panel,
    share_axes,
)
from report.study.points import Point
from report.study.results import Arm, Study


def compute(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Success against compute."""
    arms = study.of_kind(*TRAINED)
    rows = curves(study, axes, variants, arms, lambda p: p.flops, "flops", study.lead)
    formula = {
        (arm.name, variant, step.phase, step.step): step.x
        for arm in arms
        for variant in variants
        for step in along(study, arm, variant, lambda p: p.flops_formula, study.lead)
    }
    for row in rows:
        place = (row["arm"], row["variant"], row["phase"], row["step"])
        row["flops_formula"] = formula.get(place)
    share_axes(axes, "compute since the initial model, FLOPs")
    for one in axes:  # the usual "1e10" at the axis' end would cover its label
        one.xaxis.set_major_locator(MaxNLocator(4))
        one.xaxis.set_major_formatter(lambda flops, _: f"{flops:g}")
    return rows


def recognition(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Recognition against success along training."""
    arms = [a for a in study.arms if a.kind in TRAINED]
    x = _percent_of("recognition")
    rows = curves(study, axes, variants, arms, x, "recognition", study.lead, end=True)
    share_axes(axes, "cards or landmarks read right, %")
    return rows


def _percent_of(measure: str) -> Value:
    def value(point: Point) -> float | None:
        share = point.share(measure)
        return None if share is None else 100 * share

    return value


def frontier(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Success out of distribution against success in distribution, along training."""
    if not study.inside:
        return []
    reference = study.inside[0]
    inside = {
        (p.arm, p.seed, p.phase, p.step): 100 * study.lead(p)
        for p in study.points
        if p.variant == reference
    }

    def in_distribution(p: Point) -> float | None:
        return inside.get((p.arm, p.seed, p.phase, p.step))

    arms = study.of_kind(*TRAINED)
    name = f"success_on_{reference}"
    rows = curves(study, axes, variants, arms, in_distribution, name, study.lead, end=True)
    share_axes(axes, f"episodes of {plain(reference)} solved, %", "episodes of the panel solved, %")
    return rows


def sharpness(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Sampled success against greedy success, along training."""

    def greedy(p: Point) -> float | None:
        return None if p.greedy is None or not p.samples else 100 * p.greedy

    def sampled(p: Point) -> float | None:
        return p.sampled

    arms = study.of_kind(*TRAINED)
    rows = curves(study, axes, variants, arms, greedy, "greedy", sampled, end=True)
    share_axes(axes, "solved by greedy answers, %", "solved by sampled answers, %")
    for one, variant in zip(axes, variants, strict=True):
        name_panel(study, one, variant, WITHIN)
        top = max(one.get_xlim()[1], one.get_ylim()[1])
        limits = (0, min(top, 103))
        one.plot(limits, limits, color=FAINT, lw=0.8, dashes=(3, 3), zorder=1)
        one.set_xlim(limits)
        one.set_ylim(limits)
    return rows


def with_and_without(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """RL with SFT, without it and from an overfitted SFT, by update."""
    arms = study.of_kind("rl", "rl_without_sft", "rl_overfit")
    if len({arm.kind for arm in arms}) < 2:
        return []

    def update(p: Point) -> float | None:
        return None if p.phase == "sft" else float(p.step)

    rows = curves(study, axes, variants, arms, update, "update", study.lead)
    share_axes(axes, "PPO update")
    for one in axes:
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
    return rows


def sweep(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """SFT's checkpoints; a ring is the highest mean."""
    arms = study.of_kind("sft")

    def steps(p: Point) -> float | None:
        return (
            None if p.phase == "ppo" else float(p.step) + _before(study, study.arm(p.arm), p.seed)
        )

    rows = curves(study, axes, variants, arms, steps, "sft_step", study.lead)
    if len({(r["arm"], r["step"]) for r in rows}) < 3:
        return []
    share_axes(axes, "SFT steps since the initial model")
    for one, variant in zip(axes, variants, strict=True):
        found: list[Step] = [
            s for arm in arms for s in along(study, arm, variant, steps, study.lead)
        ]
        best = max(found, key=lambda step: step.mean)
        one.plot(best.x, 100 * best.mean, marker="o", ms=13, mfc="none", color=FAINT)
    return rows


def _before(study: Study, arm: Arm, seed: int) -> float:
    """SFT steps of the arms that an arm begins with; `match` gives each seed its own number."""
    if arm.source is None or study.arm(arm.source).kind != "sft":
        return 0.0
    source = study.arm(arm.source)
    mine = (p.step for p in study.points if (p.arm, p.seed) == (source.name, seed))
    return (arm.at or max(mine, default=0)) + _before(study, source, seed)


def forgetting(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Success against the start, by KL to the start."""

    def change(p: Point) -> float | None:
        start = study.start(p.arm, p.seed, p.variant)
        return study.lead(p) - study.lead(start) if start else None

    arms = study.of_kind(*TRAINED)
    rows = curves(study, axes, variants, arms, lambda p: p.kl, "kl_start", change)
    for one in axes:
        one.axhline(0, color=FAINT, lw=0.8, zorder=1)
        one.set_xlabel("KL to the initial model, nats a token")
    name_left(axes, "success minus the start's, points")
    return rows
