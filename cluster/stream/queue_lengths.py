"""How many episodes are where, over time: in the run's trace, and in Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.run.prometheus import QUEUES, RunMetrics
from cluster.run.tracing import count

QUEUED = ("queued", "running", "ready", "taken")  # of the ledger's states, those of now
PERIOD_S = 0.1  # between two looks


async def record_queues(run: str, states: Callable[[], dict[str, int]]) -> None:
    """Record `Ledger.states` whenever they have changed, without end."""
    metrics, before = RunMetrics(run), dict[str, int]()
    while True:
        now = states()
        if now != before:
            before = now
            count("episodes", {state: now[state] for state in QUEUED})
            metrics.set_all(QUEUES, now)
        await asyncio.sleep(PERIOD_S)
