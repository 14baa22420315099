"""Panels: means over seeds step by step, an arm's style, axes of shares."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from report.study.panels import (
    KIND_COLORS,
    along,
    arm_style,
    curves,
    distribution,
    name_left,
    share_axes,
)
from report.study.points import Point
from report.study.results import Arm
from tests.report.study.drawing import drawn, panels, point, study_of

SFT, MORE = Arm("sft", "sft", None, None, None), Arm("more", "sft", None, None, None)
RL = Arm("rl", "rl", "sft", None, None)
POINTS = [
    point("sft", "start", 0, 0.1),
    point("sft", "sft", 4, 0.5),
    point("sft", "start", 0, 0.3, seed=1),
    point("sft", "sft", 4, 0.9, seed=1, flops=8.0),
    point("sft", "sft", 4, 0.0, variant="out"),
    point("more", "sft", 4, 0.0),
]


def success(p: Point) -> float:
    return p.success


def test_steps_are_means_over_the_seeds_of_one_arm_on_one_variant() -> None:
    study = study_of(POINTS, SFT, MORE)
    first, last = along(study, SFT, "in", lambda p: p.flops, success)
    assert (first.phase, first.step, first.x, first.seeds) == ("start", 0, 0, 2)
    assert (first.mean, first.low, first.high) == pytest.approx((0.2, 0.1, 0.3))
    assert (last.x, last.mean, last.low, last.high) == pytest.approx((6, 0.7, 0.5, 0.9))


def test_points_without_x_or_y_are_left_out() -> None:
    study = study_of(POINTS, SFT, MORE)
    later = along(study, SFT, "in", lambda p: p.flops or None, success)
    assert [step.step for step in later] == [4]
    solved = along(study, SFT, "in", lambda p: p.flops, lambda p: p.success if p.seed else None)
    assert [(step.mean, step.seeds) for step in solved] == [(0.3, 1), (0.9, 1)]


def test_the_same_step_of_another_phase_is_another_step() -> None:
    points = [point("rl", "sft", 4, 0.2), point("rl", "ppo", 4, 0.6)]
    found = along(study_of(points, RL), RL, "in", lambda p: p.flops, success)
    assert [(step.phase, step.mean) for step in found] == [("sft", 0.2), ("ppo", 0.6)]


def test_a_line_needs_two_steps_and_its_rows_say_what_it_is() -> None:
    study = study_of(POINTS, SFT, MORE)
    inside, outside = panels(2)
    rows = curves(
        study, [inside, outside], ["in", "out"], [SFT, MORE], lambda p: p.flops, "flops", success
    )
    assert [(r["arm"], r["variant"], r["flops"], r["mean"]) for r in rows] == [
        ("sft", "in", 0, pytest.approx(0.2)),
        ("sft", "in", 6, pytest.approx(0.7)),
    ]
    assert {r["distribution"] for r in rows} == {"in"}
    (line,) = inside.lines
    assert list(line.get_ydata()) == pytest.approx([20, 70])  # percent
    assert outside.lines[:] == []
    assert outside.get_title() == "out\n(out of distribution)"
    (band,) = inside.collections
    heights = [y for _, y in band.get_paths()[0].vertices]
    assert (min(heights), max(heights)) == pytest.approx((10, 90))


def test_the_end_gets_a_large_mark() -> None:
    (axes,) = panels(1)
    curves(study_of(POINTS, SFT), [axes], ["in"], [SFT], lambda p: p.flops, "x", success, end=True)
    line, mark = axes.lines
    assert list(mark.get_xdata()) == [6]
    assert list(mark.get_ydata()) == pytest.approx([70])
    assert mark.get_markersize() > line.get_markersize()


def test_colour_is_the_kinds_and_dashes_tell_arms_of_one_kind_apart() -> None:
    study = study_of(POINTS, SFT, RL, MORE)
    first, second, other = (arm_style(study, arm) for arm in (SFT, MORE, RL))
    assert first["color"] == second["color"] == KIND_COLORS["sft"]
    assert first["dashes"] != second["dashes"]
    assert other["dashes"] == first["dashes"]
    assert other["color"] == KIND_COLORS["rl"]
    assert len({style["marker"] for style in (first, second, other)}) == 3
    assert len({to_rgb(color) for color in KIND_COLORS.values()}) == len(KIND_COLORS)


def test_a_variant_is_in_distribution_or_out_of_it() -> None:
    study = study_of(POINTS, SFT)
    assert distribution(study, "in") == "in distribution"
    assert distribution(study, "out") == "out of distribution"


@pytest.mark.parametrize(("highest", "top"), [(2, 5), (50, 50), (200, 103)])
def test_shares_begin_at_0_and_end_where_they_can(highest: float, top: float) -> None:
    axes = panels(2)
    for one in axes:
        one.set_ylim(-10, highest)
    share_axes(axes, "below", "at the left")
    assert [one.get_ylim() for one in axes] == [(0, top)] * 2
    assert [one.get_xlabel() for one in axes] == ["below"] * 2
    assert [one.get_ylabel() for one in axes] == ["at the left", ""]


def test_the_first_panel_of_each_row_is_named() -> None:
    axes = list(Figure().subplots(2, 2).flatten())
    name_left(axes, "share")
    assert [one.get_ylabel() for one in axes] == ["share", "", "share", ""]


def test_the_ends_of_all_seeds_are_one_step_where_match_chose_their_number() -> None:
    steps = (313, 316, 314)
    shares = {"start": 0.1, "sft": 0.4}
    points = [
        point("sft", phase, 200 * (phase == "sft"), share, seed=seed)
        for seed in (0, 1, 2)
        for phase, share in shares.items()
    ]
    points += [point("sft", "sft", s, 0.5 + 0.1 * k, seed=k) for k, s in enumerate(steps)]
    found = along(study_of(points, SFT), SFT, "in", lambda p: p.flops, success)
    assert [(step.step, step.seeds) for step in found] == [(0, 3), (200, 3), (314, 3)]
    assert (found[-1].mean, found[-1].low, found[-1].high) == pytest.approx((0.6, 0.5, 0.7))


def test_steps_are_in_order_of_training_whatever_the_order_of_seeds() -> None:
    points = [point("sft", "sft", s, 0.1, seed=k) for k, s in ((0, 8), (1, 4), (1, 8), (1, 12))]
    study = study_of(points, SFT, finished=set())
    assert [s.step for s in along(study, SFT, "in", lambda p: p.flops, success)] == [4, 8, 12]


def test_a_name_with_dollar_signs_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [
        point(r"$\frac$", phase, step, share, variant=r"$\frac$")
        for phase, step, share in (("start", 0, 0.1), ("sft", 4, 0.5))
    ]
    study = study_of(odd, Arm(r"$\frac$", "sft", None, None, None), inside=[r"$\frac$"])
    for key in ("compute", "bars"):
        figure, rows = drawn(monkeypatch, study, key)
        assert {row["variant"] for row in rows} == {r"$\frac$"}
        assert figure.axes
