"""What is time of a wait inside an actor; without Ray's processes."""

import asyncio

import pytest

from cluster.failures import DeadlineExceeded
from cluster.wait import wait_for_async
from tests.support import virtual_time

HALF_A_MINUTE = ("worker", "do it", 30.0, "heartbeat_s")


async def unanswered():
    await asyncio.sleep(1000.0)


@pytest.mark.parametrize("at", [0.1, 5.0, 27.0])
def test_the_time_for_which_this_process_is_frozen_is_no_time_that_the_other_had(at):
    async def answered_after(seconds):
        waiting = asyncio.ensure_future(wait_for_async(asyncio.sleep(seconds, 7), *HALF_A_MINUTE))
        await asyncio.sleep(at)
        virtual_time.freeze(60.0)
        return await waiting

    assert virtual_time.run(answered_after(at + 60.5)) == 7


def test_a_deadline_is_met_to_the_moment_and_what_is_late_is_given_up():
    given_up = []

    async def late():
        try:
            await unanswered()
        finally:
            given_up.append(virtual_time.now())

    async def wait():
        begin = virtual_time.now()
        with pytest.raises(DeadlineExceeded, match="within 30 s"):
            await wait_for_async(late(), *HALF_A_MINUTE)
        await asyncio.sleep(0)
        return [virtual_time.now() - begin, *(at - begin for at in given_up)]

    assert virtual_time.run(wait()) == pytest.approx([30.0, 30.0])
