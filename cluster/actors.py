"""The rollout actor: Ray's shell around `rollout.worker.RolloutWorker` and its engine.

Input: episode requests, and references to weights. Output: blocks of trajectories, each one
object, and their summaries.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from functools import partial
from typing import TypeVar
from uuid import uuid4

import psutil
import ray
from ray import ObjectRef

from cluster.failures import EpochOver, RunFailure
from cluster.handles import BlockRows, ChannelMessage, Environments, Finished, PackedBucket
from cluster.placement.nodes import VISIBLE
from cluster.run.run_folder import folder_of
from cluster.run.tracing import record_spans
from configs.schema import RunConfig
from rollout.adapters import holds_adapters, with_adapters
from rollout.awake import Awake
from rollout.engine import InferenceEngine
from rollout.engine_load import EngineLoad
from rollout.engine_settings import EngineSettings
from rollout.engine_watch import EngineWatch, processor_seconds
from rollout.environments import ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest
from rollout.renderer import Renderer
from rollout.replay import difference
from rollout.trajectory import Block, Trajectory, from_block, to_block
from rollout.trajectory_summary import to_columns
from rollout.worker import RolloutWorker, block_age_s

T = TypeVar("T")
CONCURRENT_CALLS = 32  # a call that waits (next_block) must not keep weights or health out


@ray.remote(max_concurrency=CONCURRENT_CALLS)  # type: ignore[call-overload]
class RolloutActor:
    """One engine and the episodes on it; `cluster.handles.RolloutWorkerHandle` is its handle."""

    def __init__(
        self,
        cfg: RunConfig,
        folder: str,
        environments: Environments,
        channel: str = "object_store",
        index: int = 0,
    ) -> None:
        self._index = index
        self._record_spans(cfg)
        self._make_worker = partial(_worker, cfg, folder, environments, channel)
        self._made: RolloutWorker | None = None
        self._life = uuid4().int  # a process id may be that of another node's process
        self._starting, self._receiving = asyncio.Lock(), asyncio.Lock()
        self._watch: EngineWatch | None = None
        self._plain: dict[ObjectRef[PackedBucket], PackedBucket] = {}
        self._loaded: frozenset[str] = frozenset()  # names of the references that the engine has
        self._heartbeat_s, self._epoch = cfg.cluster.heartbeat_s, 0

    @property  # a cached one holds a lock before Python 3.12, with which Ray cannot send the class
    def _worker(self) -> RolloutWorker:
        """Made once it is asked for: Ray starts no actor again whose constructor has failed."""
        if self._made is None:
            self._made = self._make_worker()
        return self._made

    async def start(self) -> int:
        """Start the engine, once; every caller waits for it. Returns what `heartbeat` does."""
        async with self._starting:
            if self._worker.engine is None:
                self._worker.begin_environments()  # first, since they are none of the engine's
                own = psutil.Process()
                before = set(own.children(recursive=True))
                await self._worker.start()
                processes = [p for p in own.children(recursive=True) if p not in before]
                spent = partial(processor_seconds, processes)
                self._watch = EngineWatch(self._engine(), self._heartbeat_s, spent, Awake())
        return self._life

    async def heartbeat(self, seconds: float) -> int:
        """A sign of life after so many seconds: a number that the actor has until it is restarted.

        Raises EngineFailure at once.
        """
        await self._alive(asyncio.sleep(seconds))
        return self._life

    async def reconfigure(self, cfg: RunConfig, environments: Environments) -> None:
        """Forget the last run and take the environments of the next, whose weights will come."""
        self._epoch, self._plain = 0, {}
        await self._worker.reconfigure(environments, *_limits(cfg))
        self._record_spans(cfg)

    async def node(self) -> str:
        """Ray's id of the node that this actor is on."""
        return str(ray.get_runtime_context().get_node_id())

    async def use_gpus(self, gpus: list[str]) -> None:
        """Of this node, for an engine that has not started, by CUDA's own names.

        Raises:
            RunFailure: it has, on others.
        """
        visible = ",".join(gpus)
        if self._worker.engine is None:
            os.environ[VISIBLE] = visible  # CUDA reads it when the engine starts
        elif os.environ.get(VISIBLE) != visible:
            raise RunFailure(
                f"rollout worker {self._index} plays on GPUs {os.environ.get(VISIBLE)}, and its "
                f"learner ranks have come back on {visible}: `cardinal resume` starts both anew"
            )

    async def enter(self, epoch: int) -> None:
        """Forget all episodes of earlier epochs, those in flight included."""
        if epoch > self._epoch:
            self._epoch = epoch
            await self._worker.drop()

    async def submit(self, epoch: int, requests: list[EpisodeRequest]) -> None:
        """Queue episodes, unless their epoch is over."""
        await self.enter(epoch)
        if epoch == self._epoch:
            await self._worker.submit(requests)

    @ray.method(num_returns=2)
    async def next_block(
        self, epoch: int, requests: list[EpisodeRequest]
    ) -> tuple[Block, Finished]:
        """Queue episodes as `submit` does; the next block, and its trajectories' summaries.

        An empty one where the epoch is over: who asks may be a buffer that has died.
        """
        await self.submit(epoch, requests)
        if epoch == self._epoch:
            block, columns = await self._worker.next_block()
        else:
            block, columns = to_block([]), to_columns([])
        return block, Finished(epoch=epoch, columns=columns)

    async def replay(
        self, requests: list[EpisodeRequest], played: list[BlockRows]
    ) -> tuple[float, int] | None:
        """Play episodes again that another engine has played, while there are no others.

        Returns:
            How far they differ; see `rollout.replay.difference`.

        Raises:
            EpochOver: they were dropped meanwhile.
        """
        before: dict[str, Trajectory] = {}
        for ref, rows, _ in played:
            trajectories = from_block(await ref)
            before |= {trajectories[row].id: trajectories[row] for row in rows}
        drops = self._worker.drops
        await self._worker.submit(requests)
        again: dict[str, Trajectory] = {}
        while not before.keys() <= again.keys():
            block, _ = await self._worker.next_block()
            if self._worker.drops != drops:  # else it would take the blocks of the next ones
                raise EpochOver("the episodes that were played again have been dropped")
            again |= {trajectory.id: trajectory for trajectory in from_block(block)}
        return difference([(before[name], again[name]) for name in sorted(before)])

    async def receive(self, version: int, refs: list[ObjectRef[PackedBucket]]) -> float:
        """Have those of the referenced buckets; returns seconds of the pause.

        The engine loads those that it does not have since the last time. Beside adapters it loads
        all, and the plain weights that they are merged with are kept for the next ones.
        """
        async with self._receiving:  # a buffer that died may have begun what another begins anew
            loaded, self._loaded = self._loaded, frozenset()  # none for sure, until all are there
            new = [ref for ref in refs if ref.hex() not in loaded]
            received = {ref: self._plain.get(ref) or await ref for ref in new}
            buckets = [*received.values()]
            alone = any(holds_adapters(bucket) for bucket in buckets)
            self._plain = received if alone else {}
            seconds = await self._alive(self._engine().receive(version, with_adapters(buckets)))
            self._loaded = frozenset() if alone else frozenset(ref.hex() for ref in refs)
            return seconds

    async def init_weight_transfer(self, info: ChannelMessage) -> None:
        """Join the learner's weight channel."""
        await self._alive(self._engine().init_weight_transfer(info))

    async def start_weight_update(self) -> None:
        """Pause the engine and prepare it for new weights; see `cluster.weights.base`."""
        await self._alive(self._engine().start_weight_update())

    async def update_weights(self, message: ChannelMessage) -> None:
        """Load the weights that the channel's message describes."""
        await self._alive(self._engine().update_weights(message))

    async def finish_weight_update(self, version: int) -> None:
        """Go on with the episodes under the new weights."""
        await self._alive(self._engine().finish_weight_update(version))

    async def sleep(self) -> None:
        """Leave the GPUs to the learner until the next weights come, all of them."""
        self._loaded = frozenset()
        await self._alive(self._engine().sleep())

    async def total_load(self) -> EngineLoad:
        """How busy the engine was since its start."""
        return self._engine().total_load()

    async def shutdown(self) -> None:
        """End the engine's processes; the actor itself ends with its handle."""
        if self._watch is not None:
            self._watch.stop()
        if self._made is not None:
            await self._made.shutdown()

    def _record_spans(self, cfg: RunConfig) -> None:
        record_spans(folder_of(cfg), f"rollout worker {self._index}")

    async def _alive(self, work: Awaitable[T]) -> T:
        """The result of work, or EngineFailure as soon as the engine is lost."""
        return await (work if self._watch is None else self._watch.race(work))

    def _engine(self) -> InferenceEngine:
        assert self._worker.engine is not None, "start() first"
        return self._worker.engine


