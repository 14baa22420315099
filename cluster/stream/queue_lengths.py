"""How many episodes are where, over time: in the run's trace, and in Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count as numbers

from cluster.run.prometheus import QUEUES, RunMetrics
from cluster.run.tracing import count

QUEUED = ("queued", "running", "ready", "taken")  # of the ledger's states, those of now
PERIOD_S = 0.1  # between two looks
EXPORT_EVERY = 10  # looks: Ray passes on what it has every ten seconds


async def record_queues(run: str, states: Callable[[], dict[str, int]]) -> None:
    """Record `Ledger.states` whenever they have changed, without end."""
    metrics, traced, exported = RunMetrics(run), dict[str, int](), dict[str, int]()
    for look in numbers():
        now = states()
        if now != traced:
            traced = now
            count("episodes", {state: now[state] for state in QUEUED})
        if look % EXPORT_EVERY == 0 and now != exported:
            exported = now
            metrics.set_all(QUEUES, now)
        await asyncio.sleep(PERIOD_S)
