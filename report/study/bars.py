"""The figures of a study that compare ends of arms: bars, and growth by verification iterations."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from report.evaluation import FIRST_TRY, SUCCESS, WITHIN
from report.metrics import Record
from report.plots import COLORS, FAINT, INK, plain
from report.statistics import over_seeds
from report.study.panels import KIND_COLORS, TRAINED, distribution, name_left, name_panel
from report.study.points import Point, interval, mean, pooled
from report.study.published import SOURCE, VERIFY, shift, task
from report.study.results import Arm, Study


def bars(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Start, SFT and RL on each variant, a group of bars a variant."""
    one = axes[0]
    rows: list[Record] = []
    arms = study.of_kind(*TRAINED)
    shown = [(name, KIND_COLORS["start"]) for name in study.starts]
    shown += [(arm.name, KIND_COLORS[arm.kind]) for arm in arms]
    ordered = [*study.inside, *study.outside]
    thick = 0.84 / len(shown)
    for j, (name, color) in enumerate(shown):
        again = sum(c == color for _, c in shown[:j])
        pale = _pale(color, 0.35 * min(again, 2))
        for i, variant in enumerate(ordered):
            points = study.ends(name, variant)
            if points:
                at = i + (j - (len(shown) - 1) / 2) * thick
                label = None if any(row["arm"] == name for row in rows) else plain(name)
                rows.append(_bar(one, at, thick, points, pale, label, study.headline(variant)))
                rows[-1] |= {"arm": name, "variant": variant}
    border = len(study.inside) - 0.5
    if 0 < len(study.inside) < len(ordered):
        one.axvline(border, color=FAINT, lw=0.8, dashes=(3, 3))
    several = {v for v in ordered if study.headline(v) == FIRST_TRY}
    first = {v: "\nat the first answer" if v in several else "" for v in ordered}
    labels = [f"{plain(v)}\n{distribution(study, v)}{first[v]}" for v in ordered]
    if several:
        one.bar(0, 0, fill=False, ec=FAINT, lw=0.8, label=f"outline: {WITHIN}")
    one.set_xticks(range(len(ordered)), labels, fontsize=9 if len(ordered) < 6 else 7.5)
    one.tick_params(axis="x", length=0)
    one.set_ylabel("episodes solved, %")
    one.set_ylim(bottom=0)
    return rows


def _bar(
    one: Axes,
    at: float,
    thick: float,
    points: Sequence[Point],
    color: tuple[float, float, float],
    label: str | None,
    measure: str,
) -> Record:
    """All seeds together with the interval over questions, and each seed as a dot.

    An outline around it is success within all tries, where the measure is another.
    """
    tallies, within = pooled(points, measure), mean(pooled(points))
    share = mean(tallies)
    assert share is not None
    assert within is not None
    low, high = interval(tallies)
    one.bar(at, 100 * share, thick * 0.9, color=color, label=label)
    if measure != SUCCESS:
        one.bar(at, 100 * within, thick * 0.9, fill=False, ec=color, lw=0.8)
    error = [[100 * max(0.0, share - low)], [100 * max(0.0, high - share)]]
    one.errorbar(at, 100 * share, yerr=error, color=INK, lw=1, capsize=2)
    dots = [at + 0.22 * thick * (k - (len(points) - 1) / 2) for k in range(len(points))]
    seeds = [100 * (p.share(measure) or 0.0) for p in points]
    one.scatter(dots, seeds, s=9, color="white", ec=INK, lw=0.6, zorder=4)
    return {
        "arm": "",
        "variant": "",
        "checkpoint": " / ".join(dict.fromkeys(p.place for p in points)),
        "n": sum(p.rows for p in points),
        "questions": len(tallies),
        "measure": measure,
        "share": share,
        "success": within,
        "low": low,
        "high": high,
        "seeds": len(points),
    }


def _pale(color: str, by: float) -> tuple[float, float, float]:
    """A colour mixed with white, for the second arm of a kind."""
    red, green, blue = (part + (1 - part) * by for part in to_rgb(color))
    return red, green, blue


def verification(study: Study, axes: Sequence[Axes], variants: Sequence[str]) -> list[Record]:
    """Growth during RL by graded answers per episode; a panel per out-of-distribution variant."""
    arms = [arm for arm in study.of_kind("rl") if arm.verify_iter]
    if len({arm.verify_iter for arm in arms}) < 2:
        return []
    same_task = task(study) == "GP-L"
    known = sorted({*(VERIFY if same_task else ()), *(arm.verify_iter or 0 for arm in arms)})
    rows: list[Record] = []
    for one, variant in zip(axes, variants, strict=True):
        name_panel(study, one, variant)
        mine = [
            row | {"variant": variant}
            for arm in sorted(arms, key=lambda arm: arm.verify_iter or 0)
            if (row := _growth(study, one, arm, variant, known, first=arm is arms[0]))
        ]
        published = study.headline(variant) == SUCCESS and shift(study, variant) == "rule"
        if mine and same_task and published:
            line = [known.index(k) for k in VERIFY], list(VERIFY.values())
            label = f"published, GP-L ({SOURCE})"
            one.plot(*line, color=FAINT, marker="D", ms=5, lw=1, dashes=(3, 2), label=label)
        rows += mine
        one.axhline(0, color=FAINT, lw=0.8)
        one.set_xticks(range(len(known)), [str(k) for k in known])
        one.set_xlim(-0.5, len(known) - 0.5)
        one.set_xlabel("verification iterations in training")
    name_left(axes, "growth, percentage points")
    return rows


def _growth(
    study: Study, one: Axes, arm: Arm, variant: str, known: Sequence[int], first: bool
) -> Record | None:
    """An arm's growth from its first evaluation to its end; None where no seed has both."""
    gains = []
    for seed in study.seeds:
        end, line = study.last(arm.name, seed, variant), study.at(arm.name, seed, variant)
        if end is not None and line[0] is not end:
            gains.append(study.lead(end) - study.lead(line[0]))
    if not gains:
        return None
    found, at = over_seeds(gains, bounds=(-1.0, 1.0)), known.index(arm.verify_iter or 0)
    style: Record = {"color": COLORS["ppo"], "marker": "o", "ms": 7, "lw": 1.3}
    error = None
    if found.interval is not None:
        low, high = found.interval
        error = [[100 * (found.mean - low)], [100 * (high - found.mean)]]
    label = "this study: mean, 95 % interval over seeds" if first else None
    one.errorbar(at, 100 * found.mean, yerr=error, label=label, **style)
    dots = [at + 0.08] * len(gains)
    dot: Record = {"s": 14, "color": "white", "ec": COLORS["ppo"], "zorder": 4}
    one.scatter(dots, [100 * g for g in gains], label="each seed" if first else None, **dot)
    low_high = found.interval or (None, None)
    return {
        "arm": arm.name,
        "verify_iter": arm.verify_iter,
        "growth": found.mean,
        "low": low_high[0],
        "high": low_high[1],
        "seeds": found.n,
        "variant": variant,
    }
