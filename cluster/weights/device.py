"""The nccl and ipc channels, vLLM's own: tensors go from GPU to GPU, through no host's memory.

`learner.weight_sender` opens vLLM's trainer side; here it is given a deadline, and a client
whose calls reach all rollout workers.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar

import ray
import ray.util
import torch
from ray import ObjectRef

from cluster.failures import DeadlineExceeded, RunFailure
from cluster.handles import BufferHandle, ChannelMessage, RolloutWorkerHandle
from cluster.wait import wait_for, wait_for_all
from cluster.weights.base import Publishing, PublishResult
from configs.schema import RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.weight_sender import (
    TransferSpec,
    WeightShapes,
    buffer_bytes,
    open_sender,
    payload_bytes,
    weight_source,
)

GRACE_S = 2.0  # so that the client's own error, which names the worker, is raised first
T = TypeVar("T")


class WeightSender(Protocol):
    """What is used of vLLM's trainer engine."""

    def send_weights(self) -> None:
        """Bring one version to all engines."""


class DeviceChannel:
    """See WeightChannel.

    Rank 0 sends on a thread of its own, because a collective whose partner died never returns:
    the main thread waits with a deadline, and is notified of a worker's death
    (every-wait-has-a-deadline).
    """

    def __init__(
        self,
        name: str,
        cfg: RunConfig,
        workers: list[RolloutWorkerHandle],
        buffer: BufferHandle,
        rank: int,
    ) -> None:
        self._name, self._cluster, self._buffer, self._rank = name, cfg.cluster, buffer, rank
        self._gpus = len(workers) * cfg.rollout.tensor_parallel
        self._client = WeightSyncClient(workers, cfg.rollout.tensor_parallel)
        self._engine: TrainingEngine | None = None
        self._sender: WeightSender | None = None

    def publish(self, version: int, engine: TrainingEngine) -> Publishing | None:
        """See WeightChannel; all is done when it returns."""
        begin, shapes = time.monotonic(), engine.weight_shapes()
        cluster, self._engine = self._cluster, engine
        try:
            if self._sender is None:
                what = f"join the {self._name} channel"
                self._client.begin(what, cluster.start_deadline_s, "start_deadline_s", version)
                self._sender = self._within_deadline(self._open)
            what = f"receive weights of version {version} over {self._name}"
            self._client.begin(what, cluster.sync_deadline_s, "sync_deadline_s", version)
            self._within_deadline(self._send)
        finally:
            self._engine = None  # a phase's engine must not outlive it
        if self._rank != 0:
            return None
        done, what = self._buffer.published.remote(version), f"play with version {version}"
        wait_for(done, "the buffer", what, cluster.sync_deadline_s, "sync_deadline_s")
        seconds = time.monotonic() - begin
        return lambda: PublishResult(version, seconds, payload_bytes(shapes), 1, seconds)

    def _open(self) -> WeightSender:
        spec = TransferSpec(
            self._name,
            self._rank,
            buffer_bytes(self._shapes(), self._cluster.sync_bucket_mib * 2**20),
            address=ray.util.get_node_ip_address(),
            port=_free_port() if self._rank == 0 else 0,
            members=1 + self._gpus,
        )
        sender: WeightSender = open_sender(
            spec, self._client, weight_source(self._shapes, self._tensors)
        )
        return sender

    def _send(self) -> None:
        """Engines resume once no rank's allocator keeps what they take on a shared GPU."""
        assert self._sender is not None
        self._sender.send_weights()
        if self._name == "ipc":
            torch.cuda.empty_cache()
            distributed.barrier()
        if self._rank == 0:
            self._client.resume()

    def _shapes(self) -> WeightShapes:
        assert self._engine is not None
        return self._engine.weight_shapes()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights, each ready on the CUDA stream that asks for it.

        vLLM packs a chunk on one of two streams, which wait for no other, and ends it within a
        bucket: merged adapters, computed where the bucket began, are then read where it goes on.
        """
        assert self._engine is not None
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()  # a step or perturbation on the learner's stream
        for bucket in self._engine.weights(self._cluster.sync_bucket_mib * 2**20, everywhere=True):
            if on_gpu:
                torch.cuda.current_stream().synchronize()
            for name, tensor in bucket:
                if on_gpu:  # until it has been read there, its memory is not given to another
                    tensor.record_stream(torch.cuda.current_stream())
                yield name, tensor

    def _within_deadline(self, work: Callable[[], T]) -> T:
        """The result of rank 0's work; other ranks are in collectives with it, and follow it."""
        if self._rank != 0:
            return work()
        client, done = self._client, Future[T]()
        device = torch.cuda.current_device() if torch.cuda.is_available() else None

        def run() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)  # a new thread uses device 0
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - a thread's boundary; raised below
                done.set_exception(error)

        threading.Thread(target=run, name=f"{self._name} channel", daemon=True).start()
        either: list[Future[Any]] = [done, client.failed]
        wait(either, client.seconds_left() + GRACE_S, FIRST_COMPLETED)
        if client.failed.done():
            client.failed.result()
        if not done.done():
            what, seconds, key = client.operation
            who = f"the {self._name} channel"
            raise DeadlineExceeded(who, f"let all workers {what}", seconds, key)
        return done.result()


