"""What travels between a worker and an environment's process."""

import json
import socket
import subprocess
import sys

import numpy as np

from configs.paths import ROOT
from envs.checked import CheckedStep
from rollout.environment_process import HEADER, pack, pack_step
from rollout.pictures import Picture
from tests.support.environments import over_the_socket
from tests.support.plugins import PLUGIN

PIXELS = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)

SERVE = """
import socket
from rollout.environment_process import serve
used = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
serve(socket.socket(fileno={fd}), {spare} and used + {spare})
"""


def shown(restart):
    return {"message": "Straße “翠”", "restart": restart, "image": PIXELS}


def test_a_step_arrives_as_it_left():
    left = CheckedStep(shown(1), "which?", -0.1, False, True, "no", {"success": 0.0})
    step = over_the_socket(left)
    assert step.picture == Picture.of(PIXELS)
    assert (step.message, step.restart, step.question) == ("Straße “翠”", 1, "which?")
    assert (step.reward, step.terminated, step.truncated) == (-0.1, False, True)
    assert (step.note, step.metrics) == ("no", {"success": 0.0})


def test_a_picture_travels_where_it_is_shown():
    assert over_the_socket(CheckedStep(shown(0))).picture is None
    assert len(pack_step(CheckedStep(shown(0)))) < len(pack_step(CheckedStep(shown(1))))


class Caller:
    """The other side of `serve`, which runs in a process with `spare` bytes of memory to take."""

    def __init__(self, spare=0):
        self.ours, theirs = socket.socketpair()
        with theirs:
            code = SERVE.format(fd=theirs.fileno(), spare=spare)
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, pass_fds=[theirs.fileno()]
            )

    def __call__(self, name, slot=0, **arguments):
        self.ours.sendall(pack({"call": name, "slot": slot, **arguments}))
        text, data = HEADER.unpack(self.read(HEADER.size))
        return json.loads(self.read(text)), self.read(data)

    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.ours.recv(size - len(data))
            assert part, "the process ended"
            data += part
        return data

    def end(self):
        self.ours.close()
        return self.process.wait(timeout=60)


def test_calls_reach_the_environment_of_their_slot():
    call = Caller()
    assert call("make", 0, env=PLUGIN, settings={})[0] == {}
    assert call("make", 1, env=PLUGIN, settings={"kind": "raising"})[0] == {}
    assert call("reset", 0, seed=4)[0]["question"] == "4"
    assert call("reset", 1, seed=5)[0]["question"] == "5"
    for _ in range(2):
        step = call("step", 0, answer="10")[0]
        failure = call("step", 1, answer="10")[0]
    assert (step["reward"], step["question"]) == (1.0, "4")
    assert failure == {"failure": "environment step: the map is missing"}
    assert call("close", 1)[0] == {}
    assert call("close", 1)[0] == {}, "what is not there is closed"
    call("make", 2, env=PLUGIN, settings={"kind": "unclosable"})
    assert "the door is stuck" in call("close", 2)[0]["failure"]
    assert call("close", 2)[0] == {}, "it is closed once, whatever came of it"
    assert call("make", 1, env=PLUGIN, settings={"kind": "x", "y": 1})[0]["failure"].startswith(
        "environment make: "
    )
    assert call("step", 0, answer="10")[0]["terminated"] is False
    assert call("step", 0, answer="10")[0]["metrics"]["success"] == 1.0
    assert call.end() == 0


def test_memory_over_the_limit_is_told():
    call = Caller(spare=2**28)
    call("make", env=PLUGIN, settings={"kind": "leak"})
    call("reset", seed=0)
    call("step", answer="10")
    reply, _ = call("step", answer="10")
    assert reply == {"failure": "environment step: MemoryError", "memory": True}
    assert call.end() == 0
