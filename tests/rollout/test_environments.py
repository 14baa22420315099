"""Processes of environments: shared or apart, replaced when they break, gone with their owner."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from configs.paths import ROOT
from envs.base import EnvironmentFailure
from rollout.environment_inspection import OTHER_PROCESS
from rollout.environment_server import EnvironmentServer
from rollout.environments import (
    SHARED,
    EnvironmentPool,
    EnvironmentProcess,
    ProcessLimits,
    ProcessLost,
)
from tests.support import virtual_time
from tests.support.plugins import PLUGIN, TURNS

GP = "cardinal/GeneralPoints-v0"
LIMITS = ProcessLimits(call_deadline_s=200.0, memory_gib=0.5)


def variants(*kinds):
    return {kind: (PLUGIN, {"kind": kind}) for kind in kinds}


async def play(pool, variant, seed=0, barrier=None):
    """One episode; the last step, or the sentence of its failure."""
    try:
        async with pool.borrow(variant) as env:
            step = await env.reset(seed)
            if barrier:
                await barrier.wait()
            while not (step.terminated or step.truncated):
                step = await env.step("10")
            return step
    except EnvironmentFailure as failure:
        return str(failure)


def run(work, environments, episodes=4, limits=LIMITS):
    async def within():
        pool = EnvironmentPool(environments, limits, episodes)
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(within())


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids, seconds=60.0):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


BROKEN = {
    "raising": "environment step: the map is missing",
    "nan": "environment step: the reward is nan; it must be a finite number",
    "huge": "environment step: the observation's message has 10000000 characters; it may have",
    "picture": "environment step: the picture is float64 [8, 8, 3]; it must be uint8",
    "leak": "environment step: its process needed more than env.memory_gib = 0.5",
    "exit": "environment step: its process exited with code 7",
    "segfault": "environment step: its process was ended by SIGSEGV",
    "unmakeable": "environment make: LookupError: no licence",
}


def test_each_way_to_break_is_named_and_breaks_no_other():
    """All at once, one process each: the cause of each, and the good one between them."""

    async def work(pool):
        names = [*BROKEN, "good"]
        first = await asyncio.gather(*(play(pool, name) for name in names))
        processes = len(pool._processes)
        again = await asyncio.gather(*(play(pool, "good", seed) for seed in range(4)))
        return first, processes, again

    first, processes, again = run(work, variants(*BROKEN, "good"), len(BROKEN) + 1)
    *failures, good = first
    for (name, expected), failure in zip(BROKEN.items(), failures, strict=True):
        assert str(failure).startswith(expected), name
    assert (good.question, good.metrics["success"], good.reward) == ("0", 1.0, 1.0)
    assert processes == len(BROKEN) + 1
    assert [step.question for step in again] == ["0", "1", "2", "3"]


async def hangs_in(env, call_deadline_s):
    """Bring an environment to the step in which it hangs; that one has this deadline."""
    await env.reset(0)
    await env.step("10")
    env.process.limits = replace(env.process.limits, call_deadline_s=call_deadline_s)


@pytest.mark.parametrize("kind", ["busy", "hanging"])
def test_a_call_that_does_not_end_is_ended_at_its_deadline_and_breaks_no_other(kind):
    async def fail(pool, others):
        async with pool.borrow(kind) as env:
            await hangs_in(env, 0.5)
            others.append(asyncio.ensure_future(play(pool, "good")))
            await env.step("10")

    async def work(pool):
        others = []
        with pytest.raises(EnvironmentFailure) as failure:
            await fail(pool, others)
        return str(failure.value), await others[0]

    failure, good = run(work, variants(kind, "good"), 2)
    assert failure == "environment step: took longer than cluster.env_deadline_s = 0.5"
    assert good.terminated


def test_episodes_that_share_a_process_fail_with_it_and_the_next_begin_in_a_new_one():
    async def work(pool):
        barrier = asyncio.Barrier(3)
        lost = await asyncio.gather(
            *(play(pool, kind, 0, barrier) for kind in ("exit", "good", "good"))
        )
        (process,) = pool._processes
        assert process.lost
        assert process.episodes == 0
        return lost, await play(pool, "good", 9)

    limits = ProcessLimits(processes=1, call_deadline_s=200.0)
    lost, after = run(work, variants("exit", "good"), 3, limits)
    assert [failure.endswith("its process exited with code 7") for failure in lost] == [True] * 3
    assert after.question == "9"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_who_is_innocent_of_the_end_of_its_process_can_be_played_again(number):
    """One episode meets the end in its own call; the other one finds it."""

    async def work(pool):
        async with pool.borrow("good") as first, pool.borrow("good") as second:
            await first.reset(0)
            await second.reset(1)
            (process,) = pool._processes
            if number == signal.SIGSTOP:
                process.limits = replace(process.limits, call_deadline_s=0.5)
            os.kill(process._pid, number)
            calls = [env.step("10") for env in (first, second)]
            return await asyncio.gather(*calls, return_exceptions=True)

    limits = ProcessLimits(processes=1, call_deadline_s=200.0)
    met, found = run(work, variants("good"), 2, limits)
    assert type(met) is (ProcessLost if number == signal.SIGKILL else EnvironmentFailure), met
    assert type(found) is ProcessLost
    ending = "was killed: step took" if number == signal.SIGSTOP else f"was ended by {number.name}"
    assert f"its process {ending}" in str(found)


def test_an_environment_is_used_again_unless_its_episode_failed(capfd):
    async def work(pool):
        pids = [(await play(pool, "good", seed)).metrics["pid"] for seed in range(2)]
        (process,) = pool._processes
        before = dict(process.idle)
        await play(pool, "raising")
        await play(pool, "unclosable")
        async with pool.borrow("unclosable") as env:
            await env.reset(0)
        return pids, before, process.idle

    pids, before, idle = run(work, variants("good", "raising", "unclosable"))
    assert pids[0] == pids[1]
    assert before == {"good": [0]}
    assert idle == {"good": [0], "raising": [], "unclosable": [2]}
    assert capfd.readouterr().err == "environment close: RuntimeError: the door is stuck\n"


def test_built_in_ones_share_processes_and_others_do_not():
    good, own = variants("good"), {"v": (GP, {})}
    assert EnvironmentPool(own, ProcessLimits(), 16)._most == SHARED
    assert EnvironmentPool(good, ProcessLimits(), 16)._most == 16
    assert EnvironmentPool(own | good, ProcessLimits(), 16)._most == 16
    assert EnvironmentPool(own, ProcessLimits(processes=5), 16)._most == 5
    assert EnvironmentPool(good, ProcessLimits(processes=99), 16)._most == 16
    with pytest.raises(ValueError, match=r"settings of v: .*keys must be texts"):
        EnvironmentPool({"v": (GP, {"templates": {1: "a"}})}, ProcessLimits(), 16)


def test_imports_have_the_deadline_of_a_start():
    limits = ProcessLimits(call_deadline_s=3.0, make_deadline_s=70.0)
    process = EnvironmentProcess(EnvironmentServer(), limits)
    for call in ("make", OTHER_PROCESS, "contract", "inspect", "floors"):
        assert process._deadline(call) == (70.0, "cluster.start_deadline_s")
    for call in ("step", "baselines", "corpus"):
        assert process._deadline(call) == (3.0, "cluster.env_deadline_s")


@pytest.mark.parametrize(("last", "seconds"), [({}, 6.0), (None, 6.5)])
def test_each_call_within_a_call_has_its_own_deadline(last, seconds):
    """Together they take longer than it; the last one answers, or hangs."""
    replies = [{"begun": name} for name in ("reset", "step", "step")]
    process = EnvironmentProcess(EnvironmentServer(), ProcessLimits(None, 2.0, 2.0))

    async def read(call=None):
        await asyncio.sleep(1.5 if replies or last is not None else 600.0)
        return (replies.pop(0) if replies else last), b""

    process._exchange = process._read = read
    hangs = "environment step: took longer than cluster.env_deadline_s = 2"
    expected = nullcontext() if last == {} else pytest.raises(EnvironmentFailure, match=hangs)

    async def call():
        begin = virtual_time.now()
        with expected:
            await process.call("contract", 0)
        return virtual_time.now() - begin

    assert virtual_time.run(call()) == pytest.approx(seconds)


def test_whoever_gives_up_leaves_the_process_in_order():
    """A call is abandoned half-way: the next call of its process does not read its reply."""

    async def work(pool):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(play(pool, "slow"), 0.3)
        return await play(pool, "good", 5), pool.name("slow")

    limits = ProcessLimits(processes=1)
    environments = {"good": (PLUGIN, {}), "slow": (PLUGIN, {"kind": "slow", "seconds": 1.0})}
    after, name = run(work, environments, 2, limits)
    assert after.question == "5"
    assert after.terminated
    assert name == "test/Plugin-v0"


def test_an_abandoned_call_harms_no_other_episode(caplog):
    """An episode's own deadline ends in a call that hangs: the next ones begin elsewhere."""

    async def abandon(pool):
        async with pool.borrow("busy") as env:
            await hangs_in(env, 200.0)
            await asyncio.wait_for(env.step("10"), 0.1)

    async def work(pool):
        with pytest.raises(TimeoutError):
            await abandon(pool)
        (hanging,) = pool._processes
        (call,) = hanging.abandoned
        after = [await play(pool, "good", seed) for seed in range(2)]
        assert len(pool._processes) == 2
        assert not call.done(), "they have not waited for it"
        os.kill(hanging._pid, signal.SIGKILL)
        await asyncio.wait([call])
        assert hanging.lost
        assert not hanging.abandoned
        return after

    limits = ProcessLimits(processes=1, call_deadline_s=200.0)
    after = run(work, variants("good", "busy"), 2, limits)
    assert [step.question for step in after] == ["0", "1"]
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_server_that_died_is_started_again():
    async def work(pool):
        first = await play(pool, "good")
        os.kill(pool._server._process.pid, signal.SIGKILL)
        assert gone([int(first.metrics["pid"])]), "its processes end with it"
        with pytest.raises(ProcessLost) as lost:
            async with pool.borrow("good") as env:
                await env.reset(0)
        return str(lost.value), await play(pool, "good", 3)

    lost, after = run(work, variants("good"))
    assert lost.startswith("environment reset: its process ")
    assert after.question == "3"