class WeightSyncClient:
    """vLLM's VLLMWeightSyncClient over the rollout workers: every call reaches all of them.

    failed: gets the first error of any call, from whichever thread it was made.
    operation: what the workers should do now, seconds, and the key that set them.
    """

    def __init__(self, workers: list[RolloutWorkerHandle], tensor_parallel: int) -> None:
        self._workers, self._parallel = workers, tensor_parallel
        self.failed: Future[None] = Future()
        self.begin("join", 0.0, "start_deadline_s", -1)

    def begin(self, what: str, seconds: float, key: str, version: int) -> None:
        """Begin an operation; all its calls together have `seconds`."""
        self.operation = (what, seconds, key)
        self._version, self._begun = version, time.monotonic()

    def seconds_left(self) -> float:
        """Until the operation's deadline."""
        return self.operation[1] - (time.monotonic() - self._begun)

    def init_weight_transfer_engine(self, init_info: ChannelMessage) -> None:
        """Each engine joins; its GPUs have ranks of their own in an nccl group."""
        infos = [dict(init_info) for _ in self._workers]
        offset = init_info.get("rank_offset")
        if isinstance(offset, int):
            for index, info in enumerate(infos):
                info["rank_offset"] = offset + index * self._parallel
        calls = [
            worker.init_weight_transfer.remote(info)
            for worker, info in zip(self._workers, infos, strict=True)
        ]
        self._wait(calls)

    def start_weight_update(self) -> None:
        """Each engine pauses and prepares."""
        self._wait([worker.start_weight_update.remote() for worker in self._workers])

    def update_weights(self, update_info: ChannelMessage | list[ChannelMessage]) -> None:
        """Each engine loads the weights that the message describes."""
        if not isinstance(update_info, dict):  # of engines that shard what they send; none of ours
            raise self._fail(RunFailure("the weight channel got a list of messages, not one"))
        self._wait([worker.update_weights.remote(update_info) for worker in self._workers])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """VLLM's word that all is sent; engines wait for `resume`."""

    def resume(self) -> None:
        """Each engine resumes, under the version of the operation."""
        self._wait([worker.finish_weight_update.remote(self._version) for worker in self._workers])

    def _wait(self, calls: list[ObjectRef[None]]) -> None:
        try:
            wait_for_all(calls, "rollout worker", *self.operation, self._begun)
        except RunFailure as failure:
            raise self._fail(failure) from failure.__cause__

    def _fail(self, failure: RunFailure) -> RunFailure:
        """Notify whoever waits for `failed`, from whichever thread the call came."""
        if not self.failed.done():
            self.failed.set_exception(failure)
        return failure


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
