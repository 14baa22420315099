"""Engines' loads: each at its worker's place, and none of one that is lost or hangs."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, RayTaskError

from cluster.failures import WorkerLost
from cluster.workers import engine_loads as module
from cluster.workers.engine_loads import engine_loads
from rollout.engine_load import EngineLoad

LOAD = EngineLoad(0.0, 15.0, 5.0, 10.0, 100)


def worker(answer):
    """A rollout actor that gives this, raises it, or hangs where it is None."""

    async def total_load():
        if answer is None:
            await asyncio.sleep(1000)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(total_load=SimpleNamespace(remote=total_load))


def loads_of(*answers, lost=()):
    supervisor = SimpleNamespace(serves=lambda index: index not in lost)
    return asyncio.run(engine_loads([worker(answer) for answer in answers], supervisor))


def test_each_is_at_its_workers_place():
    assert loads_of(LOAD, RuntimeError("not asked"), LOAD, lost={1}) == [LOAD, None, LOAD]
    assert loads_of(LOAD, lost={0}) == [None]


def test_one_that_hangs_is_left_out_at_once(monkeypatch):
    monkeypatch.setattr(module, "LOAD_S", 0.05)
    begin = time.monotonic()
    assert loads_of(None, LOAD, None) == [None, LOAD, None]
    assert time.monotonic() - begin < 5


def test_one_that_dies_meanwhile_is_left_out():
    assert loads_of(ActorUnavailableError("socket closed", None), LOAD) == [None, LOAD]


def test_an_error_of_its_own_is_raised():
    with pytest.raises(WorkerLost, match=r"rollout worker 1 .* give its load: ValueError: no"):
        loads_of(LOAD, RayTaskError("total_load", "traceback", ValueError("no")))