OWNER = f"""
import asyncio, os
from rollout.environments import EnvironmentPool, ProcessLimits

async def main():
    environments = {{kind: ({PLUGIN!r}, {{"kind": kind}}) for kind in ("busy", "parent")}}
    pool = EnvironmentPool(environments, ProcessLimits(), 2)
    async with pool.borrow("busy") as busy, pool.borrow("parent") as parent:
        await busy.reset(0)
        await parent.reset(0)
        await busy.step("1")
        call = asyncio.ensure_future(busy.step("2"))
        await asyncio.sleep(0.2)
        print(pool._server._process.pid, *(p._pid for p in pool._processes), flush=True)
        await call

asyncio.run(main())
"""


def test_everything_ends_with_its_owner_even_when_that_is_killed():
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE)
    server, *processes = map(int, owner.stdout.readline().split())
    children = Path(f"/proc/{processes[1]}/task/{processes[1]}/children")
    everything = [server, *processes, *map(int, children.read_text().split())]
    assert len(everything) == 4
    assert all(map(alive, everything))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert gone(everything)


def test_turns_of_the_plugin():
    """The support of these tests ends after as many turns as they reckon with."""

    async def work(pool):
        async with pool.borrow("good") as env:
            await env.reset(0)
            return [(await env.step("1")).terminated for _ in range(TURNS)]

    assert run(work, variants("good")) == [False] * (TURNS - 1) + [True]
