"""Runs against each other: by hand on a few questions, and on whole run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from report.comparison.runs import Difference, compare
from report.statistics import paired_interval
from tests.support.example_run import VARIANTS, N, make_run


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, records: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def played(folder: Path, by_question: dict[str, list[int]], **changes: Any) -> Path:
    """A run whose evaluation after PPO on `train` asked these questions, with these outcomes."""
    make_run(folder, tries=1)
    like = next(
        row
        for row in rows(folder / "outcomes.jsonl")
        if (row["stage"], row["variant"]) == ("ppo", "train")
    )
    outcomes = [
        like | {"update": 0, "question": question, "success": float(value)} | changes
        for question, values in by_question.items()
        for value in values
    ]
    write(folder / "outcomes.jsonl", outcomes)
    return folder


def difference(first: Path, second: Path) -> Difference | None:
    found = compare([first, second]).rows
    (row,) = (row for row in found if (row.stage, row.variant) == ("ppo", "train"))
    return row.differences[0]


def test_a_difference_is_over_the_questions_that_both_answered(tmp_path: Path) -> None:
    many, few = [f"many {i}" for i in range(10)], [f"few {i}" for i in range(10)]
    ours = {q: [1, 0, 0] for q in many} | {q: [0] for q in few} | {"only here": [1, 1]}
    theirs = {q: [1, 1] for q in many} | {q: [1, 0] for q in few} | {"only there": [0]}
    found = difference(played(tmp_path / "one", ours), played(tmp_path / "two", theirs))
    assert found is not None
    # many: 3 rows of the first, 1 − 1/3 each; few: 1 row, 1/2 − 0.
    gains, counts = [2.0] * 10 + [0.5] * 10, [3] * 10 + [1] * 10
    assert found.questions == 20
    assert found.share == pytest.approx(25 / 40)
    assert found.interval == pytest.approx(paired_interval(gains, counts))
    assert -1 < found.interval[0] < found.share < found.interval[1] < 1


def test_without_a_common_question_or_decoding_there_is_no_difference(tmp_path: Path) -> None:
    first = played(tmp_path / "one", {"a": [1], "b": [0]})
    assert difference(first, played(tmp_path / "two", {"c": [1]})) is None
    assert difference(first, played(tmp_path / "three", {"a": [1]}, decoding="sampled")) is None
    (first / "outcomes.jsonl").unlink()
    assert difference(first, tmp_path / "three") is None


def test_the_first_answer_is_compared_where_one_run_has_several_tries(tmp_path: Path) -> None:
    """Success within three tries is no rival of success within one."""
    one = played(tmp_path / "one", {"a": [1], "b": [0]}, first_try=0.0)
    three = played(tmp_path / "three", {"a": [1], "b": [1]}, first_try=1.0)
    found = difference(one, three)
    assert found is not None
    assert found.share == 0.5
    records = rows(three / "metrics.jsonl")
    write(
        three / "metrics.jsonl",
        [r | {"headline": "first_try"} if r["kind"] == "eval" else r for r in records],
    )
    for first, second, share in ((one, three, 1.0), (three, one, -1.0)):
        found = difference(first, second)
        assert found is not None
        assert found.share == share


def test_every_stage_and_variant_of_any_run_has_its_row(tmp_path: Path) -> None:
    short, whole = make_run(tmp_path / "short", upto="sft", tries=1), tmp_path / "whole"
    make_run(whole, tries=1)
    found = compare([short, whole])
    places = [(row.stage, row.variant) for row in found.rows]
    assert places == [(s, v) for s in ("end", "start", "sft", "ppo") for v in VARIANTS]
    by_place = dict(zip(places, found.rows, strict=True))
    trained = by_place["sft", "train"]
    assert [one and round(one.share or 0, 2) for one in trained.headlines] == [0.33, 0.33]
    assert trained.differences[0] is not None
    assert trained.differences[0].share == 0.0
    assert by_place["ppo", "train"].headlines[0] is None
    assert by_place["ppo", "train"].differences == [None]
    end = by_place["end", "train"]  # of SFT in one run and of PPO in the other
    assert [one and round(one.share or 0, 2) for one in end.headlines] == [0.33, 0.56]
    assert end.differences[0] is not None
    assert end.differences[0].share == pytest.approx(round(0.56 * N) / N - round(0.33 * N) / N)
    assert [row.stage for row in compare([whole, whole]).rows if row.stage == "end"] == []


def test_differing_keys_and_speed(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    config = yaml.safe_load((two / "config.yaml").read_text())
    config["env"]["settings"]["face_rule"] = "ranks"
    config |= {"name": "other", "ppo": {"clip": 0.3}, "eval": {"variants": {}}}
    config["cluster"] = {"root": "/elsewhere", "address": "auto"}
    (two / "config.yaml").write_text(yaml.safe_dump(config))
    found = compare([one, two, one])
    assert found.keys == {
        "env.settings.face_rule": ["ten", "ranks", "ten"],
        "eval.variants": ["–", {}, "–"],
        "ppo.clip": ["–", 0.3, "–"],
    }
    speed = dict(found.speed)
    assert list(speed)[-1] == "all, s"
    assert speed["rollout, tokens/s"] == pytest.approx([5200] * 3)
    assert speed["all, s"] == [run.summary["elapsed_s"] for run in found.runs]
    assert len(speed["sft, s"]) == 3


def test_names_are_short_where_they_tell_runs_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / arm / "seed0", upto="start") for arm in ("sft", "ppo")]
    assert [run.name for run in compare(folders).runs] == [str(folder) for folder in folders]
    other = make_run(tmp_path / "other", upto="start")
    assert [run.name for run in compare([folders[0], other]).runs] == ["seed0", "other"]
