"""How often a demonstration was seen, as configured and as measured."""

from __future__ import annotations

from typing import Any

from report.demonstrations_seen import demonstrations_measured, demonstrations_seen


def test_how_often_a_demonstration_was_seen() -> None:
    sft: dict[str, Any] = {"steps": 100, "batch_size": 8, "demonstrations": 3200}
    assert demonstrations_seen({"sft": sft}) == 0.25
    assert demonstrations_seen({"sft": sft}, 400) == 1.0
    assert demonstrations_seen({"sft": sft | {"data": "folder"}}) is None
    assert demonstrations_seen({"sft": sft | {"steps": 0}}) == 0
    assert demonstrations_seen({}) is None


def test_the_newest_record_says_how_often() -> None:
    records: list[dict[str, Any]] = [
        {"kind": "sft", "demonstrations": 100, "epoch": 0.5},
        {"kind": "sft", "demonstrations": 100, "epoch": 1.5},
        {"kind": "sft", "loss": 1.0},
        {"kind": "ppo", "epoch": 9},
    ]
    assert demonstrations_measured(records) == (100, 1.5)
    assert demonstrations_measured(records[2:]) is None
