"""Weights over vLLM's own channels: our client and weight_source under vLLM's real trainer engine.

No GPU: the NCCL communicator alone is replaced, by one that keeps what is broadcast.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
import torch

from cluster.failures import DeadlineExceeded, WorkerLost
from cluster.weights import device
from cluster.weights.device import DeviceChannel, WeightSyncClient
from learner.engine import TrainingEngine
from learner.weight_sender import (
    weight_source,
)
from tests.support.learner import config, save_llama
from tests.support.local_ray import replace_dead
from tests.support.ray_actors import ScriptedEngine

pytestmark = pytest.mark.usefixtures("local_ray")


class Broadcasts:
    """Stands for NCCL's communicator on rank 0: keeps what it is given."""

    def __init__(self):
        self.sent = []
        self.goes_on = threading.Event()

    def broadcast(self, tensor, src, stream=None):
        assert src == 0
        self.sent.append(tensor.clone())


class Hanging(Broadcasts):
    """A broadcast whose partner died."""

    def broadcast(self, tensor, src, stream=None):
        self.goes_on.wait(600)


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    folder = save_llama(tmp_path_factory.mktemp("model"), tied=False)
    cfg = config(stage=3)
    cfg = replace(cfg, model=replace(cfg.model, lora_rank=2))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engines():
    made = [ScriptedEngine.remote() for _ in range(2)]
    yield made
    for engine in made:
        ray.kill(engine)


@pytest.fixture
def workers(engines):
    """A function that gives two engines, the second of which breaks as it says."""

    def scripted(*how):
        replace_dead(engines, ScriptedEngine.remote)
        sound, broken = engines
        ray.get([sound.script.remote(), broken.script.remote(*how)], timeout=300)
        return list(engines)

    return scripted


@pytest.fixture
def nccl(monkeypatch):
    """The nccl channel under vLLM's trainer engine, unpacked; its communicator is replaced."""
    from vllm.distributed.weight_transfer import nccl_engine

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    settings = device.open_sender.__globals__["trainer_init_info"]

    def unpacked(spec):  # packing is CUDA's own streams
        return replace(settings(spec), packed=False)

    monkeypatch.setitem(device.open_sender.__globals__, "trainer_init_info", unpacked)

    made = []

    def open_with(communicator):
        made.append(communicator)
        monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: communicator)
        return communicator

    yield open_with
    for communicator in made:  # the learner's weights are gathered as long as a thread hangs
        communicator.goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "nccl channel":
            thread.join(120)


def channel(workers, rank=0, parallel=2, **deadlines):
    cfg = config()
    cfg = replace(
        cfg,
        rollout=replace(cfg.rollout, workers=len(workers), tensor_parallel=parallel),
        cluster=replace(cfg.cluster, **{"sync_deadline_s": 200.0, **deadlines}),
    )
    return DeviceChannel("nccl", cfg, workers, FakeBuffer(), rank)


class FakeBuffer:
    """Answers `published` at once."""

    def __init__(self):
        self.versions = []
        self.published = self

    def remote(self, version):
        self.versions.append(version)
        return ray.put(None)


def test_every_engine_gets_every_weight(workers, nccl, learner):
    communicator, made = nccl(Broadcasts()), workers()
    opened = channel(made)
    done = opened.publish(3, learner)()
    expected = {n: t.clone() for bucket in learner.weights(10_000) for n, t in bucket}
    assert done.version == 3
    assert done.bytes == sum(t.numel() * t.element_size() for t in expected.values())
    assert all(torch.equal(a, b) for a, b in zip(communicator.sent, expected.values(), strict=True))
    for index, worker in enumerate(made):
        calls = ray.get(worker.got.remote(), timeout=300)
        assert [name for name, _ in calls] == ["join", "begin", "update", "finish"]
        joined, message = calls[0][1], calls[2][1]
        assert joined["world_size"] == 1 + 2 * 2
        assert joined["rank_offset"] == 1 + 2 * index  # two GPUs an engine
        assert message["names"] == list(expected)
        assert message["shapes"] == [list(t.shape) for t in expected.values()]
        assert set(message["dtype_names"]) == {"float32"}
        assert calls[3][1] == 3
    opened.publish(4, learner)  # the engines have met
    calls = ray.get(made[0].got.remote(), timeout=300)
    assert [name for name, _ in calls] == ["join", *["begin", "update", "finish"] * 2]
    assert calls[-1][1] == 4


def test_vllm_takes_what_the_engines_are_told(workers, nccl, learner):
    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo

    nccl(Broadcasts())
    made = workers()
    channel(made).publish(0, learner)
    calls = dict(ray.get(made[1].got.remote(), timeout=300))
    assert NCCLWeightTransferInitInfo(**calls["join"]).rank_offset == 3
    assert len(NCCLWeightTransferUpdateInfo(**calls["update"]).names) > 10


