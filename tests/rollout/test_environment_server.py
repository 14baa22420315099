"""The server of environment processes: forks, says how they ended, ends them."""

import asyncio
import gc
import os
import signal
from pathlib import Path

import pytest

from rollout.environment_process import HEADER, pack
from rollout.environment_server import EnvironmentServer, words
from tests.rollout.test_environments import gone
from tests.support.plugins import PLUGIN


def test_an_ending_has_words():
    assert words(0) == "exited with code 0"
    assert words(7 << 8) == "exited with code 7"
    assert words(signal.SIGSEGV) == "was ended by SIGSEGV"


def test_it_forks_and_says_how_each_process_ended():
    async def work():
        server = EnvironmentServer(["json"])
        first, second = [await server.fork(0) for _ in range(2)]
        assert first[0] != second[0]
        os.kill(first[0], signal.SIGTERM)
        assert await first[1].read() == b"", "the death arrives as the end of the stream"
        await asyncio.sleep(1.2)  # the server has noticed by itself
        assert await server.end(first[0]) == "was ended by SIGTERM"
        assert await server.end(first[0]) == "ended with its server", "it knows it no more"
        second[2].write(pack({"call": "close", "slot": 0}))
        assert await second[1].readexactly(HEADER.size + 2) == pack({})
        assert await server.end(second[0]) == "was ended by SIGKILL"
        await server.close()
        with pytest.raises(OSError, match="is closed"):
            await server.fork(0)
        return await server.end(second[0])

    assert asyncio.run(work()) == (
        "was ended with its server: the server of environment processes is closed"
    )


def test_a_server_that_cannot_import_is_an_error():
    async def work():
        with pytest.raises(OSError, match="the server of environment processes died"):
            await EnvironmentServer(["no_such_module"]).fork(0)

    asyncio.run(work())


def test_one_that_began_before_it_was_needed_is_the_one_that_forks(tmp_path, monkeypatch):
    """It imports beside its caller, who may ask for a process before it is ready."""
    (tmp_path / "takes_a_while.py").write_text("import time; time.sleep(0.3)")
    monkeypatch.syspath_prepend(tmp_path)

    async def work():
        server = EnvironmentServer(["takes_a_while"])
        server.begin()
        first = server._process
        server.begin()
        pid, *_ = await server.fork(0)
        assert str(pid) in children(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.to_thread(first.wait)
        pid, *_ = await server.fork(0)
        assert server._process is not first
        assert str(pid) in children(server._process.pid)
        await server.close()

    asyncio.run(asyncio.wait_for(work(), 60))


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_whoever_gives_up_leaves_the_next_reply_to_the_next_request(tmp_path, monkeypatch):
    """A deadline ends during the server's start, then during a fork."""
    (tmp_path / "starts_slowly.py").write_text(
        "import pathlib, time\n"
        "for _ in range(60_000):\n"
        f"    if pathlib.Path({str(tmp_path / 'goes on')!r}).exists(): break\n"
        "    time.sleep(0.01)"
    )
    monkeypatch.syspath_prepend(tmp_path)

    async def work():
        server = EnvironmentServer(["starts_slowly"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.fork(0), 0.1)
        (tmp_path / "goes on").touch()
        first = await server.fork(0)
        os.kill(server._process.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.fork(0), 0.1)
        os.kill(server._process.pid, signal.SIGCONT)
        second = await server.fork(0)
        os.kill(second[0], signal.SIGTERM)
        assert await second[1].read() == b"", "the process of its own connection"
        assert await server.end(second[0]) == "was ended by SIGTERM"
        deadline = asyncio.get_running_loop().time() + 60.0
        while children(server._process.pid) != [str(first[0])]:  # the abandoned ones end
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert await server.end(first[0]) == "was ended by SIGKILL"
        await server.close()

    asyncio.run(work())


def test_a_failed_request_that_nobody_waits_for_is_quiet(tmp_path, monkeypatch, caplog):
    (tmp_path / "never_starts.py").write_text("import time; time.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)

    async def work():
        server = EnvironmentServer(["never_starts"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.fork(0), 0.1)
        (exchange,) = server._exchanges
        os.kill(server._process.pid, signal.SIGKILL)
        await asyncio.wait([exchange])
        del exchange
        await server.close()
        assert not server._exchanges

    asyncio.run(work())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_server_that_hangs_in_its_start_is_ended(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("rollout.environment_server.END_S", 0.1)

    async def work():
        server = EnvironmentServer(["hangs"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.fork(0), 0.1)
        process = server._process
        await server.close()
        return process.returncode

    assert asyncio.run(work()) == -signal.SIGKILL


def test_closing_waits_for_no_request():
    async def work():
        server = EnvironmentServer()
        await server.end(1)
        os.kill(server._process.pid, signal.SIGSTOP)
        ending = asyncio.ensure_future(server.end(1))
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_later(0.2, os.kill, server._process.pid, signal.SIGCONT)
        await server.close()
        with pytest.raises(asyncio.CancelledError):
            await ending

    asyncio.run(work())


def test_what_a_process_started_in_a_session_of_its_own_ends_with_the_server():
    """It outlives its process, is waited for when it ends by itself, and is ended at the latest."""

    async def started(server):
        process = await server.fork(0)
        call = {"call": "make", "slot": 0, "env": PLUGIN, "settings": {"kind": "daemon"}}
        process[2].write(pack(call))
        assert await process[1].readexactly(HEADER.size + 2) == pack({})
        (child,) = children(process[0])
        assert await server.end(process[0]) == "was ended by SIGKILL"
        return child

    async def work():
        server = EnvironmentServer()
        first = await started(server)
        assert children(server._process.pid) == [first]
        os.kill(int(first), signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + 60.0
        while children(server._process.pid):
            assert asyncio.get_running_loop().time() < deadline, "it is a zombie"
            await asyncio.sleep(0.02)
        second = await started(server)
        await server.close()
        return second

    assert gone([int(asyncio.run(work()))])
