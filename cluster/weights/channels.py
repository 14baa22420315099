"""The ways for weights to reach the engines: Ray's object store, nccl, ipc.

Comes in: a version and the learner's engine; goes out: every rollout worker plays that
version, or one line says who did not answer. Collective over the learner's ranks.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

import ray
import ray.util
import torch

from cluster.failures import DeadlineExceeded, RunFailure
from cluster.wait import answers
from cluster.weights.object_store import Published, publish
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from learner.weight_sender import (
    TransferSpec,
    buffer_bytes,
    open_sender,
    payload_bytes,
    weight_source,
)

GRACE_S = 2.0  # the client's own error names the worker: it comes first


class Channel(Protocol):
    """One way for weights to reach the engines."""

    def publish(self, version: int, engine: TrainingEngine) -> Published | None:
        """Bring all weights of the learner's engine to all workers as `version`.

        Every rank calls it; only rank 0 gets an answer.

        Raises:
            RunFailure: a worker was lost or a deadline passed; names it.
        """


def open_channel(name: str, cfg: RunConfig, workers: list[Any], rank: int) -> Channel:
    """The channel by its name; it meets the engines at the first publish."""
    if name == "object_store":
        return ObjectStoreChannel(cfg, workers, rank)
    return DeviceChannel(name, cfg, workers, rank)


class ObjectStoreChannel:
    """Buckets become objects; each node fetches a bucket once, however many engines it holds."""

    def __init__(self, cfg: RunConfig, workers: list[Any], rank: int) -> None:
        self._cluster, self._workers, self._rank = cfg.cluster, workers, rank

    def publish(self, version: int, engine: TrainingEngine) -> Published | None:
        """See Channel."""
        groups = engine.weights(self._cluster.sync_bucket_mib * 2**20)
        if self._rank != 0:
            for _ in groups:  # the gathering is collective
                pass
            return None
        return publish(version, groups, self._workers, self._cluster.sync_deadline_s)


class DeviceChannel:
    """vLLM's nccl or ipc: tensors go from GPU to GPU, through no host's memory.

    Rank 0 sends on a thread of its own, because a collective whose partner died never
    returns: the main thread waits with a deadline, and hears of a worker's death (law 5).
    """

    def __init__(self, name: str, cfg: RunConfig, workers: list[Any], rank: int) -> None:
        self._name, self._cluster, self._rank = name, cfg.cluster, rank
        self._gpus = len(workers) * cfg.rollout.tensor_parallel
        self._engines = Engines(workers, cfg.rollout.tensor_parallel)
        self._engine: TrainingEngine | None = None
        self._sender: Any = None

    def publish(self, version: int, engine: TrainingEngine) -> Published | None:
        """See Channel."""
        begin, shapes = time.monotonic(), engine.weight_shapes()
        self._engine = engine
        try:
            if self._sender is None:
                self._engines.expect(
                    f"join the {self._name} channel",
                    self._cluster.start_deadline_s, "start_deadline_s", version,
                )  # fmt: skip
                self._sender = self._within_deadline(self._open)
            self._engines.expect(
                f"receive weights of version {version} over {self._name}",
                self._cluster.sync_deadline_s, "sync_deadline_s", version,
            )  # fmt: skip
            self._within_deadline(self._sender.send_weights)
        finally:
            self._engine = None  # a phase's engine must not outlive it
        if self._rank != 0:
            return None
        return Published(version, time.monotonic() - begin, payload_bytes(shapes), 1)

    def _open(self) -> Any:
        assert self._engine is not None
        wanted = self._cluster.sync_bucket_mib * 2**20
        wire = TransferSpec(
            self._name,
            self._rank,
            buffer_bytes(self._engine.weight_shapes(), wanted),
            address=ray.util.get_node_ip_address(),
            port=_free_port() if self._rank == 0 else 0,
            members=1 + self._gpus,
        )
        return open_sender(wire, self._engines, weight_source(self._shapes, self._tensors))

    def _shapes(self) -> Any:
        assert self._engine is not None
        return self._engine.weight_shapes()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        assert self._engine is not None
        for bucket in self._engine.weights(self._cluster.sync_bucket_mib * 2**20, everywhere=True):
            yield from bucket

    def _within_deadline(self, work: Callable[[], Any]) -> Any:
        """The result of rank 0's work; other ranks are in collectives with it, and follow it."""
        if self._rank != 0:
            return work()
        engines, done = self._engines, Future[Any]()
        device = torch.cuda.current_device() if torch.cuda.is_available() else None

        def run() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)  # a thread begins on the first
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - a thread's boundary; raised below
                done.set_exception(error)

        threading.Thread(target=run, name=f"{self._name} channel", daemon=True).start()
        wait([done, engines.failed], engines.left() + GRACE_S, FIRST_COMPLETED)
        if engines.failed.done():
            engines.failed.result()
        if not done.done():
            what, seconds, key = engines.expected
            who = f"the {self._name} channel"
            raise DeadlineExceeded(who, f"let all workers {what}", seconds, key)
        return done.result()


class Engines:
    """vLLM's VLLMWeightSyncClient over the rollout workers: every call reaches all of them.

    failed: gets the first error of any call, from whichever thread it was made.
    expected: what the workers should do, seconds, and the key that set them.
    """

    def __init__(self, workers: list[Any], tensor_parallel: int) -> None:
        self._workers, self._parallel = workers, tensor_parallel
        self.failed: Future[None] = Future()
        self.expect("join", 0.0, "start_deadline_s", -1)

    def expect(self, what: str, seconds: float, key: str, version: int) -> None:
        """Begin an operation; all its calls together have `seconds`."""
        self.expected = (what, seconds, key)
        self._version, self._begin = version, time.monotonic()

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.expected[1] - (time.monotonic() - self._begin)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each engine joins; its GPUs have ranks of their own in an nccl group."""
        infos = [dict(init_info) for _ in self._workers]
        if "rank_offset" in init_info:
            for index, info in enumerate(infos):
                info["rank_offset"] += index * self._parallel
        self._all([w.join.remote(i) for w, i in zip(self._workers, infos, strict=True)])

    def start_weight_update(self) -> None:
        """Each engine pauses and prepares."""
        self._all([worker.begin_update.remote() for worker in self._workers])

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Each engine loads what the message tells of."""
        self._all([worker.update.remote(update_info) for worker in self._workers])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Each engine goes on, under the version that was expected."""
        self._all([worker.finish_update.remote(self._version) for worker in self._workers])

    def _all(self, calls: list[Any]) -> None:
        try:
            answers(calls, "rollout worker", *self.expected, self._begin)
        except RunFailure as failure:
            if not self.failed.done():
                self.failed.set_exception(failure)
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
