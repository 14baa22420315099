"""The server of environment processes: forks, says how they ended, ends them."""

import asyncio
import os
import signal

import pytest

from rollout.environment_process import HEADER, pack
from rollout.environment_server import EnvironmentServer, words


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
