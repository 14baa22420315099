"""One way to wait for another process: with a deadline, and with its death as an answer (law 5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.failures import DeadlineExceeded, RunFailure, WorkerLost, first_line


def answer(ref: Any, who: str, what: str, seconds: float, key: str) -> Any:
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
    """
    try:
        return ray.get(ref, timeout=max(0.0, seconds))
    except GetTimeoutError as error:
        raise DeadlineExceeded(who, what, seconds, key) from error
    except (RayActorError, RayTaskError) as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, RunFailure):
            raise cause from error
        raise WorkerLost(who, what, first_line(error)) from error


def answers(
    refs: Sequence[Any], who: str, what: str, seconds: float, key: str, begin: float
) -> None:
    """Wait for all references, each from another process; the first error is told at once.

    Args:
        refs: what was asked for.
        who: what each was asked; its index is added for the error.
        what: as `answer`.
        seconds: how long to wait in all, from `begin` on.
        key: as `answer`.
        begin: time.monotonic() of the first request.

    Raises:
        DeadlineExceeded, WorkerLost: as `answer`.
    """
    waiting = {ref: f"{who} {index}" for index, ref in enumerate(refs)}
    while waiting:
        left = max(0.0, begin + seconds - time.monotonic())
        ready, late = ray.wait(list(waiting), timeout=left)
        if not ready:
            raise DeadlineExceeded(waiting[late[0]], what, seconds, key)
        for ref in ready:
            answer(ref, waiting.pop(ref), what, seconds, key)
