"""Weights as objects: every worker gets every bucket once, and a lost one is named."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch

from cluster.failures import DeadlineExceeded, WorkerLost
from cluster.handles import BufferHandle
from cluster.stream.buffer import TrajectoryBuffer
from cluster.weights import object_store
from cluster.weights.object_store import ObjectStoreChannel, publish
from learner.checkpoint_layout import shape_bytes
from learner.engine import TrainingEngine
from tests.support.learner import config, save_llama
from tests.support.local_ray import kill, replace_dead
from tests.support.ray_actors import Receiver

pytestmark = pytest.mark.usefixtures("local_ray")


class Gathered:
    """A training engine's weights; counts how far they were gathered."""

    def __init__(self):
        self.limit, self.gathered, self.perturbed = 0, 0, None

    def weights(self, limit, frozen):
        if frozen:
            return
        self.limit = limit
        for bucket in ([("a", torch.ones(100))], [("b", torch.ones(50)), ("c", torch.ones(1))]):
            self.gathered += 1
            yield bucket


@pytest.fixture(scope="module")
def receivers():
    made = [Receiver.remote() for _ in range(2)]
    yield made
    for receiver in made:
        ray.kill(receiver)


@pytest.fixture
def workers(receivers):
    replace_dead(receivers, Receiver.remote)
    ray.get([receiver.forget.remote() for receiver in receivers], timeout=300)
    return list(receivers)


def buffer_of(workers, cfg):
    """A buffer that replaces none of its workers."""
    buffer = BufferHandle(TrajectoryBuffer.remote(workers, cfg, False))
    ray.get(buffer.start.remote(), timeout=300)
    return buffer


def channel(workers, rank=0, **cluster):
    cfg = config()
    cfg = replace(cfg, cluster=replace(cfg.cluster, **cluster))
    return ObjectStoreChannel(cfg, buffer_of(workers, cfg), rank)


def send(version, workers):
    buffer = buffer_of(workers, config())
    publish(version, [[("a", torch.zeros(4))]], buffer, deadline_s=120)()


def test_weights_reach_every_worker_in_buckets(workers):
    engine = Gathered()
    done = channel(workers, sync_bucket_mib=3).publish(7, engine)()
    assert (done.version, done.buckets, done.paused_seconds) == (7, 2, [0.5, 0.5])
    assert 0 < done.sent_seconds < done.seconds
    assert done.bytes == 448 + 256 + 64  # each tensor begins at a multiple of 64 bytes
    assert engine.limit == 3 * 2**20 // 2  # two are in shared memory
    expected = {7: [[("a", 100.0)], [("b", 50.0), ("c", 1.0)]]}
    assert ray.get([worker.got.remote() for worker in workers]) == [expected] * 2


def test_other_ranks_only_gather(workers):
    engine = Gathered()
    assert channel(workers, rank=1).publish(7, engine) is None
    assert engine.gathered == 2
    assert ray.get([worker.got.remote() for worker in workers]) == [{}] * 2


def test_a_publish_to_a_dead_worker_says_so(workers):
    """One that Ray does not restart; the others are replaced, see cluster/workers/supervisor.py."""
    buffer = buffer_of(workers, config())
    kill(workers[1])
    with pytest.raises(WorkerLost, match="rollout worker 1 was lost"):
        publish(8, [[("a", torch.zeros(4))]], buffer, deadline_s=120)()


def test_a_worker_that_refuses_is_named_with_its_cause(workers):
    with pytest.raises(WorkerLost, match=r"rollout worker \d .*: RuntimeError: no room$"):
        send(-1, workers)


def test_the_deadline_is_the_clusters_own(workers, monkeypatch):
    monkeypatch.setattr(object_store, "GRACE_S", 200.0)
    with pytest.raises(DeadlineExceeded, match=r"within 1 s \(cluster.sync_deadline_s\)"):
        channel(workers, sync_deadline_s=1.0).publish(0, Gathered())()


class WithAdapters:
    """A training engine that learns adapters; counts how often its plain weights are gathered."""

    def __init__(self):
        self.perturbed, self.plain = None, 0

    def weights(self, limit, merged=True):
        assert not merged
        self.plain += 1
        for name in ("a", "b"):
            yield [(name, torch.full((1000,), float(self.plain)))]

    def adapters(self, limit):
        yield [("a.lora_A", torch.ones(3))]


