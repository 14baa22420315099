"""What a rollout actor starts beside its engine, and what it watches."""

from __future__ import annotations

import asyncio
import subprocess
from types import SimpleNamespace

from cluster import actors
from configs.load import load

Actor = actors.RolloutActor.__ray_metadata__.modified_class


def test_environments_import_while_the_engine_starts_and_are_none_of_its_processes(monkeypatch):
    """Else they would be taken for signs of life of an engine that hangs."""
    started, watched = [], []

    class Worker:
        def __init__(self, *settings):
            self.engine = None

        def begin_environments(self):
            started.append(subprocess.Popen(["sleep", "60"]))

        async def start(self):
            started.append(subprocess.Popen(["sleep", "60"]))
            self.engine = object()

    renderer = SimpleNamespace(forbidden=(), stop_ids=(), processor=None)
    monkeypatch.setattr(actors, "Renderer", SimpleNamespace(load=lambda folder: renderer))
    monkeypatch.setattr(actors, "RolloutWorker", Worker)
    monkeypatch.setattr(actors, "processor_seconds", watched.append)
    monkeypatch.setattr(actors, "EngineWatch", lambda engine, silent, spent, clock: spent())
    asyncio.run(Actor(load("gp_l_debug"), "folder", {"rollout": ("id", {})}).start())
    for process in started:
        process.kill()
        process.wait()
    _, engine = started
    assert [[process.pid for process in processes] for processes in watched] == [[engine.pid]]
