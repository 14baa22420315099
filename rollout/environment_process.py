"""The loop of a process that holds environments.

Input: calls over a socket. Output: checked steps, with their pictures, what a check asks for, or
the one sentence of a failure.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np

from envs import checked, registry
from envs.base import Demonstration, EnvironmentFailure, TextEnv
from envs.baselines import Floor
from envs.checked import CheckedStep
from rollout.environment_inspection import Inspection, baseline_floors, broken_clause, inspect
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
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable()
    stream, process = connection.makefile("rb"), os.getpid()
    environments: dict[int, TextEnv] = {}

    def report(call: str) -> None:
        if os.getpid() != process:  # a fork that an environment made, within a longer call
            os._exit(0)
        connection.sendall(pack({"begun": call}))

    while header := stream.read(HEADER.size):
        call = json.loads(_exactly(stream, HEADER.unpack(header)[0]))
        name = call.pop("call")
        try:
            reply = _answer(environments, name, call, report)
        except EnvironmentFailure as failure:
            reply = pack({"failure": str(failure)})
        except MemoryError:
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # the reply needs some, too
            reply = pack({"failure": f"environment {name}: MemoryError", "memory": True})
        if os.getpid() != process:  # a fork that an environment made, and that goes on here
            os._exit(0)
        connection.sendall(reply)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        os._exit(0)  # the other side died within a message
    return data


def _answer(
    environments: dict[int, TextEnv],
    name: str,
    arguments: JSON,
    report: Callable[[str], None],
) -> bytes:
    call = cast("dict[str, Any]", arguments)  # of this process's owner
    slot: int = call.pop("slot")
    match name:
        case "make":
            environments[slot] = _make(call["env"], call["settings"])
        case "close":
            _close(environments.pop(slot, None))
        case "reset":
            return pack_step(checked.reset(environments[slot], call["seed"]))
        case "step":
            return pack_step(checked.step(environments[slot], call["answer"]))
        case "memory":
            return pack({"bytes": private_bytes()})
        case "inspect":
            return pack_inspection(inspect(environments[slot], report=report, **call))
        case "contract":
            call["folders"] = tuple(map(Path, call["folders"]))
            return pack({"broken": broken_clause(report=report, **call)})
        case "floors":
            return pack({"floors": list(map(_floor, baseline_floors(report=report, **call)))})
    return pack({})


def private_bytes() -> int:
    """Memory that this process shares with no other."""
    with open("/proc/self/smaps_rollup") as lines:
        rows = (line.split() for line in lines if line.startswith("Private_"))
        return 1024 * sum(int(row[1]) for row in rows)


def _make(env_id: str, settings: dict[str, object]) -> TextEnv:
    with checked.boundary("make"):
        return registry.make(env_id, settings)


def _close(env: TextEnv | None) -> None:
    with checked.boundary("close"):
        if env is not None:  # it may never have been made
            env.close()


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


def _floor(floor: Floor) -> JSON:
    """A floor without the function that answers, which stays in this process."""
    fields = {name: getattr(floor, name) for name in ("episodes", "questions", "metrics")}
    return {"name": floor.baseline.name, "description": floor.baseline.description, **fields}


def pack_inspection(seen: Inspection) -> bytes:
    """An inspection as a message; behind it the pictures of all demonstrations."""
    shown = [
        {
            "messages": one.messages,
            "seed": one.seed,
            "shapes": [image.shape for image in one.images],
        }
        for one in seen.demonstrations
    ]
    fields: JSON = {"offered": sorted(seen.offered), "pictures": seen.pictures}
    fields |= {"corpus": seen.corpus, "demonstrations": shown}
    images = [image for one in seen.demonstrations for image in one.images]
    return pack(fields, b"".join(image.tobytes() for image in images))


def unpack_inspection(fields: JSON, data: bytes) -> Inspection:
    """What `pack_inspection` packed."""
    values = cast("dict[str, Any]", fields)  # of its own types, by `pack_inspection`
    pixels, begin, demonstrations = np.frombuffer(data, np.uint8), 0, []
    for one in values["demonstrations"]:
        images = []
        for shape in one["shapes"]:
            end = begin + int(np.prod(shape))
            images.append(pixels[begin:end].reshape(shape))
            begin = end
        messages = tuple(one["messages"])
        demonstrations.append(Demonstration(messages, tuple(images), one["seed"]))
    offered = frozenset(values["offered"])
    return Inspection(offered, values["pictures"], values["corpus"], demonstrations)
