"""What is time of a worker: that for which its machine was frozen is not; a start is told."""

from __future__ import annotations

import asyncio

import pytest

from cluster.failures import WorkerLost
from tests.cluster.workers import test_supervisor
from tests.cluster.workers.test_supervisor import supervised, until
from tests.support import virtual_time

quick = test_supervisor.quick
HEARTBEAT_S, BEAT_S = 8.0, 2.0


@pytest.mark.parametrize("moment", [0.1, 1.0, 1.9])
def test_a_frozen_machine_loses_no_worker_and_finds_the_one_that_hangs_afterwards(moment):
    """moment: in a beat."""

    async def scenario(supervisor, workers, fleet):
        await asyncio.sleep(HEARTBEAT_S + moment)
        virtual_time.freeze(60.0)
        await asyncio.sleep(HEARTBEAT_S)
        assert (supervisor.incidents, fleet.losses) == ([], [])
        assert all(supervisor.serves(index) for index in (0, 1))
        workers[1].fate = "hangs"
        await until(lambda: fleet.losses, HEARTBEAT_S + BEAT_S)
        assert [index for index, _ in fleet.losses] == [1]

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
