"""Actors of tests, in a file of few imports: each new process of Ray's imports its actor's file."""

from __future__ import annotations

import asyncio
import os
import time

import numpy as np
import ray

SMALL_BYTES = 2000  # no block of trajectories has fewer


@ray.remote(num_cpus=0, max_concurrency=2)
class Process:
    def echo(self, value):
        return value

    def sleep(self, seconds):
        time.sleep(seconds)

    def fail(self, error):
        raise error

    def die(self):
        os._exit(1)

    def pid(self):
        return os.getpid()


@ray.remote(num_cpus=0)
class Small:
    def block(self):
        return bytes(SMALL_BYTES)


@ray.remote(num_cpus=0, max_restarts=-1)
class HangsInItsStart:
    """In the buffer's place: its first process never comes to an end of its start."""

    def __init__(self, folder):
        self.noted, begun = [], folder / "begun"
        if not begun.exists():
            begun.touch()
            time.sleep(3000)

    def heartbeat(self):
        pass

    def note(self, incident):
        self.noted.append(incident)

    def notes(self):
        return self.noted


class ScriptedWorkerBase:
    """An actor whose engine is always there."""

    async def start(self):
        return os.getpid()

    async def reconfigure(self, cfg, environments):
        self.cfg = cfg

    async def node(self):
        return "here"

    async def heartbeat(self, seconds):
        await asyncio.sleep(seconds)
        return os.getpid()

    async def enter(self, epoch):
        pass


@ray.remote(max_concurrency=4, num_cpus=0)
class Receiver(ScriptedWorkerBase):
    """Answers `receive` like a RolloutActor; keeps names and sums by version."""

    def __init__(self):
        self.received = {}

    async def receive(self, version, refs):
        buckets = [await ref for ref in refs]
        if version == 0:
            await asyncio.sleep(600)
        if version < 0:
            raise RuntimeError("no room\nand much more")
        for part in (part for bucket in buckets for part in bucket.parts):
            assert isinstance(part, np.ndarray)
            assert not part.flags.writeable
        self.received[version] = [
            [
                (name, float(part.view(np.float32).sum()))
                for name, part in zip(bucket.header.names, bucket.parts, strict=True)
            ]
            for bucket in buckets
        ]
        return 0.5

    def got(self):
        return self.received

    def forget(self):
        self.received.clear()


@ray.remote(max_concurrency=4, num_cpus=0)
class ScriptedEngine:
    """Answers a channel's calls like a RolloutActor, and breaks at one of them on request."""

    def __init__(self):
        self.at, self.how, self.calls, self.over = "", "", [], asyncio.Event()

    async def script(self, at="", how=""):
        """Begin another test; what still hangs in the last one ends."""
        self.over.set()
        self.at, self.how, self.calls, self.over = at, how, [], asyncio.Event()

    async def _note(self, name, value=None):
        if name == self.at:
            if self.how == "dies":
                os._exit(1)
            if self.how == "raises":
                raise RuntimeError("CUDA error: out of memory\nand much more")
            await self.over.wait()
            return
        self.calls.append((name, value))

    async def init_weight_transfer(self, info):
        await self._note("join", info)

    async def start_weight_update(self):
        await self._note("begin")

    async def update_weights(self, message):
        await self._note("update", message)

    async def finish_weight_update(self, version):
        await self._note("finish", version)

    def got(self):
        return self.calls
