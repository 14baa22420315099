"""`cardinal job`: the state of a submitted job, its log as it is written, and its end.

The log is followed through lost connections; Ctrl-C leaves the job alone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cluster.deadlines import STOP_WAIT, stop_wait_s
from cluster.failures import RunFailure, first_line
from cluster.launch.job_server import connect, use_token
from configs.load import ConfigError
from configs.schema import ClusterConfig

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SILENCE_S, LOST_S = 30.0, 60.0  # without a line; without an answer of the job server


def job(action: str, name: str, address: str | None = None) -> int:
    """Show a submitted job's `status`, follow its `logs` to its exit code, or `stop` it.

    Raises:
        ConfigError: there is no such job; as `connect`.
        RunFailure: as `follow_log`.
    """
    use_token()
    client = connect(address)
    try:
        if action == "stop":
            variables = (client.get_job_info(name).runtime_env or {}).get("env_vars", {})
            client.stop_job(name)
            longest = variables.get(STOP_WAIT, stop_wait_s(ClusterConfig()))
            seconds = float(longest) + 10  # Ray kills it before
            deadline = time.monotonic() + seconds
            while not client.get_job_status(name).is_terminal() and time.monotonic() < deadline:
                time.sleep(1)
        print(_state(client, name), flush=True)
    except RuntimeError as error:
        raise ConfigError(f"job {name}: {first_line(error)}") from error
    return follow_log(client, name) if action == "logs" else 0


def _state(client: JobSubmissionClient, name: str) -> str:
    info = client.get_job_info(name)
    why = (info.message or "").split(", last available logs")[0].replace("\n", " ")
    return f"job {name}: {info.status.value.lower()}" + (f", {why}" if why else "")


def follow_log(client: JobSubmissionClient, name: str) -> int:
    """Print a job's log until it ends; its exit code.

    Ctrl-C leaves the job alone.

    Raises:
        RunFailure: the job server has not answered for a minute.
    """
    try:
        return asyncio.run(_follow(client, name))
    except KeyboardInterrupt:
        print(f"\njob {name} goes on; `cardinal job stop {name}` ends it", file=sys.stderr)
        return 130


async def _lines(client: JobSubmissionClient, name: str) -> AsyncIterator[str]:
    """The log as it comes; in silence the server is asked now and then, so that its loss shows."""
    stream = client.tail_job_logs(name).__aiter__()
    while True:
        line = asyncio.ensure_future(anext(stream))
        try:
            while not (await asyncio.wait({line}, timeout=SILENCE_S))[0]:
                client.get_job_info(name)
            yield line.result()
        except StopAsyncIteration:
            return
        finally:
            line.cancel()


async def _follow(client: JobSubmissionClient, name: str) -> int:
    """The log from its beginning; after a lost connection, from where it was lost."""
    import aiohttp

    printed, answered = 0, time.monotonic()  # characters of the log; the server's last answer
    while True:
        end = 0  # of the log as this connection has sent it: each sends it from the beginning
        try:
            async for text in _lines(client, name):
                begin, end = end, end + len(text)
                print(text[max(0, printed - begin) :], end="", flush=True)
                printed, answered = max(printed, end), time.monotonic()
            info = client.get_job_info(name)
            if info.status.is_terminal():
                break
        except (aiohttp.ClientError, RuntimeError, OSError) as error:
            if time.monotonic() - answered > LOST_S:
                raise RunFailure(
                    f"lost {client.get_address()} for {LOST_S:g} s ({first_line(error)}); the job "
                    f"may go on: `cardinal job logs {name}`"
                ) from error
        await asyncio.sleep(2)
    print(_state(client, name))
    return 0 if info.status.value == "SUCCEEDED" else _exit_code(info.driver_exit_code)


def _exit_code(code: int | None) -> int:
    """The exit code of a driver; 1 if it was killed by a signal or never started."""
    return code if code is not None and 0 < code < 256 else 1
