"""Waits for another process: with a deadline, and with its death as an error.

Each names who was asked, what it should do, how long it may take and the configuration key that
sets this (every-wait-has-a-deadline). `ray.get` itself, with a timeout, fetches demonstrations
(sft_data.py), ends engines (rollout_pool.py) and tells Ray how long a stop may take (stop_wait.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from cluster.failures import DeadlineExceeded, RunFailure, SourceLost, WorkerLost, first_line
from rollout.awake import Awake

LOOK_S, MOMENT_S = 0.5, 1e-6  # between looks at the clock; what is too short to be waited for
T = TypeVar("T")


def wait_for(ref: ObjectRef[T], who: str, what: str, seconds: float, key: str) -> T:
    """The value of a reference.

    Args:
        ref: what an actor was asked for.
        who: who was asked, for the error.
        what: what it should do, an infinitive, for the error.
        seconds: how long to wait.
        key: the configuration key that set the deadline.

    Raises:
        DeadlineExceeded: no answer in time.
        WorkerLost: the other side died or raised; a RunFailure of its own is passed on.
        SourceLost: the other side could not read what a third one had put.
    """
    with _typed_errors(who, what, seconds, key):
        return ray.get(ref, timeout=max(0.0, seconds))


def wait_until_ready(ref: ObjectRef[T], who: str, what: str, seconds: float, key: str) -> None:
    """Wait for an answer, or an error, without reading it; arguments as of `wait_for`.

    Raises:
        DeadlineExceeded: neither in time.
    """
    ready, _ = ray.wait([ref], timeout=max(0.0, seconds))
    if not ready:
        raise DeadlineExceeded(who, what, seconds, key)


async def wait_for_async(ref: Awaitable[T], who: str, what: str, seconds: float, key: str) -> T:
    """As `wait_for`, inside an actor whose other calls continue; time that it is frozen is none."""
    awake = Awake(asyncio.get_running_loop().time)
    with _typed_errors(who, what, seconds, key):
        answer = asyncio.ensure_future(ref)
        try:
            while not answer.done() and (left := seconds - awake()) > MOMENT_S:
                await asyncio.wait({answer}, timeout=min(left, LOOK_S))
            if not answer.done():
                raise TimeoutError
            return answer.result()
        finally:
            answer.cancel()


def wait_for_all(
    refs: Sequence[ObjectRef[T]], who: str, what: str, seconds: float, key: str, begin: float
) -> list[T]:
    """The values of all references, each from another process; the first error is raised at once.

    Args:
        refs: what was asked for.
        who: what each was asked; its index is added for the error.
        what: as `wait_for`.
        seconds: how long to wait in all, from `begin` on.
        key: as `wait_for`.
        begin: time.monotonic() of the first request.

    Raises:
        DeadlineExceeded, WorkerLost: as `wait_for`.
    """
    waiting = {ref: f"{who} {index}" for index, ref in enumerate(refs)}
    values: dict[ObjectRef[T], T] = {}
    while waiting:
        # All that are there at once: each look at many references takes as long as they are many.
        ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not ready:
            left = max(0.0, begin + seconds - time.monotonic())
            ready, late = ray.wait(list(waiting), timeout=left)
        if not ready:
            raise DeadlineExceeded(waiting[late[0]], what, seconds, key)
        for ref in ready:
            values[ref] = wait_for(ref, waiting.pop(ref), what, seconds, key)
    return [values[ref] for ref in refs]


def is_dead(failure: RunFailure) -> bool:
    """Whether who was waited for is gone, or out of reach; else it has raised an error."""
    error = failure.__cause__  # of a missed deadline it is Ray's GetTimeoutError, a RayError
    lives = isinstance(error, RayTaskError) or isinstance(failure, SourceLost | DeadlineExceeded)
    return isinstance(error, RayError) and not lives


def is_gone(failure: RunFailure) -> bool:
    """Whether it is dead for good: Ray does not restart it, or has no place where it may be."""
    return isinstance(failure.__cause__, ActorDiedError | ActorUnschedulableError)


@contextmanager
def _typed_errors(who: str, what: str, seconds: float, key: str) -> Iterator[None]:
    try:
        yield
    except (RayActorError, RayTaskError) as error:  # first: a task's own TimeoutError is both
        cause = getattr(error, "cause", None)
        if isinstance(cause, RunFailure):
            raise cause from error
        if isinstance(cause, ObjectLostError):
            raise SourceLost(f"{who} could not {what}: {first_line(cause)}") from error
        raise WorkerLost(who, what, first_line(error)) from error
    except TimeoutError as error:  # Ray's GetTimeoutError is one
        raise DeadlineExceeded(who, what, seconds, key) from error
    except ObjectLostError as error:  # with its owner, or with the node that it was on
        raise SourceLost(f"{who} could not {what}: {first_line(error)}") from error
    except RayError as error:  # as a process that is lost to a full memory
        raise WorkerLost(who, what, first_line(error)) from error
