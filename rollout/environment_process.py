"""The loop of a process that holds environments.

Input: calls over a socket. Output: checked steps, with their pictures, or the one sentence of a
failure.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import socket
import struct
from collections.abc import Mapping
from typing import BinaryIO, TypeAlias

from envs import checked, registry
from envs.base import EnvironmentFailure, TextEnv
from envs.checked import CheckedStep
from rollout.pictures import Picture

HEADER = struct.Struct("!II")  # bytes of the JSON, bytes of the picture behind it

JSON: TypeAlias = dict[str, object]


def pack(message: Mapping[str, object], data: bytes = b"") -> bytes:
    """One message of either direction."""
    text = json.dumps(message).encode()
    return HEADER.pack(len(text), len(data)) + text + data


def serve(connection: socket.socket, memory_bytes: int) -> None:
    """Answer calls until the other side is gone."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable()
    stream = connection.makefile("rb")
    environments: dict[int, TextEnv] = {}
    while header := stream.read(HEADER.size):
        call = json.loads(_exactly(stream, HEADER.unpack(header)[0]))
        try:
            reply = _answer(environments, call)
        except EnvironmentFailure as failure:
            reply = pack({"failure": str(failure)})
        except MemoryError:
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # the reply needs some, too
            reply = pack({"failure": f"environment {call['call']}: MemoryError", "memory": True})
        connection.sendall(reply)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        os._exit(0)  # the other side died within a message
    return data


def _answer(environments: dict[int, TextEnv], call: dict[str, object]) -> bytes:
    slot, name = int(str(call["slot"])), call["call"]
    if name == "make":
        environments[slot] = _make(str(call["env"]), call["settings"])
        return pack({})
    if name == "close":
        _close(environments.pop(slot, None))
        return pack({})
    env = environments[slot]
    if name == "reset":
        return pack_step(checked.reset(env, int(str(call["seed"]))))
    return pack_step(checked.step(env, str(call["answer"])))


def _make(env_id: str, settings: object) -> TextEnv:
    assert isinstance(settings, dict)
    try:
        return registry.make(env_id, settings)
    except MemoryError:
        raise
    except Exception as error:  # the boundary to environments, third-party ones too
        raise checked.failure_of("make", error) from error


def _close(env: TextEnv | None) -> None:
    try:
        if env is not None:  # it may never have been made
            env.close()
    except Exception as error:  # the boundary to environments, third-party ones too
        raise checked.failure_of("close", error) from error


def pack_step(step: CheckedStep) -> bytes:
    """A step as a message; its picture where a prompt begins, for it is shown there alone."""
    fields: JSON = step._asdict()
    fields |= {"message": step.observation["message"], "note": step.message}
    fields["restart"] = step.observation["restart"]
    del fields["observation"]
    if "image" not in step.observation or not step.observation["restart"]:
        return pack(fields)
    picture = Picture.of(step.observation["image"])
    fields["picture"] = [picture.key, picture.height, picture.width]
    return pack(fields, bytes(picture.data))
