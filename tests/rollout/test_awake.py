"""A clock that stands still while its process does, and a time limit by it."""

import asyncio

import pytest

from rollout.awake import AWAY_S, LOOK_S, Awake, time_limit
from tests.support import virtual_time


def test_time_between_looks_counts_up_to_what_one_takes_that_was_not_stopped():
    now = [100.0]
    awake = Awake(lambda: now[0])
    assert awake() == 0.0
    for elapsed, expected in ((0.5, 0.5), (AWAY_S, 2.5), (60.0, 4.5), (0.0, 4.5), (1.0, 5.5)):
        now[0] += elapsed
        assert awake() == expected


@pytest.mark.parametrize("seconds", [0.3, 5.0, 120.25])
def test_a_limit_ends_what_lasts_longer_and_nothing_else(seconds):
    async def lasts(other):
        async with time_limit(seconds):
            await asyncio.sleep(other)

    for shorter in (0.0, seconds - 0.01):
        assert virtual_time.timed(lasts(shorter))[1] == pytest.approx(shorter)

    async def ended():
        with pytest.raises(TimeoutError):
            await lasts(seconds + 0.01)

    assert virtual_time.timed(ended())[1] == pytest.approx(seconds)


def test_time_for_which_the_process_was_frozen_does_not_count():
    async def frozen(freezes, rest):
        async with time_limit(30.0):
            for _ in range(freezes):
                await asyncio.sleep(1.0)
                virtual_time.freeze(180.0)
            await asyncio.sleep(rest)

    virtual_time.run(frozen(3, 30 - 3 * (1 + AWAY_S) - 0.01))

    async def ended():
        with pytest.raises(TimeoutError):
            await frozen(3, 30.0)

    passed = virtual_time.timed(ended())[1]
    assert 3 * 180 + 30 - 3 * AWAY_S <= passed <= 3 * 180 + 30 + LOOK_S


def test_it_can_begin_again_for_another_time():
    async def work():
        async with time_limit(3.0) as limit:
            await asyncio.sleep(2.9)
            limit.begin_again(10.0)
            await asyncio.sleep(9.9)
            limit.begin_again(2.0)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(3.0)
            raise asyncio.CancelledError

    async def ended():
        with pytest.raises(TimeoutError):
            await work()

    assert virtual_time.timed(ended())[1] == pytest.approx(14.8)


def test_nobody_looks_once_it_is_over():
    async def work():
        async with time_limit(5.0) as limit:
            await asyncio.sleep(0.5)
        virtual_time.freeze(1.0)
        await asyncio.sleep(10.0)
        assert limit._next.cancelled()

    virtual_time.run(work())
