"""How many episodes are where: recorded when it changes."""

from __future__ import annotations

import asyncio

from cluster.stream import queue_lengths
from cluster.stream.queue_lengths import record_queues


def test_each_change_is_recorded_once(monkeypatch):
    traced, exported, looks = [], [], []
    states = {"queued": 1, "running": 2, "ready": 0, "taken": 0, "dropped failed": 4}

    class Metrics:
        def __init__(self, run):
            assert run == "mine"

        def set_all(self, names, values):
            exported.append(dict(values))

    def look():
        looks.append(1)
        if len(looks) in (3, 4):
            return states | {"ready": 1}
        if len(looks) == 8:
            raise asyncio.CancelledError
        return dict(states)

    monkeypatch.setattr(queue_lengths, "RunMetrics", Metrics)
    monkeypatch.setattr(queue_lengths, "PERIOD_S", 0.001)
    monkeypatch.setattr(queue_lengths, "EXPORT_EVERY", 2)
    monkeypatch.setattr(queue_lengths, "count", lambda name, values: traced.append((name, values)))

    async def until_it_is_cancelled():
        try:
            await record_queues("mine", look)
        except asyncio.CancelledError:
            return

    asyncio.run(until_it_is_cancelled())
    assert [values["ready"] for _, values in traced] == [0, 1, 0]
    assert {name for name, _ in traced} == {"episodes"}
    assert "dropped failed" not in traced[0][1]
    assert [values["ready"] for values in exported] == [0, 1, 0]  # looks 1, 3, 5; not 7
    assert [values["dropped failed"] for values in exported] == [4, 4, 4]
