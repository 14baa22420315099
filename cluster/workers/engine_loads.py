"""How busy the engines are: all are asked at once, and none is waited for longer than a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ray import ObjectRef

from cluster.failures import DeadlineExceeded, WorkerLost
from cluster.handles import RolloutWorkerHandle
from cluster.wait import is_dead, wait_for_async
from cluster.workers.supervisor import Supervisor
from rollout.engine_load import EngineLoad

LOAD_S = 2.0  # the learner waits for these numbers, and shall not wait for one engine that hangs


async def engine_loads(
    workers: Sequence[RolloutWorkerHandle], supervisor: Supervisor
) -> list[EngineLoad | None]:
    """How busy each engine was since its start, by worker.

    None: of one that does not serve, or does not answer at once.
    """
    serving = [index for index in range(len(workers)) if supervisor.serves(index)]
    calls = [_load(index, workers[index].total_load.remote()) for index in serving]
    loads = dict(zip(serving, await asyncio.gather(*calls), strict=True))
    return [loads.get(index) for index in range(len(workers))]


async def _load(index: int, ref: ObjectRef[EngineLoad]) -> EngineLoad | None:
    who, what = f"rollout worker {index}", "give its load"
    try:
        return await wait_for_async(ref, who, what, LOAD_S, key="heartbeat_s")
    except DeadlineExceeded:
        return None
    except WorkerLost as failure:
        if not is_dead(failure):
            raise
        return None
