"""One way to wait for another process: with a deadline, and with its death as an answer (law 5)."""

from __future__ import annotations

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
