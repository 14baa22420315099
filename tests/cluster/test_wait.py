"""Waiting for another process: each way to wait ends in a value or in a typed error."""

import asyncio
import time

import psutil
import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    ObjectLostError,
    OwnerDiedError,
    WorkerCrashedError,
)

from cluster.failures import DeadlineExceeded, SourceLost, TooManyFailures, WorkerLost
from cluster.wait import (
    _typed_errors,
    is_dead,
    is_gone,
    wait_for,
    wait_for_all,
    wait_for_async,
    wait_until_ready,
)
from tests.support.local_ray import kill, replace_dead
from tests.support.ray_actors import Process

pytestmark = pytest.mark.usefixtures("local_ray")
ASKED = ("worker", "do it", 120.0, "block_deadline_s")
SOON = ("worker", "do it", 0.3, "block_deadline_s")


@pytest.fixture(scope="module")
def started():
    return [Process.remote() for _ in range(2)]


@pytest.fixture
def processes(started):
    """Two that have started; those of the last test, where they live."""
    replace_dead(started, Process.remote)
    return started


@pytest.fixture
def sleeper(processes):
    """One that is busy for the rest of its life."""
    yield processes[1]
    kill(processes[1])


def asynchronously(ref, *asked):
    async def wait():
        return await wait_for_async(ref, *asked)

    return asyncio.run(wait())


@pytest.fixture(params=[wait_for, asynchronously])
def wait(request):
    return request.param


def test_a_value(processes, wait):
    assert wait(processes[0].echo.remote(3), *ASKED) == 3


def test_the_deadline_names_who_what_how_long_and_the_key(sleeper, wait):
    words = r"^worker did not do it within 0\.3 s \(cluster\.block_deadline_s\); the driver waited"
    with pytest.raises(DeadlineExceeded, match=words):
        wait(sleeper.sleep.remote(600), *SOON)


def test_a_death_is_an_answer(processes, wait):
    with pytest.raises(WorkerLost, match=r"^worker was lost while it should do it: "):
        wait(processes[0].die.remote(), *ASKED)


@pytest.mark.parametrize("error", [OSError("no disk"), TimeoutError("no disk")])
def test_an_error_of_the_other_side_is_its_loss(processes, wait, error):
    words = f"^worker was lost while it should do it: {type(error).__name__}: no disk$"
    with pytest.raises(WorkerLost, match=words):
        wait(processes[0].fail.remote(error), *ASKED)


def test_what_a_third_process_took_with_it_is_nobodys_loss_who_would_have_read_it(processes, wait):
    error = OwnerDiedError("0" * 56, None, "")
    with pytest.raises(SourceLost, match=r"^worker could not do it: Owner"):
        wait(processes[0].fail.remote(error), *ASKED)


def test_an_object_that_is_gone_with_its_node_is_told_as_that():
    refs = [ObjectLostError("0" * 56, None, ""), WorkerCrashedError()]
    for error, kind in zip(refs, (SourceLost, WorkerLost), strict=True):
        with pytest.raises(kind, match=r"^block 3 "), _typed_errors("block 3", *ASKED[1:]):
            raise error


def test_a_failure_of_the_run_is_passed_on(processes, wait):
    with pytest.raises(TooManyFailures, match=r"^4 of 20$"):
        wait(processes[0].fail.remote(TooManyFailures("4 of 20")), *ASKED)


def test_all_of_several(processes):
    refs = [process.echo.remote(0) for process in processes]
    wait_for_all(refs, *ASKED, time.monotonic())


def test_the_first_error_of_several_is_raised_at_once_with_its_index(processes, sleeper):
    refs = [sleeper.sleep.remote(600), processes[0].fail.remote(OSError("no disk"))]
    with pytest.raises(WorkerLost, match=r"^worker 1 was lost"):
        wait_for_all(refs, *ASKED, time.monotonic())


def test_several_share_one_deadline_from_their_beginning(processes, sleeper):
    refs = [processes[0].echo.remote(0), sleeper.sleep.remote(600)]
    wait_until_ready(refs[0], *ASKED)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"^worker 1 did not do it within 0\.3 s"):
        wait_for_all(refs, *SOON, begin)
    with pytest.raises(DeadlineExceeded, match="within 120 s"):
        wait_for_all(refs[1:], *ASKED, begin - 121)
    assert time.monotonic() - begin < 60


def test_an_answer_or_an_error_is_waited_for_and_not_read(processes, sleeper):
    for call in ("echo", "fail"):
        ref = getattr(processes[0], call).remote(ValueError("wrong"))
        wait_until_ready(ref, *ASKED)
    with pytest.raises(DeadlineExceeded, match=r"worker did not do it .*block_deadline_s"):
        wait_until_ready(sleeper.sleep.remote(600), *SOON)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (ActorDiedError(), True),
        (ActorUnschedulableError("its node is gone, and it is bound to it"), True),
        (ActorUnavailableError("socket closed", None), False),
    ],
)
def test_what_ray_does_not_restart_is_gone(error, gone):
    with pytest.raises(WorkerLost) as raised, _typed_errors(*ASKED):
        raise error
    assert is_dead(raised.value)
    assert is_gone(raised.value) is gone


def test_a_process_that_hangs_is_ended_long_before_rays_own_five_seconds(processes):
    """Who replaces it waits for that: its place, its memory, and its calls are not free before."""
    ended = []
    for actor in processes:  # the second where the machine was busy during the first one's second
        process = psutil.Process(ray.get(actor.pid.remote(), timeout=60))
        process.suspend()
        ray.kill(actor)
        ended += psutil.wait_procs([process], timeout=4.0)[0]
        if ended:
            return
    pytest.fail("none of two has ended within 4 s: Ray's own five were waited for")
