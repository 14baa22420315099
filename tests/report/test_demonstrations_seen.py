"""How often a demonstration was seen, as configured."""

from __future__ import annotations

from typing import Any

from report.demonstrations_seen import demonstrations_seen


def test_how_often_a_demonstration_was_seen() -> None:
    sft: dict[str, Any] = {"steps": 100, "batch_size": 8, "demonstrations": 3200}
    assert demonstrations_seen({"sft": sft}) == 0.25
    assert demonstrations_seen({"sft": sft}, 400) == 1.0
    assert demonstrations_seen({"sft": sft | {"data": "folder"}}) is None
    assert demonstrations_seen({"sft": sft | {"steps": 0}}) == 0
    assert demonstrations_seen({}) is None
