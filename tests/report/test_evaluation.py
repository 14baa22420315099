"""What a record leads with, where its interval comes from, and what its overlap is in words."""

from __future__ import annotations

from typing import Any

import pytest

from report.evaluation import (
    Headline,
    episodes_of,
    headline,
    overlap_words,
    questions_name,
    with_intervals,
)
from report.statistics import summarise

OLD: dict[str, Any] = {"success": 0.5, "n": 10, "interval": [0.2, 0.8], "first_try": 0.25}
GREEDY = {"success": 0.6, "n": 20, "questions": 5, "interval": [0.3, 0.9], "first_try": 0.35}


def test_a_record_leads_with_its_greedy_answers_and_its_own_measure() -> None:
    assert headline(OLD) == Headline("success", 0.5, 0.5, (0.2, 0.8), 10, None, False)
    new = OLD | {"greedy": GREEDY, "headline": "success"}
    assert headline(new) == Headline("success", 0.6, 0.6, (0.3, 0.9), 20, 5, True)
    first = new | {"headline": "first_try"}
    assert headline(first) == Headline("first_try", 0.35, 0.6, None, 20, 5, True)
    known = headline(first | {"first_try_interval": [0.1, 0.5]})
    assert (known.interval, known.several) == ((0.1, 0.5), True)
    assert headline({"success": None}).share is None


def outcome(question: str, first: float | None, **more: Any) -> dict[str, Any]:
    row = {"stage": "sft", "variant": "v", "step": 7, "update": 0, "decoding": "greedy"}
    return row | {"seed": 1, "question": question, "end": "terminated", "first_try": first} | more


def test_the_interval_is_of_the_greedy_episodes_of_that_evaluation() -> None:
    record = {"kind": "eval", "stage": "sft", "variant": "v", "step": 7, "headline": "first_try"}
    mine = [outcome("a", 1.0), outcome("a", 0.0), outcome("b", 0.0), outcome("c", 1.0)]
    others = [
        outcome("d", 1.0, decoding="sampled"),
        outcome("d", 1.0, end="failed"),
        outcome("d", 1.0, step=0),
        outcome("d", 1.0, update=3),
        outcome("d", 1.0, stage="ppo"),
        outcome("d", 1.0, variant="w"),
        outcome("d", None),
    ]
    (found,) = with_intervals([record], lambda: mine + others)
    expected = summarise([1.0, 0.0, 0.0, 1.0], ["a", "a", "b", "c"])["interval"]
    assert found == record | {"first_try_interval": expected}
    assert with_intervals([record], lambda: others) == [record]


def test_outcomes_are_read_only_where_an_interval_is_missing() -> None:
    def never() -> list[dict[str, Any]]:
        raise AssertionError("outcomes were read")

    place = {"kind": "eval", "stage": "sft", "variant": "v"}
    records = [
        place | {"headline": "success"},
        place,
        place | {"headline": "first_try", "first_try_interval": [0.0, 1.0]},
        {"kind": "ppo", "headline": "first_try"},
    ]
    assert with_intervals(records, never) == records


@pytest.mark.parametrize(
    ("overlaps", "words"),
    [
        (["none", "none"], "held out of this training"),
        (["none", "some"], "some of it can have been trained on"),
        (["some", "all", "none"], "all of it can have been trained on"),
        (["none", None], "not known"),
        (["unknown", "some"], "some of it can have been trained on"),
        (["a new word"], "not known"),
        ([], "not known"),
    ],
)
def test_several_evaluations_overlap_as_much_as_one_of_them(
    overlaps: list[str | None], words: str
) -> None:
    assert overlap_words(overlaps) == words


def test_questions_have_the_environments_name() -> None:
    assert questions_name({"env": {"id": "envs:cardinal/VIRL-v0"}}) == "routes"
    assert questions_name({"env": {"id": "cardinal/GeneralPoints-v0"}}) == "hands"
    assert questions_name({"env": {"id": "mine:Other-v0"}}) == questions_name({}) == "questions"
    shown = headline(OLD | {"greedy": GREEDY | {"n": 1000}})
    assert episodes_of(shown, "hands") == "1,000 of 5 distinct hands"
    assert episodes_of(headline(OLD), "hands") == "10"
