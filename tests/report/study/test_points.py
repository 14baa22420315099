"""Evaluations are read question by question, each decoding for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from report.statistics import clustered, pass_at
from report.study.compute import Spent
from report.study.points import Point, Tally, interval, mean, passes, pooled, read_points


def points(folder: Path, rows: list[dict[str, Any]], **options: Any) -> list[Point]:
    common = {"stage": "sft", "step": 10, "variant": "train", "end": "terminated"}
    lines = [json.dumps(common | row) + "\n" for row in rows]
    (folder / "outcomes.jsonl").write_text("".join(lines))
    return read_points(folder, "arm", 0, Spent(), **options)


def row(seed: int, success: float, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "success": success} | more


def test_rows_of_one_question_are_one_tally(tmp_path: Path) -> None:
    rows = [row(1, 1.0, question="7 3 8 1"), row(2, 0.0, question="7 3 8 1"), row(3, 1.0)]
    (point,) = points(tmp_path, rows)
    assert point.measures["success"] == {"7 3 8 1": Tally(1.0, 2), "3": Tally(1.0, 1)}
    assert (point.success, point.rows) == (pytest.approx(2 / 3), 3)
    assert interval(point.measures["success"]) == clustered([1.0, 1.0], [2, 1])


def test_rows_without_a_question_are_one_question_a_seed(tmp_path: Path) -> None:
    (point,) = points(tmp_path, [row(s, float(s % 2)) for s in range(6)])
    assert len(point.measures["success"]) == 6


def test_greedy_rows_are_the_headline_and_sampled_ones_stand_beside(tmp_path: Path) -> None:
    rows = [row(1, 1.0, decoding="greedy"), row(2, 0.0, decoding="greedy")]
    rows += [row(1, float(k < 3), decoding="sampled") for k in range(4)]
    rows += [row(2, float(k < 1), decoding="sampled") for k in range(4)]
    (point,) = points(tmp_path, rows)
    assert (point.decoding, point.success, point.rows) == ("greedy", 0.5, 2)
    assert point.sampled == 0.5
    assert passes(point) == {
        1: pytest.approx(0.5),
        4: pytest.approx((pass_at(4, 3, 4) + pass_at(4, 1, 4)) / 2),
    }


def test_pass_at_k_needs_k_samples_of_every_question(tmp_path: Path) -> None:
    rows = [row(1, float(k % 2), decoding="sampled") for k in range(16)]
    rows += [row(2, 0.0, decoding="sampled") for _ in range(5)]
    (point,) = points(tmp_path, rows)
    assert point.decoding == "sampled"
    assert list(passes(point)) == [1, 4]
    assert passes(point)[1] == pytest.approx(0.25)  # a mean over questions, not over rows
    (greedy,) = points(tmp_path, [row(1, 1.0, decoding="greedy")])
    assert (passes(greedy), greedy.sampled) == ({}, None)


def test_older_rows_are_of_the_decoding_that_was_configured(tmp_path: Path) -> None:
    (sampled,) = points(tmp_path, [row(1, 1.0)])
    assert (sampled.decoding, sampled.sampled) == ("sampled", 1.0)
    (greedy,) = points(tmp_path, [row(1, 1.0)], temperature=0.0)
    assert (greedy.decoding, greedy.sampled) == ("greedy", None)


def test_measures_are_shares_of_the_rows_that_have_them(tmp_path: Path) -> None:
    rows = [
        row(1, 5.0, recognition=0.5, first_try=1.0),
        row(2, -1.0, first_try=0.0),
        row(3, 0.0, recognition=None, per_step_accuracy=0.25),
    ]
    (point,) = points(tmp_path, rows)
    assert point.success == pytest.approx(1 / 3)  # success is above 0, whatever it is
    assert point.share("first_try") == 0.5
    assert point.share("recognition") == 0.5
    assert point.share("per_step_accuracy") == 0.25
    (bare,) = points(tmp_path, [row(1, 1.0)])
    assert bare.share("recognition") is None


def test_seeds_that_played_one_question_are_one_cluster(tmp_path: Path) -> None:
    (one,) = points(tmp_path, [row(1, 1.0), row(2, 0.0)])
    together = pooled([one, one, one])
    assert together == {"1": Tally(3.0, 3), "2": Tally(0.0, 3)}
    assert mean(together) == 0.5
    assert mean({}) is None
    assert pooled([one], "recognition") == {}


def test_a_point_names_its_checkpoint(tmp_path: Path) -> None:
    rows = [
        row(1, 1.0),
        row(1, 1.0, stage="start", step=0),
        row(1, 1.0, stage="ppo", step=0, update=40),
    ]
    found = points(tmp_path, rows)
    assert [p.place for p in found] == ["start", "SFT step 10", "PPO update 40"]
