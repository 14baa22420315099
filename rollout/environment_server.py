"""The server that forks the processes of environments, and its client.

The server has imported what environments need, and runs no thread, torch or Ray: forking it takes
milliseconds and is safe. It ends its processes and their groups when they end, and all that they
started, in sessions of their own too, when it or its parent ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from rollout.environment_process import JSON, serve

END_S = 5.0  # for a killed process to be gone
PARENT_CHECK_S = 1.0  # a fork of the parent may hold the socket open after the parent's death
WITH_SERVER = "ended with its server"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
T = TypeVar("T")
_CODE = (
    "import sys; sys.path[:] = {path!r}; from rollout.environment_server import main; "
    "main({fd}, {parent}, {modules!r})"
)


class EnvironmentServer:
    """The client: starts the server when it is first needed, and again if it died.

    modules: that the server imports for all processes; none that starts a thread.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = list(modules)
        self._one_request = asyncio.Lock()
        self._exchanges: set[asyncio.Task[dict[str, object]]] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = self._closed = False
        self._control: socket.socket

    def begin(self) -> None:
        """Start the server, unless it is there: it imports while others start."""
        if self._process is not None and self._process.poll() is None:
            return
        self._ready = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            code = _CODE.format(
                path=sys.path, fd=theirs.fileno(), parent=os.getpid(), modules=self._modules
            )
            # Their libraries would start a thread for each core, in each process.
            one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what environments print is no output of a command
                env=os.environ | one_thread,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    async def fork(
        self, memory_bytes: int
    ) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """A new process: its id, and the two ends of its calls.

        Raises:
            OSError: the server cannot start, or cannot fork.
        """
        ours, theirs = socket.socketpair()
        with ExitStack() as failed:
            failed.callback(ours.close)  # by which a process that nobody waits for ends
            reply = await self._ask({"fork": memory_bytes}, theirs)
            if "error" in reply:
                raise OSError(reply["error"])
            ours.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
            failed.pop_all()
            return int(str(reply["pid"])), reader, writer

    async def end(self, pid: int) -> str:
        """End a process, with all that it started; how it ended, in words."""
        try:
            return str((await self._ask({"end": pid}))["status"])
        except OSError as error:
            return f"was {WITH_SERVER}: {error}"

    async def close(self) -> None:
        """End the server and all its processes, for good."""
        self._closed = True
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        if self._process is not None:
            self._control.close()
            try:
                await asyncio.to_thread(self._process.wait, 2 * END_S)
            except subprocess.TimeoutExpired:  # it hangs in its start: it has forked nothing
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
            self._process = None

    async def _ask(self, request: JSON, theirs: socket.socket | None = None) -> dict[str, object]:
        # Shielded: whoever asks may give up, the next request must not read this one's reply.
        exchange = asyncio.ensure_future(self._exchange(request, theirs))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        exchange.add_done_callback(retrieve)
        return await asyncio.shield(exchange)

    async def _exchange(self, request: JSON, theirs: socket.socket | None) -> dict[str, object]:
        with theirs or nullcontext():
            async with self._one_request:
                if self._closed:
                    raise OSError("the server of environment processes is closed")
                self.begin()
                if not self._ready:
                    await self._reply()
                    self._ready = True
                fds = [theirs.fileno()] if theirs else []
                socket.send_fds(self._control, [json.dumps(request).encode()], fds)
                return await self._reply()

    async def _reply(self) -> dict[str, object]:
        data = await asyncio.get_running_loop().sock_recv(self._control, 4096)
        if not data:
            raise OSError("the server of environment processes died")
        reply: dict[str, object] = json.loads(data)
        return reply


def retrieve(task: asyncio.Task[T]) -> None:
    """Mark the exception of a task as seen; asyncio prints one that nobody waits for."""
    if not task.cancelled():
        task.exception()


def main(control_fd: int, parent: int, modules: list[str]) -> None:
    """Fork and end processes as the control socket says, until the parent is gone.

    modules: imported first, so that no process imports them again.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for module in modules:
        importlib.import_module(module)
    control = socket.socket(fileno=control_fd)
    control.send(b"{}")  # what is imported is imported
    children: dict[int, str] = {}  # how each ended, "" while it has not
    while os.getppid() == parent:
        _reap(children)
        if not select.select([control], [], [], PARENT_CHECK_S)[0]:
            continue
        request, fds, _, _ = socket.recv_fds(control, 4096, 1)
        if not request:
            break
        control.send(json.dumps(_answer(control, children, json.loads(request), fds)).encode())
    _end_all({pid for pid, ending in children.items() if not ending})


def _answer(
    control: socket.socket, children: dict[int, str], request: dict[str, int], fds: list[int]
) -> JSON:
    if "end" in request:
        return {"status": _end(children, request["end"])}
    try:
        pid = _fork(control, socket.socket(fileno=fds[0]), request["fork"])
    except OSError as error:  # too many processes, too little memory
        return {"error": str(error)}
    children[pid] = ""
    return {"pid": pid}


def _fork(control: socket.socket, connection: socket.socket, memory_bytes: int) -> int:
    server, pid = os.getpid(), os.fork()
    if pid:
        connection.close()
        return pid
    code = 1
    try:
        control.close()
        os.setsid()  # a group of its own: what it starts ends with it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server:
            serve(connection, memory_bytes)
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())
        os._exit(code)


def _reap(children: dict[int, str]) -> None:
    """End what the processes that have ended had started."""
    for pid, ending in children.items():
        if not ending and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            children[pid] = _end_group(pid)
    for pid in _own_children() - children.keys():  # started in a session of their own
        os.waitpid(pid, os.WNOHANG)


def _end_all(running: set[int]) -> None:
    """End processes, and what they started in sessions of their own, which become its own then."""
    for pid in running:
        _kill(pid)
    deadline = time.monotonic() + END_S
    while (pids := _own_children()) and time.monotonic() < deadline:
        for pid in pids:
            _kill(pid)
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)


def _own_children() -> set[int]:
    """Processes whose parent is this one, ended ones too that nobody has waited for."""
    try:
        return set(map(int, Path("/proc/thread-self/children").read_text().split()))
    except FileNotFoundError:  # a kernel without the list
        return set()


def _end(children: dict[int, str], pid: int) -> str:
    """End a process, unless it has ended; how it ended, in words."""
    return children.pop(pid, WITH_SERVER) or _end_group(pid)


def _end_group(pid: int) -> str:
    """End a process that was not waited for, and what it started."""
    _kill(pid)
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return words(status)
        time.sleep(0.002)
    return f"does not end within {END_S:g} s of SIGKILL"


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group is there once the process has made it
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def ended_from_outside(ending: str) -> bool:
    """Whether a process that ended in these words was killed: for memory, by a person, or so."""
    return WITH_SERVER in ending or ending == words(signal.SIGKILL)


def words(status: int) -> str:
    """How a process ended: its exit code, or its signal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    return f"was ended by {signal.Signals(-code).name}"
