"""An engine that is dead, that hangs, that works at one long thing, and that is idle."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from rollout import engine_watch
from rollout.engine import EngineFailure
from rollout.engine_watch import EngineWatch, processor_seconds
from tests.support import virtual_time

HEARTBEAT_S = 0.4


@pytest.fixture(autouse=True)
def looks(monkeypatch):
    monkeypatch.setattr(engine_watch, "LOOK_S", 0.01)


class Engine:
    def __init__(self):
        self.cause, self.answers, self.probes, self.spent, self.error = None, True, 0, 0.0, None

    def death(self):
        return self.cause

    async def probe(self):
        self.probes += 1
        if self.error:
            raise self.error
        if not self.answers:
            await asyncio.sleep(1000)


def watched(scenario):
    async def run():
        engine = Engine()
        watch = EngineWatch(engine, HEARTBEAT_S, lambda: engine.spent, virtual_time.now)
        try:
            return await scenario(engine, watch)
        finally:
            watch.stop()

    return virtual_time.run(run())


async def fails_within(watch, seconds, words):
    begin = virtual_time.now()
    with pytest.raises(EngineFailure, match=words):
        await watch.race(asyncio.sleep(20))
    assert virtual_time.now() - begin < seconds


def test_work_has_its_result_or_its_own_error():
    async def scenario(engine, watch):
        async def broken():
            raise OSError("its own")

        assert await watch.race(asyncio.sleep(0.01, "done")) == "done"
        with pytest.raises(OSError, match="its own"):
            await watch.race(broken())

    watched(scenario)


def test_a_death_ends_work_at_once_and_all_later_work():
    async def scenario(engine, watch):
        asyncio.get_running_loop().call_later(0.05, setattr, engine, "cause", "killed")
        await fails_within(watch, 0.3, "^vLLM died: killed$")
        await fails_within(watch, 0.1, "^vLLM died: killed$")
        with pytest.raises(EngineFailure):
            await watch.race(asyncio.sleep(0, "an answer of before"))

    watched(scenario)


def test_work_that_is_ended_is_cancelled():
    async def scenario(engine, watch):
        cancelled = asyncio.Event()

        async def work():
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        engine.cause = "gone"
        with pytest.raises(EngineFailure):
            await watch.race(work())
        await asyncio.sleep(0)
        assert cancelled.is_set()

    watched(scenario)


def test_a_hang_is_found_within_the_heartbeat():
    async def scenario(engine, watch):
        await asyncio.sleep(0.15)
        engine.answers = False
        await fails_within(watch, HEARTBEAT_S + 0.15, r"no sign of life for 0.4 s \(cluster.heart")

    watched(scenario)


def test_an_idle_engine_answers_and_lives():
    async def scenario(engine, watch):
        await watch.race(asyncio.sleep(3 * HEARTBEAT_S))
        assert 8 <= engine.probes <= 13

    watched(scenario)


def test_one_that_works_at_a_long_step_lives_and_is_not_probed_again():
    async def scenario(engine, watch):
        engine.answers = False
        await asyncio.sleep(0.15)
        probes = engine.probes

        async def work():
            for _ in range(40):
                engine.spent += 0.06
                await asyncio.sleep(0.03)

        await watch.race(work())
        assert engine.probes <= probes + 1
        await fails_within(watch, HEARTBEAT_S + 0.15, "no sign of life")

    watched(scenario)


def test_a_loop_that_only_refuses_is_none_that_lives():
    async def scenario(engine, watch):
        engine.error = RuntimeError("not now")
        await fails_within(watch, 2 * HEARTBEAT_S, "no sign of life")

    watched(scenario)


def test_a_little_processor_time_of_threads_that_wait_is_no_work():
    async def scenario(engine, watch):
        engine.answers = False
        ticking = asyncio.ensure_future(tick(engine))
        await fails_within(watch, 2 * HEARTBEAT_S, "no sign of life")
        ticking.cancel()

    async def tick(engine):
        while True:
            engine.spent += 0.0005
            await asyncio.sleep(0.01)

    watched(scenario)


def test_the_end_by_request_is_no_loss():
    async def scenario(engine, watch):
        watch.stop()
        engine.cause = "ended"
        assert await watch.race(asyncio.sleep(0.1, "shut down")) == "shut down"

    watched(scenario)


def test_processor_time_is_that_of_all_and_of_none_that_has_ended():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    process = psutil.Process(child.pid)
    child.wait()
    busy = SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=2.0, system=0.5))
    assert processor_seconds([busy, process, busy]) == 5.0