@pytest.mark.parametrize("at", ["join", "begin", "update", "finish"])
@pytest.mark.parametrize(
    ("how", "words"),
    [("dies", "rollout worker 1 was lost"), ("raises", "RuntimeError: CUDA error: out of memory")],
)
def test_an_engine_that_breaks_is_named(workers, nccl, learner, at, how, words):
    nccl(Broadcasts())
    opened = channel(workers(at, how))
    what = "join the nccl channel" if at == "join" else "receive weights of version 7 over nccl"
    with pytest.raises(WorkerLost, match=words) as caught:
        opened.publish(7, learner)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("at", "key"), [("join", "start_deadline_s"), ("update", "sync_deadline_s")]
)
def test_an_engine_that_hangs_is_named_in_time(workers, nccl, learner, at, key, monkeypatch):
    monkeypatch.setattr(device, "GRACE_S", 200.0)
    nccl(Broadcasts())
    opened = channel(workers(at, "hangs"), **{key: 1.0})
    words = rf"rollout worker \d did not .* nccl( channel)? within 1 s \(cluster\.{key}\)"
    with pytest.raises(DeadlineExceeded, match=words):
        opened.publish(7, learner)


def test_a_death_is_noticed_while_the_collective_hangs(workers, nccl, learner):
    nccl(Hanging())
    opened = channel(workers("update", "dies"))
    with pytest.raises(WorkerLost, match="rollout worker 1 was lost"):
        opened.publish(7, learner)


def test_a_collective_that_hangs_alone_ends_with_the_deadline(workers, nccl, learner, monkeypatch):
    monkeypatch.setattr(WeightSyncClient, "seconds_left", lambda client: -1.5)
    nccl(Hanging())
    opened = channel(workers())
    with pytest.raises(DeadlineExceeded, match="the nccl channel did not let all workers receive"):
        opened.publish(7, learner)


def test_an_operation_has_its_seconds_from_its_beginning_on(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(device, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client = WeightSyncClient([], 1)
    client.begin("receive weights", 8.0, "sync_deadline_s", 3)
    now[0] += 3.0
    assert client.seconds_left() == 5.0


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("name", "given_back"), [("ipc", ["empty", "barrier"]), ("nccl", [])])
def test_engines_take_a_shared_gpu_once_no_rank_keeps_its_memory(
    monkeypatch, name, given_back, rank
):
    order = []
    cfg = config()
    opened = DeviceChannel(name, cfg, [], FakeBuffer(), rank)

    def send():
        opened._client.finish_weight_update("3")
        order.append("sent")

    monkeypatch.setattr(opened, "_sender", SimpleNamespace(send_weights=send))
    monkeypatch.setattr(opened._client, "resume", lambda: order.append("resume"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("empty"))
    monkeypatch.setattr(device.distributed, "barrier", lambda: order.append("barrier"))
    opened._send()
    assert order == ["sent", *given_back, *["resume"] * (rank == 0)]


class Stream:
    """Stands for a CUDA stream: what was launched on it is done once it is synchronized."""

    def __init__(self):
        self.pending = set()

    def synchronize(self):
        self.pending.clear()


def test_weights_are_ready_on_the_stream_that_asks_for_them(monkeypatch):
    """VLLM asks for the rest of a bucket on another stream than the one where it was merged."""
    learners, first, second = streams = [Stream() for _ in range(3)]
    current, read_on = [learners], {}

    def weights(limit_bytes, everywhere):
        assert everywhere
        for names in ("ab", "cd"):
            current[0].pending.update(names)
            yield [
                (n, SimpleNamespace(record_stream=read_on.setdefault(n, []).append)) for n in names
            ]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: [s.synchronize() for s in streams])
    opened = DeviceChannel("nccl", config(), [], FakeBuffer(), 0)
    opened._engine = SimpleNamespace(weights=weights)
    learners.pending.add("step")
    tensors, seen = opened._tensors(), []
    for current[0] in (first, second, second, first):
        name, _ = next(tensors)
        seen.append(name)
        assert not any(s.pending & {name, "step"} for s in streams)
        assert read_on[name] == [current[0]]
    assert (seen, list(tensors)) == ([*"abcd"], [])


def test_an_error_of_the_sender_is_passed_on(workers, learner, monkeypatch):
    def broken(*_):
        raise RuntimeError("NCCL error: unhandled system error")

    monkeypatch.setattr(device, "open_sender", broken)
    with pytest.raises(RuntimeError, match="NCCL error"):
        channel(workers()).publish(0, learner)


def test_other_ranks_only_gather(workers, nccl, learner):
    made = workers()
    nccl(Broadcasts())
    opened = channel(made, rank=1)
    assert opened.publish(0, learner) is None
    assert ray.get(made[0].got.remote(), timeout=300) == []
    assert "nccl channel" not in {thread.name for thread in threading.enumerate()}
    assert opened._engine is None


def test_the_client_is_the_one_that_vllm_asks_for():
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

    assert isinstance(WeightSyncClient([], 1), VLLMWeightSyncClient)


def test_the_source_tells_what_it_gives(learner):
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    given = weight_source(
        learner.weight_shapes, lambda: (item for b in learner.weights(10_000) for item in b)
    )
    checked = NCCLTrainerWeightTransferEngine._checked_iter(given, given.metadata())
    assert len(list(checked)) == len(given.metadata()) > 10
