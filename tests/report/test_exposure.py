"""What an evaluation shares with training, by the settings of both."""

from __future__ import annotations

from typing import Any

import pytest

from report.exposure import CAN, HELD_OUT, UNKNOWN, demonstrations_seen, exposure


def config(task: str, training: dict[str, Any], variant: dict[str, Any] | None) -> dict[str, Any]:
    return {"env": {"id": task, "settings": training}, "eval": {"variants": {"v": variant}}}


@pytest.mark.parametrize(
    ("training", "variant", "words"),
    [
        ({"hands": "train"}, {}, CAN),
        ({"hands": "train"}, {"hands": "held_out"}, HELD_OUT),
        ({"hands": "train"}, {"hands": "all"}, CAN),
        ({"hands": "train"}, {"face_rule": "ranks"}, CAN),
        ({"hands": "all"}, {"hands": "held_out"}, CAN),
        ({}, {"hands": "held_out"}, CAN),
        ({"hands": "train", "hold_out": 0.1}, {"hands": "held_out"}, HELD_OUT),
        ({"hands": "train", "hold_out": 0.1}, {"hands": "held_out", "hold_out": 0.2}, CAN),
        ({"hands": "train"}, {"hands": "held_out", "face_rule": "ranks"}, CAN),
        ({"hands": "train"}, {"hands": "held_out", "num_cards": 3}, CAN),
        ({"hands": "held_out"}, {}, CAN),
    ],
)
def test_hands(training: dict[str, Any], variant: dict[str, Any], words: str) -> None:
    for task in ("cardinal/GeneralPoints-v0", "envs.general_points:cardinal/GeneralPoints-v0"):
        assert exposure(config(task, training, variant), "v") == words


@pytest.mark.parametrize(
    ("training", "variant", "words"),
    [
        ({}, {}, CAN),
        ({}, {"action_space": "relative"}, CAN),
        ({}, {"max_legs": 3}, CAN),
        ({}, {"city": "Milan"}, HELD_OUT),
        ({}, {"city": "New York"}, CAN),
        ({}, {"city": "benchmark"}, HELD_OUT),
        ({}, {"split": "test"}, HELD_OUT),
        ({"split": "test"}, {"city": "benchmark"}, CAN),
        ({"city": "benchmark"}, {"city": "benchmark"}, CAN),
        ({"world": "data"}, {}, CAN),
        ({}, {"world": "data"}, HELD_OUT),
    ],
)
def test_routes(training: dict[str, Any], variant: dict[str, Any], words: str) -> None:
    assert exposure(config("cardinal/VIRL-v0", training, variant), "v") == words


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert exposure(config("mine:Other-v0", {}, {"hands": "held_out"}), "v") == UNKNOWN
    assert exposure({}, "v") == UNKNOWN


def test_how_often_a_demonstration_was_seen() -> None:
    sft: dict[str, Any] = {"steps": 100, "batch_size": 8, "demonstrations": 3200}
    assert demonstrations_seen({"sft": sft}) == 0.25
    assert demonstrations_seen({"sft": sft}, 400) == 1.0
    assert demonstrations_seen({"sft": sft | {"data": "folder"}}) is None
    assert demonstrations_seen({"sft": sft | {"steps": 0}}) == 0
    assert demonstrations_seen({}) is None
