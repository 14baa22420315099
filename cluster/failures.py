"""What can go wrong between processes, as exception types; each names who, what and how long.

Messages are one line, for the terminal; the traceback of the cause stays in Ray's logs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from configs.load import ConfigError

MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|low on memory|lack of memory|allocate memory",
    re.IGNORECASE,
)
LONGEST = 800  # characters of a cause
DIED = "health_check_failure"  # of Ray Train's error for a rank that is gone: what Ray said of it


_this_process = "the driver"


def name_process(name: str) -> None:
    """Say which part of a run this process is, for the errors of what it waits for in vain."""
    global _this_process
    _this_process = name if name[-1].isdigit() or name[0].isupper() else f"the {name}"


class RunFailure(RuntimeError):
    """The run cannot continue; the message is one clear line."""


class DeadlineExceeded(RunFailure):
    """A process did not answer in time (every-wait-has-a-deadline).

    waiter: the process that waited; None is this one.
    silent_s: how long before its end who was waited for gave its last sign of life, where known.
    """

    def __init__(
        self,
        who: str,
        what: str,
        seconds: float,
        key: str,
        waiter: str | None = None,
        silent_s: float | None = None,
    ) -> None:
        self.waiter = waiter or _this_process
        super().__init__(who, what, seconds, key, self.waiter, silent_s)
        self.seconds = seconds
        self.line = f"{who} did not {what} within {seconds:g} s (cluster.{key}); "
        self.line += f"{self.waiter} waited for it"
        if silent_s is not None:
            self.line += f"; {who} gave its last sign of life {silent_s:.1f} s before that"

    def with_last_sign(self, silent_s: float) -> DeadlineExceeded:
        """The same with what its waiter knows of the other side besides."""
        who, what, seconds, key, waiter, _ = self.args
        return DeadlineExceeded(who, what, seconds, key, waiter, silent_s)

    def __str__(self) -> str:
        return self.line


class WorkerLost(RunFailure):
    """A process died or broke; carries its first cause."""

    def __init__(self, who: str, what: str, cause: str) -> None:
        super().__init__(who, what, cause)
        self.line = f"{who} was lost while it should {what}: {cause}"

    def __str__(self) -> str:
        return self.line


class EpochOver(RunFailure):
    """A restarted learner group has begun another epoch: what the caller belongs to is no more."""


class SourceLost(RunFailure):
    """What a process should have read from the object store is gone with whoever put it there."""


class StateLost(RunFailure):
    """A resumable state cannot be read; the run goes on from an older one."""


class TooManyFailures(RunFailure):
    """More trajectories failed than `most_failures` (failure-is-not-a-reward)."""


def most_failures(rate: float, episodes: int) -> float:
    """How many of some episodes may fail where a share of all does.

    Two standard deviations of a binomial draw above its mean: of few, one may fail by chance.
    """
    return rate * episodes + 2 * math.sqrt(rate * (1 - rate) * episodes)


class PlacementError(RunFailure):
    """The cluster cannot hold the run; names the resource that is short."""


class BusyError(Exception):
    """Others use what the run needs, and it may be free later: exit code 75, not 2."""


class ClusterBusyError(PlacementError, BusyError):
    """The cluster is large enough, but others use what the run needs."""


class InUseError(ConfigError, BusyError):
    """This machine is large enough, or the folder right, but another process uses it now."""


class RunStopped(RunFailure):
    """The run was asked to end (a signal, `cardinal job stop`); what it has learned is saved."""


class OutOfMemory(RunFailure):
    """A process of the run took more memory than there is."""


class ParityError(RunFailure):
    """Engine and learner disagree about log-probabilities (weights-are-proven)."""


def out_of_memory(text: str) -> bool:
    """Whether the words of a failure, by torch, Ray, the kernel or Python, speak of full memory."""
    return MEMORY.search(text) is not None


def first_line(error: BaseException) -> str:
    """The innermost cause of an error that crossed Ray, on one line."""
    cause = error
    while inner := _cause_in_ray(cause):
        cause = inner
    text = str(cause).strip() or type(cause).__name__
    return f"{type(cause).__name__}: {_death(text) or text.splitlines()[0].strip()}"[:LONGEST]


def cause_of_ranks(errors: Mapping[int, Exception]) -> str:
    """Why a learner group is lost, by its ranks' errors, on one line.

    That of a rank that died, where one did: the others then fail for want of it.
    """
    rank = min(errors, key=lambda rank: (not hasattr(errors[rank], DIED), rank))
    return f"rank {rank}: {first_line(errors[rank])}"


def _cause_in_ray(error: BaseException) -> BaseException | None:
    """What an error of Ray's wraps."""
    inner = getattr(error, DIED, None) or getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else None


def _death(text: str) -> str | None:
    """Of Ray's words for an actor that died: its process and how it ended; None for others.

    Their first line names neither.
    """
    detail = re.search(r"exit detail: (.+?)(?:\. |\.?\n|\.?$)", text)
    if detail is None:
        return None
    pid = re.search(r"pid: (\d+)", text)
    return f"process {pid[1]} ended: {detail[1]}" if pid else detail[1]
