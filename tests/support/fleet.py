"""A supervisor's fleet without Ray: rollout actors whose fates are written down, and a log."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace

from ray.exceptions import ActorUnavailableError


def unavailable():
    return ActorUnavailableError("socket closed", None)


class Worker:
    """A rollout actor: `fate` is what its calls meet; Ray restarts it after `restart` calls."""

    def __init__(self):
        self.fate, self.pid, self.starts, self.kills, self.restarting = None, 1, 0, 0, 0
        self.start_fates, self.runs = [], []
        for name in ("start", "reconfigure", "node", "heartbeat", "work"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    async def _meet(self):
        """Wait until the actor's fate is there, and suffer it."""
        while self.fate is None:
            await asyncio.sleep(0.005)
        if self.fate == "hangs":
            await asyncio.sleep(1000)
        raise self.fate

    async def _heartbeat(self, seconds):
        if self.restarting:
            self.restarting -= 1
            if not self.restarting:
                self.restart()
            raise unavailable()
        if self.fate is not None or seconds:
            try:
                await asyncio.wait_for(self._meet(), seconds or 1000)
            except TimeoutError:
                if self.fate == "hangs":
                    await asyncio.sleep(1000)
        return self.pid

    async def _start(self):
        if self.start_fates and (fate := self.start_fates.pop(0)):
            raise fate
        self.starts += 1
        return self.pid

    async def _reconfigure(self, cfg, environments):
        self.runs.append(environments["rollout"])

    async def _node(self):
        return f"node {self.pid}"

    async def _work(self, result, seconds=0.0):
        if seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._meet(), seconds)
        return result

    def die(self, restarting=2):
        self.fate, self.restarting = unavailable(), restarting

    def restart(self):
        self.fate, self.pid = None, self.pid + 1

    def kill(self):
        self.kills += 1
        self.restart()


class FleetLog:
    def __init__(self):
        self.losses, self.failures, self.calls, self.prepared = [], [], 0, []

    def lost(self, index, cause):
        self.losses.append((index, cause))
        return {"episodes": 3}

    async def prepare(self, index):
        await asyncio.sleep(0.02)
        error = self.prepared.pop(0) if self.prepared else None
        if error:
            raise error
        return {"proof": "replayed"}

    async def present(self):
        self.calls += 1

    async def fail(self, failure):
        self.failures.append(failure)