def _worker(cfg: RunConfig, folder: str, environments: Environments, channel: str) -> RolloutWorker:
    """The worker of a run, without its engine; reads the model's folder."""
    renderer, rollout = Renderer.load(folder), cfg.rollout
    settings = EngineSettings(
        folder=folder,
        dtype=cfg.model.dtype,
        max_sequences=rollout.in_flight,
        context_tokens=rollout.context_tokens,
        forbidden=renderer.forbidden,
        stop_ids=renderer.stop_ids,
        images=1 if renderer.processor else 0,
        kv_cache_gib=rollout.kv_cache_gib,
        gpu_memory=rollout.gpu_memory,
        tensor_parallel=rollout.tensor_parallel,
        threads=rollout.threads,
        seed=cfg.seed,
        channel=channel,
        sleep_mode=cfg.cluster.layout == "colocated",
        reads_weights=rollout.read_weights,
    )
    blocks = rollout.block, block_age_s(rollout.workers)
    return RolloutWorker(
        settings, renderer, environments, *_limits(cfg), rollout.in_flight, *blocks
    )


def _limits(cfg: RunConfig) -> tuple[EpisodeLimits, ProcessLimits]:
    rollout, cluster = cfg.rollout, cfg.cluster
    episode = EpisodeLimits(
        rollout.answer_tokens,
        rollout.context_tokens,
        cluster.episode_deadline_s,
        rollout.max_turns,
    )
    process = ProcessLimits(
        rollout.env_processes,
        cluster.env_deadline_s,
        cluster.start_deadline_s,
        cfg.env.memory_gib,
    )
    return episode, process
