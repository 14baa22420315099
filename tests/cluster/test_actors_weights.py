"""Which weights a rollout actor fetches and gives to its engine."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cluster import actors
from configs.load import load
from rollout.adapters import Adapter, named_adapter
from rollout.bucket import pack

Actor = actors.RolloutActor.__ray_metadata__.modified_class


class FakeEngine:
    def __init__(self):
        self.received = []

    async def sleep(self):
        pass

    async def receive(self, version, buckets):
        self.received.append((version, buckets))
        return 0.25


class FakeWorker:
    def __init__(self, *settings):
        self.engine = None

    def begin_environments(self):
        pass

    async def start(self):
        self.engine = FakeEngine()


@pytest.fixture
def make(monkeypatch):
    """Makes an actor over a fake worker."""
    renderer = SimpleNamespace(forbidden=(), stop_ids=(), processor=None)
    monkeypatch.setattr(actors, "Renderer", SimpleNamespace(load=lambda folder: renderer))
    monkeypatch.setattr(actors, "RolloutWorker", FakeWorker)
    monkeypatch.setattr(actors, "EngineWatch", lambda *_: SimpleNamespace(race=lambda work: work))
    return lambda: Actor(load("gp_l_debug"), "folder", {"rollout": ("id", {})})


class Reference:
    """Of a bucket in the object store; counts how often it is fetched."""

    def __init__(self, named):
        self.bucket, self.fetched = pack(named), 0

    def hex(self):
        return str(id(self))

    def __await__(self):
        self.fetched += 1
        return self.bucket
        yield  # as an awaitable must


def test_weights_are_fetched_in_their_order_and_given_to_the_engine(make):
    actor = make()
    references = [Reference([("a", torch.ones(1))]), Reference([("b", torch.ones(2))])]

    async def receive():
        await actor.start()
        return await actor.receive(4, references)

    assert asyncio.run(receive()) == 0.25
    assert actor._worker.engine.received == [(4, [reference.bucket for reference in references])]


def test_plain_weights_beside_adapters_are_fetched_once(make):
    actor = make()
    weight = torch.ones(3, 2)
    plain = Reference([("a", weight)])
    sent = [
        Reference(named_adapter("a", Adapter(torch.ones(1, 2), torch.ones(3, 1), scaling)))
        for scaling in (1.0, 5.0)
    ]
    merged = []

    async def receive():
        await actor.start()
        for version, adapters in enumerate(sent):
            await actor.receive(version, [plain, adapters])
            (_, (bucket,)) = actor._worker.engine.received[-1]
            merged.append(bucket.parts[0].view(np.float32).tolist())
        await actor.receive(2, [plain])  # merged by the learner: nothing is kept

    asyncio.run(receive())
    assert merged == [[2.0] * 6, [6.0] * 6]
    assert (plain.fetched, [reference.fetched for reference in sent]) == (1, [1, 1])
    assert actor._plain == {}


def names(actor):
    """Of the weights that each update of the engine brought."""
    received = actor._worker.engine.received
    return ["".join(n for b in buckets for n in b.header.names) for _, buckets in received]


def test_an_engine_loads_what_lasts_once_and_a_new_one_all(make):
    lasting, learned = Reference([("f", torch.ones(1))]), []
    for name in "abc":
        learned.append(Reference([(name, torch.ones(1))]))

    async def receive(actor, references):
        await actor.start()
        for version, reference in enumerate(references):
            await actor.receive(version, [lasting, reference])

    old, new = make(), make()
    asyncio.run(receive(old, learned))
    assert (names(old), lasting.fetched) == (["fa", "b", "c"], 1)
    asyncio.run(receive(new, learned[2:]))
    assert names(new) == ["fc"]


def test_an_engine_whose_weights_are_gone_or_in_doubt_loads_all(make):
    actor = make()
    lasting, learned = (Reference([(name, torch.ones(1))]) for name in "fa")

    async def breaks(version, buckets):
        raise RuntimeError("no room")

    async def receive():
        await actor.start()
        engine = actor._worker.engine
        await actor.receive(0, [lasting, learned])
        actor._worker.engine = SimpleNamespace(receive=breaks)
        with pytest.raises(RuntimeError, match="no room"):
            await actor.receive(1, [lasting, learned])
        actor._worker.engine = engine
        await actor.receive(2, [lasting, learned])
        await actor.receive(3, [lasting, learned])
        await actor.sleep()
        await actor.receive(4, [lasting, learned])

    asyncio.run(receive())
    assert names(actor) == ["fa", "fa", "", "fa"]


def test_what_adapters_were_merged_with_is_no_weight_that_the_engine_has(make):
    actor = make()
    plain = Reference([("a", torch.ones(3, 2))])
    adapters = Reference(named_adapter("a", Adapter(torch.ones(1, 2), torch.ones(3, 1), 1.0)))

    async def receive():
        await actor.start()
        await actor.receive(0, [plain, adapters])
        await actor.receive(1, [plain])

    asyncio.run(receive())
    assert names(actor) == ["a", "a"]
