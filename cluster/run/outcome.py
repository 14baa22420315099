"""What a command that an error has ended says last, and its exit code."""

from __future__ import annotations

from cluster.exit_codes import ExitCode
from cluster.failures import BusyError, OutOfMemory, PlacementError, RunFailure, out_of_memory
from cluster.run.stop_signals import Terminated
from configs.load import ConfigError
from envs.base import EnvironmentFailure

# Others are bugs: they are raised, with their traceback.
KNOWN = (
    *(BusyError, ConfigError, RunFailure, EnvironmentFailure),
    *(OSError, MemoryError, KeyboardInterrupt),
)
HANGS = ("the run's processes hang", ExitCode.FAILED)  # without an error, and not done either


def outcome(error: BaseException) -> tuple[str, ExitCode]:
    """The line and the code."""
    match error:
        case Terminated():
            return f"ended by {error}", ExitCode.TAKEN_AWAY
        case KeyboardInterrupt():
            return "interrupted", ExitCode.INTERRUPTED  # a run says itself where it goes on
        case BusyError():
            return str(error), ExitCode.TAKEN_AWAY
        case ConfigError() | PlacementError():
            return str(error), ExitCode.REFUSED
        case MemoryError():
            return f"this process is out of memory: {error}".rstrip(": "), ExitCode.OUT_OF_MEMORY
        case RunFailure() if isinstance(error, OutOfMemory) or out_of_memory(str(error)):
            return str(error), ExitCode.OUT_OF_MEMORY
        case RunFailure() | EnvironmentFailure():
            return str(error), ExitCode.FAILED
        case _:  # a full disk, a folder that may not be written
            return f"{type(error).__name__}: {error}", ExitCode.FAILED
