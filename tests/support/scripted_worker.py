"""What a scripted rollout actor answers to its supervisor."""

from __future__ import annotations

import asyncio
import os


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