@pytest.fixture
def sent(monkeypatch):
    """Publishes that reached the buffer: versions, and the names and plain weights of buckets."""
    calls = []
    monkeypatch.setattr(object_store.ray, "put", lambda bucket: bucket)
    monkeypatch.setattr(object_store, "wait_for", lambda *_: (0.5, [0.1]))

    def remote(version, refs):
        names = [name for bucket in refs for name in bucket.header.names]
        calls.append((version, names, [float(b.parts[0].view(np.float32)[0]) for b in refs]))

    buffer = SimpleNamespace(publish=SimpleNamespace(remote=remote))

    def open_channel(rank=0, lora_sync="adapters"):
        cfg = config()
        cfg = replace(cfg, cluster=replace(cfg.cluster, lora_sync=lora_sync))
        return ObjectStoreChannel(cfg, buffer, rank)

    return calls, open_channel


def test_plain_weights_are_sent_once_and_adapters_with_each_publish(sent):
    calls, open_channel = sent
    channel, engine = open_channel(), WithAdapters()
    first, second = (channel.publish(version, engine)() for version in (3, 4))
    names = ["a", "b", "a.lora_A"]
    assert calls == [(3, names, [1.0, 1.0, 1.0]), (4, names, [1.0, 1.0, 1.0])]
    assert engine.plain == 1
    assert (first.bytes, first.buckets) == (2 * 4032 + 64, 3)
    assert (second.bytes, second.buckets) == (64, 1)
    assert 0 < second.sent_seconds < second.seconds


def test_plain_weights_are_sent_again_where_they_are_others(sent):
    calls, open_channel = sent
    channel, engine = open_channel(), WithAdapters()
    for perturbed in (("norm", 1), ("mlp", 1), None, None):
        engine.perturbed = perturbed
        channel.publish(0, engine)
    assert [plain for _, _, (plain, *_) in calls] == [1.0, 2.0, 3.0, 3.0]
    channel.publish(0, WithAdapters())  # of the next phase
    assert calls[-1][2] == [1.0, 1.0, 1.0]


def test_other_ranks_gather_what_rank_0_sends(sent):
    calls, open_channel = sent
    channel, engine = open_channel(rank=1), WithAdapters()
    for _ in range(2):
        assert channel.publish(0, engine) is None
    assert engine.plain == 1
    assert calls == []


class Partly:
    """A training engine in which `f` does not learn; counts how often it is gathered."""

    def __init__(self):
        self.perturbed, self.gathered = None, 0

    def weights(self, limit, frozen):
        self.gathered += frozen
        for name, size in (("f", 1000),) if frozen else (("a", 16), ("b", 16)):
            yield [(name, torch.full((size,), float(self.gathered)))]


def test_two_syncs_bring_the_bytes_of_what_does_not_learn_once(sent):
    """Each has the references of all, for engines that are new."""
    calls, open_channel = sent
    channel, engine = open_channel(lora_sync="merged"), Partly()
    first, second = (channel.publish(version, engine)() for version in (3, 4))
    assert [(version, names) for version, names, _ in calls] == [(3, [*"fab"]), (4, [*"fab"])]
    assert (first.bytes, first.buckets) == (4032 + 2 * 64, 3)
    assert (second.bytes, second.buckets) == (2 * 64, 2)
    assert engine.gathered == 1


def test_a_proof_brings_what_does_not_learn_too(sent):
    """The noise of the proof comes and goes; and the next phase has a policy of its own."""
    calls, open_channel = sent
    channel, engine = open_channel(lora_sync="merged"), Partly()
    for perturbed in (None, ("vision", 1), None, None):
        engine.perturbed = perturbed
        channel.publish(0, engine)
    assert [values[0] for _, _, values in calls] == [1.0, 2.0, 3.0, 3.0]
    channel.publish(0, Partly())
    assert calls[-1][2][0] == 1.0


def test_other_ranks_gather_what_does_not_learn_as_often(sent):
    calls, open_channel = sent
    channel, engine = open_channel(rank=1, lora_sync="merged"), Partly()
    for _ in range(2):
        assert channel.publish(0, engine) is None
    assert (engine.gathered, calls) == (1, [])


def test_all_weights_of_a_learner_with_adapters_come_by_two_syncs(sent, tmp_path):
    cfg = config()
    cfg = replace(cfg, model=replace(cfg.model, lora_rank=2, lora_alpha=4))
    engine = TrainingEngine(
        save_llama(tmp_path / "model", tied=False), cfg, cfg.sft.optimizer, 1, False
    )
    calls, open_channel = sent
    channel = open_channel(lora_sync="merged")
    first, second = (channel.publish(version, engine)() for version in (3, 4))
    every = engine.weight_shapes()
    assert [sorted(names) for _, names, _ in calls] == [sorted(n for n, *_ in every)] * 2
    kept = [shape for shape in every if ".layers." not in shape[0]]
    assert len(kept) == 3, "embedding, norm and head have no adapters"
    assert first.bytes == sum(map(shape_bytes, every))
    assert first.bytes - second.bytes == sum(map(shape_bytes, kept)) > 0
    engine.close()
