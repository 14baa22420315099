"""What is time of a worker: that for which its machine was frozen is not; a start is told."""

from __future__ import annotations

import asyncio
import gc

import pytest

from cluster.failures import WorkerLost
from cluster.workers.supervisor import PAUSE_S
from configs.schema import RunConfig
from tests.cluster.workers import test_supervisor
from tests.cluster.workers.test_supervisor import supervised, until, work
from tests.support import virtual_time
from tests.support.fleet import unavailable

quick = test_supervisor.quick
HEARTBEAT_S, BEAT_S = 8.0, 2.0


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("moment", [0.1, 1.0, 1.9])
def test_a_frozen_machine_loses_no_worker_and_finds_the_one_that_hangs_afterwards(moment, answers):
    """moment: in a beat; in which a worker may have done what was asked of it otherwise."""

    async def scenario(supervisor, workers, fleet):
        await asyncio.sleep(HEARTBEAT_S - 1.0)
        if answers:
            await work(supervisor, workers, 0, "done")
        await asyncio.sleep(1.0 + moment)
        virtual_time.freeze(60.0)
        await asyncio.sleep(HEARTBEAT_S)
        assert (supervisor.incidents, fleet.losses) == ([], [])
        assert all(supervisor.serves(index) for index in (0, 1))
        workers[1].fate = "hangs"
        await until(lambda: fleet.losses, HEARTBEAT_S + BEAT_S)
        assert [index for index, _ in fleet.losses] == [1]

    supervised(scenario, heart=HEARTBEAT_S)


@pytest.mark.parametrize("after", [0.0, 0.1, BEAT_S / 2, BEAT_S - 0.1])
def test_one_that_hangs_after_an_answer_is_found_within_the_heartbeat(after, caplog):
    """It is asked for no sign while it answers otherwise: that is no time to wait on top."""

    async def scenario(supervisor, workers, fleet):
        await asyncio.sleep(HEARTBEAT_S)
        await work(supervisor, workers, 1, "done")
        await asyncio.sleep(after)
        workers[1].fate = "hangs"
        suspected = await until(lambda: not supervisor.serves(1), HEARTBEAT_S)
        assert suspected <= HEARTBEAT_S / 2 + 0.02
        found = suspected + await until(lambda: fleet.losses, HEARTBEAT_S)
        assert HEARTBEAT_S - BEAT_S - 0.02 <= found <= HEARTBEAT_S + 0.02
        assert "within 8 s (cluster.heartbeat_s)" in fleet.losses[0][1]

    supervised(scenario, heart=HEARTBEAT_S)
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("after", [0.0, 1.9, 2.1, 5.0])
@pytest.mark.parametrize("heart", [RunConfig().cluster.heartbeat_s, HEARTBEAT_S, 2.0])
def test_one_that_dies_after_an_answer_is_found_within_three_seconds(after, heart):
    """Soon after an answer a call waits in it again, which Ray fails when it dies."""

    async def scenario(supervisor, workers, fleet):
        await asyncio.sleep(heart)
        await work(supervisor, workers, 1, "done")
        await asyncio.sleep(after)
        workers[1].fate = unavailable()
        assert await until(lambda: fleet.losses) <= PAUSE_S + 0.02
        assert [index for index, _ in fleet.losses] == [1]

    supervised(scenario, heart=heart)


def test_who_answers_others_is_not_silent():
    """Its answer to the one call is late: it has until a heartbeat after what it did last."""

    async def scenario(supervisor, workers, fleet):
        async def never(seconds):
            await asyncio.sleep(1000.0)

        await asyncio.sleep(HEARTBEAT_S)
        workers[1].heartbeat.remote = never
        await asyncio.sleep(HEARTBEAT_S - BEAT_S)
        assert fleet.losses == []
        await work(supervisor, workers, 1, "done")
        found = await until(lambda: fleet.losses, 2 * HEARTBEAT_S)
        assert found == pytest.approx(HEARTBEAT_S, abs=0.02)

    supervised(scenario, heart=HEARTBEAT_S)


def test_a_frozen_minute_after_an_answer_is_no_silence():
    """Its answer to the one call is late when all are frozen, and comes a second after it."""

    async def scenario(supervisor, workers, fleet):
        signs, comes = workers[1].heartbeat.remote, asyncio.Event()

        async def once(seconds):
            workers[1].heartbeat.remote = signs
            await comes.wait()
            return await signs(0.0)

        await asyncio.sleep(HEARTBEAT_S)
        workers[1].heartbeat.remote = once
        await asyncio.sleep(HEARTBEAT_S - BEAT_S)
        await work(supervisor, workers, 1, "done")
        await asyncio.sleep(0.1)
        virtual_time.freeze(60.0)
        await asyncio.sleep(1.0)
        comes.set()
        await asyncio.sleep(2 * HEARTBEAT_S)
        assert fleet.losses == []

    supervised(scenario, heart=HEARTBEAT_S)


def test_a_frozen_minute_before_an_answer_is_not_waited_for_again():
    async def scenario(supervisor, workers, fleet):
        async def never(seconds):
            await asyncio.sleep(1000.0)

        await asyncio.sleep(HEARTBEAT_S)
        workers[1].heartbeat.remote = never
        await asyncio.sleep(2 * BEAT_S)
        virtual_time.freeze(60.0)
        await work(supervisor, workers, 1, "done")
        await until(lambda: fleet.losses, 2 * HEARTBEAT_S)

    supervised(scenario, heart=HEARTBEAT_S)


def test_what_the_start_takes_of_a_replacement_is_recorded():
    """Without the proof, and without the starts that failed."""

    async def scenario(supervisor, workers, fleet):
        start = workers[1].start.remote

        async def slowly():
            await asyncio.sleep(3.0)
            return await start()

        workers[1].start.remote = slowly
        workers[1].start_fates = [WorkerLost("worker", "start", "no memory"), None]
        workers[1].die(restarting=1)
        await until(lambda: len(supervisor.incidents) == 3, 20.0)
        assert [one["kind"] for one in supervisor.incidents] == ["failure", "failure", "restart"]
        assert supervisor.incidents[-1]["start_seconds"] == pytest.approx(3.0, abs=0.02)

    supervised(scenario, heart=HEARTBEAT_S)
