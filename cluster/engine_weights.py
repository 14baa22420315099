"""Which weights the engines have: a publish goes to all of them, the last one to a new engine.

Part of the trajectory buffer; it holds references to weights and trajectories, no array.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from ray import ObjectRef

from cluster.failures import ParityError, SourceLost
from cluster.handles import BlockRows, PackedBucket, RolloutWorkerHandle
from cluster.parity_limit import parity_limit
from cluster.supervisor import Supervisor, WorkerGone
from configs.schema import RunConfig
from report.metrics import Record
from rollout.episode import EpisodeRequest

SAMPLES = 4  # trajectories of the last weights, against which a new engine is compared
Loaded = Callable[[], Awaitable[None]]


class Weights(NamedTuple):
    """A publish; without references, where they came over another channel."""

    version: int
    refs: list[ObjectRef[PackedBucket]]


class EngineWeights:
    """The weights of all engines.

    versions: by worker; -1 before its first weights.
    last: the newest publish of the present epoch.
    """

    def __init__(
        self, workers: list[RolloutWorkerHandle], cfg: RunConfig, supervisor: Supervisor
    ) -> None:
        self._workers, self._cfg, self._supervisor = workers, cfg, supervisor
        self.versions = [-1] * len(workers)
        self.last: Weights | None = None
        self._samples: list[tuple[EpisodeRequest, BlockRows]] = []
        self._changed = asyncio.Event()

    def forget(self) -> None:
        """An epoch has begun: what engines have is of a learner that is no more."""
        self._replace_last(None)
        self.versions = [-1] * len(self._workers)

    def take_note(self, version: int) -> None:
        """All engines at work have weights that came over another channel."""
        self._replace_last(Weights(version, []))
        for index in self._supervisor.present():
            self.versions[index] = version

    def _replace_last(self, weights: Weights | None) -> None:
        self.last = weights
        self._samples.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def publish(
        self, version: int, refs: list[ObjectRef[PackedBucket]], playing: bool, loaded: Loaded
    ) -> tuple[float, list[float]]:
        """Bring weights to all engines.

        Args:
            version: their policy version.
            refs: their buckets.
            playing: whether episodes run; then each engine plays as soon as it has them, else all
                begin at once, or the first one would be given all episodes.
            loaded: called whenever more engines have them, while they are the last.

        Engines of one node load one after another: so most of them play, and each copy in shared
        memory is gone before the next one is made.

        Returns:
            As `TrajectoryBuffer.publish`.
        """
        weights = Weights(version, refs)
        self._replace_last(weights)
        begin, present = time.monotonic(), self._supervisor.present()
        paused = dict.fromkeys(range(len(self._workers)), 0.0)

        async def load(indices: list[int]) -> None:
            for index in indices:
                with suppress(WorkerGone):  # its successor gets these weights, or newer ones
                    paused[index] = await self._receive(index, weights)
                    if playing:
                        await arrived([index])

        async def arrived(indices: list[int]) -> None:
            if self.last is weights:
                for index in indices:
                    self.versions[index] = version
                await loaded()

        await asyncio.gather(*(load(indices) for indices in self._by_node(present)))
        if not playing:
            await arrived([index for index in present if index in self._supervisor.present()])
        return time.monotonic() - begin, [*paused.values()]

    def _by_node(self, indices: list[int]) -> list[list[int]]:
        nodes: dict[str, list[int]] = defaultdict(list)
        for index in indices:
            nodes[self._supervisor.nodes[index]].append(index)
        return [*nodes.values()]

    async def _receive(self, index: int, weights: Weights) -> float:
        """Seconds of a worker's pause for weights."""
        what = f"receive weights of version {weights.version}"
        ref = self._workers[index].receive.remote(weights.version, weights.refs)
        seconds = self._cfg.cluster.sync_deadline_s
        return await self._supervisor.ask(index, what, ref, seconds, "sync_deadline_s")

    async def bring(self, index: int) -> Record:
        """Bring the last weights to a new engine, newer ones too if they come meanwhile.

        Returns:
            How they were proven.
        """
        proof: Record = {"proof": "there are none yet"}
        self.versions[index] = -1
        while (weights := self.last) is not None:
            changed = self._changed
            try:
                await self._receive(index, weights)
            except SourceLost:  # the learner died with them; the next one publishes first
                await changed.wait()
                continue
            proof = await self._prove(index, weights.version)
            if self.last is weights:
                self.versions[index] = weights.version
                break
        return proof

    async def _prove(self, index: int, version: int) -> Record:
        """Have a new engine play again what others have played under the same weights.

        Where there is nothing, the learner compares the batch that it plays with its own weights,
        before those of the update go anywhere.

        Raises:
            ParityError: it plays with other weights.
        """
        if not self._cfg.cluster.weight_proof:
            return {"proof": "cluster.weight_proof=false"}
        samples = list(self._samples)
        if not samples:
            return {"proof": "left to the next batch"}
        requests, rows = [request for request, _ in samples], [rows for _, rows in samples]
        call, seconds = self._workers[index].replay.remote(requests, rows), self._cfg.cluster
        apart, tokens = await self._supervisor.ask(
            index, "play a few episodes again", call, seconds.block_deadline_s, "block_deadline_s"
        )
        limit = parity_limit(self._cfg)
        if apart > limit:
            raise ParityError(
                f"its log-probabilities under weights of version {version} differ by {apart:.2g} "
                f"on average from those of the engines before, more than {limit:g}"
            )
        return {"proof": "replayed", "proof_tokens": tokens, "proof_mean_abs": apart}

    def keep_sample(self, request: EpisodeRequest, rows: BlockRows, oldest_version: int) -> None:
        """Keep the first few trajectories that are wholly of the last weights."""
        drawn = request.temperature == self._cfg.rollout.temperature
        wholly = self.last is not None and oldest_version == self.last.version
        if drawn and wholly and len(self._samples) < SAMPLES:
            self._samples.append((request, rows))
