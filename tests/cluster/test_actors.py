"""The rollout actor without Ray: what it makes of a configuration, and what it passes on."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster import actors
from configs.load import load
from rollout.environments import ProcessLimits

Actor = actors.RolloutActor.__ray_metadata__.modified_class


class FakeEngine:
    def __init__(self):
        self.received = []

    async def receive(self, version, buckets):
        self.received.append((version, buckets))
        return 0.25


class FakeWorker:
    def __init__(self, settings, renderer, environments, limits, processes, in_flight, block, age):
        self.settings, self.environments, self.limits = settings, environments, (limits, processes)
        self.in_flight, self.block, self.engine, self.starts = in_flight, block, None, 0
        self.age = age

    async def start(self):
        self.starts += 1
        await asyncio.sleep(0.01)
        self.engine = FakeEngine()

    async def reconfigure(self, environments, limits, processes):
        self.environments, self.limits = environments, (limits, processes)


@pytest.fixture
def make(monkeypatch):
    """Makes an actor over a fake worker."""

    def made(cfg, processor=None, **options):
        renderer = SimpleNamespace(forbidden=(1,), stop_ids=(2,), processor=processor)
        monkeypatch.setattr(actors, "Renderer", SimpleNamespace(load=lambda folder: renderer))
        monkeypatch.setattr(actors, "RolloutWorker", FakeWorker)
        return Actor(cfg, "folder", {"rollout": ("id", {})}, **options)

    return made


def debug(*overrides):
    return load("gp_l_debug", overrides)


def test_a_worker_among_many_sends_partial_blocks_less_often(make):
    assert make(debug("rollout.workers=40"))._worker.age == 2.0


def test_the_engine_is_started_as_the_run_is_configured(make):
    overrides = (
        "rollout.in_flight=7",
        "rollout.block=5",
        "rollout.context_tokens=99",
        "seed=3",
        "rollout.threads=2",
        "rollout.kv_cache_gib=0.5",
        "rollout.gpu_memory=0.4",
    )
    worker = make(debug(*overrides), channel="nccl")._worker
    settings = worker.settings
    assert (worker.in_flight, worker.block, worker.age) == (7, 5, 0.2)
    assert (settings.folder, settings.channel, settings.dtype) == ("folder", "nccl", "float32")
    assert (settings.max_sequences, settings.context_tokens, settings.threads) == (7, 99, 2)
    assert (settings.kv_cache_gib, settings.gpu_memory, settings.seed) == (0.5, 0.4, 3)
    assert (settings.forbidden, settings.stop_ids, settings.images) == ((1,), (2,), 0)
    assert settings.tensor_parallel == 1
    assert worker.limits[1] == ProcessLimits(), "the defaults are the schema's"


def test_a_model_that_sees_has_room_for_a_picture(make):
    assert make(debug(), processor="p")._worker.settings.images == 1


@pytest.mark.parametrize(("layout", "sleeps"), [("colocated", True), ("disaggregated", False)])
def test_only_an_engine_on_shared_gpus_can_sleep(make, layout, sleeps):
    cfg = debug()
    cfg = replace(cfg, cluster=replace(cfg.cluster, layout=layout))
    assert make(cfg)._worker.settings.sleep_mode == sleeps


def test_the_engine_starts_once_whoever_asks(make):
    actor = make(debug())

    async def start():
        return await asyncio.gather(actor.start(), actor.start())

    assert asyncio.run(start()) == [os.getpid()] * 2
    assert actor._worker.starts == 1


def test_the_next_run_brings_its_environments_and_limits(make):
    actor = make(debug())
    cfg = debug()
    limited = replace(
        cfg.rollout, answer_tokens=11, context_tokens=22, max_turns=9, env_processes=3
    )
    cluster = replace(
        cfg.cluster, episode_deadline_s=33.0, env_deadline_s=44.0, start_deadline_s=55.0
    )
    env = replace(cfg.env, memory_gib=0.5)
    cfg = replace(cfg, rollout=limited, cluster=cluster, env=env)
    asyncio.run(actor.reconfigure(cfg, "environments"))
    limits, processes = actor._worker.limits
    assert actor._worker.environments == "environments"
    assert processes == ProcessLimits(3, 44.0, 55.0, 0.5)
    assert limits.max_turns == 9
    assert (limits.answer_tokens, limits.context_tokens, limits.episode_deadline_s) == (
        11,
        22,
        33.0,
    )


def test_weights_are_fetched_in_their_order_and_given_to_the_engine(make):
    actor = make(debug())

    async def fetched(value):
        return value

    async def receive():
        await actor.start()
        return await actor.receive(4, [fetched("a"), fetched("b")])

    assert asyncio.run(receive()) == 0.25
    assert actor._worker.engine.received == [(4, ["a", "b"])]
