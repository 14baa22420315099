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
from cluster.handles import BlockRows, PackedBucket, Paused, RolloutWorkerHandle
from cluster.workers.parity_limit import parity_limit
from cluster.workers.supervisor import Supervisor, WorkerGone
from configs.schema import RunConfig
from report.metrics import Record
from rollout.episode import EpisodeRequest

PROOF_S = 5.0  # to wait for a trajectory of the last weights, where others play
SAMPLES = 4  # trajectories of the last weights, against which a new engine is compared
LATER = "left to the next batch"  # which has tokens of the learner's own version
OWED = "left to the next update"  # where batches may have none: see `unproven`
NEVER = "none: no update follows that would compare it"
Loaded = Callable[[], Awaitable[None]]


class Weights(NamedTuple):
    """A publish; without references, where they came over another channel or with the engine."""

    version: int
    refs: list[ObjectRef[PackedBucket]]


class EngineWeights:
    """The weights of all engines.

    versions: by worker; -1 before its first weights.
    last: the newest publish of the present epoch.
    takes_over: these are of a buffer that was lost, and any may be unproven.
    """

    def __init__(
        self,
        workers: list[RolloutWorkerHandle],
        cfg: RunConfig,
        supervisor: Supervisor,
        takes_over: bool = False,
    ) -> None:
        self._workers, self._cfg, self._supervisor = workers, cfg, supervisor
        self.versions = [-1] * len(workers)
        self.last: Weights | None = None
        # Of a worker, which of the engines that joined; below 0: one of a lost buffer's.
        self._unproven = {i: -1 - i for i in range(len(workers))} if takes_over else {}
        self._joined = 0
        self._told: set[int] = set()  # of which engines it was said that they could not be compared
        self._samples: list[tuple[EpisodeRequest, BlockRows]] = []
        self._news = asyncio.Event()  # of samples, or of other weights
        self._joining = asyncio.Lock()  # no publish begins while a new engine joins

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
        self._news.set()

    async def publish(
        self, version: int, refs: list[ObjectRef[PackedBucket]], playing: bool, loaded: Loaded
    ) -> Paused:
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
        weights, begin = Weights(version, refs), time.monotonic()
        async with self._joining:
            self._replace_last(weights)
            present = self._supervisor.present()
        paused: list[float | None] = [None] * len(self._workers)

        async def load(indices: list[int]) -> None:
            for index in indices:
                if self.last is not weights:
                    return  # an epoch has begun: the next weights may be there already
                if index not in self._supervisor.present():
                    continue  # lost before its turn
                with suppress(WorkerGone):  # its successor gets these weights, or newer ones
                    paused[index] = await self._receive(index, weights)
                    if playing:
                        await arrived([index])

        async def arrived(indices: list[int]) -> None:
            if self.last is weights:
                for index in indices:
                    self.versions[index] = version
                await loaded()

        loads = (load(indices) for indices in self._by_node(present))
        # All are waited for, one that fails or not: the next publish must come after the last.
        ends = await asyncio.gather(*loads, return_exceptions=True)
        for failure in filter(None, ends):
            raise failure
        if not playing:
            await arrived([index for index in present if index in self._supervisor.present()])
        return time.monotonic() - begin, paused

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
        """Bring the last weights to a new engine, and prove them; it then joins the others.

        Returns:
            How they were proven.
        """
        self.versions[index] = -1
        self._joined += 1
        self._unproven[index] = self._joined  # whatever its predecessor was
        proof: Record | None = None
        weights: Weights | None = None
        end = time.monotonic() + PROOF_S
        while proof is None and time.monotonic() < end:
            weights = await self._receive_last(index, weights)
            if weights is None or not weights.refs:
                break
            proof = await self._prove(index, weights)
        async with self._joining:
            weights = await self._receive_last(index, weights)
            if weights is not None and self.last is weights:
                self.versions[index] = weights.version
        if not proof:
            return {"proof": self._left_to(weights)}
        self._unproven.pop(index)
        return proof

    def _left_to(self, weights: Weights | None) -> str:
        """What compares an engine that joins unproven; a version is the number of updates."""
        if (0 if weights is None else weights.version) >= self._cfg.ppo.updates:
            return NEVER
        return OWED if self._cfg.ppo.max_staleness else LATER

    def unproven(self) -> dict[int, int]:
        """By worker that serves: which engine, where others' plays could not prove it."""
        present = self._supervisor.present()
        return {i: engine for i, engine in sorted(self._unproven.items()) if i in present}

    def prove(self, index: int, engine: int) -> None:
        """A worker's engine has been compared with the learner; its successor has not."""
        if self._unproven.get(index) == engine:
            del self._unproven[index]

    def tell_unplayed(self, index: int, engine: int, cause: str) -> None:
        """Say, once, that an engine has played nothing well of what the learner would compare."""
        if engine not in self._told:
            self._told.add(engine)
            words = "played none of its episodes for the proof to the end, and is unproven still"
            self._supervisor.note("failure", index, f"{words}; the first: {cause}")

    async def _receive_last(self, index: int, held: Weights | None) -> Weights | None:
        """The last weights, once an engine that has `held` has them; None: there are none.

        They may have died with the learner; the next one publishes before anything else. Without
        references they are those that every engine starts with (`cardinal rollout`).
        """
        weights = self.last
        if weights is None or weights is held or not weights.refs:
            return weights
        try:
            await self._receive(index, weights)
        except SourceLost:
            return None
        return weights

    async def _prove(self, index: int, weights: Weights) -> Record | None:
        """Have a new engine play again what others have played under the same weights.

        Where it is alone, that is for the learner (`unproven`).

        Returns:
            How it went, empty where it is alone; None where others have played nothing yet under
            these weights, what they have played is lost, or it could play nothing of it again to
            its end.

        Raises:
            ParityError: it plays with other weights.
        """
        if not self._cfg.cluster.weight_proof:
            return {"proof": "cluster.weight_proof=false"}
        if not self._samples:
            if not self._supervisor.present():
                return {}
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), PROOF_S)
        if not self._samples or self.last is not weights:
            return None
        requests = [request for request, _ in self._samples]
        rows = [block_rows for _, block_rows in self._samples]
        call, what = self._workers[index].replay.remote(requests, rows), "play episodes again"
        seconds, key = self._cfg.cluster.block_deadline_s, "block_deadline_s"
        try:
            answer = await self._supervisor.ask(index, what, call, seconds, key)
        except SourceLost:  # with the node that it was played on: others are playing more
            self._samples.clear()
            return None
        if answer is None:
            return None
        apart, tokens = answer
        under = f"under weights of version {weights.version}"
        if not tokens:
            raise ParityError(f"it has no token in common with other engines {under}")
        limit = parity_limit(self._cfg, tokens)
        if not apart <= limit:  # nor NaN
            raise ParityError(
                f"its log-probabilities {under} differ by {apart:.2g} on average from those of "
                f"other engines, more than {limit:.2g}"
            )
        return {"proof": "replayed", "proof_tokens": tokens, "proof_mean_abs": apart}

    def keep_sample(self, request: EpisodeRequest, rows: BlockRows, oldest_version: int) -> None:
        """Keep the first few trajectories that are wholly of the last weights."""
        drawn = request.temperature == self._cfg.rollout.temperature
        wholly = self.last is not None and oldest_version == self.last.version
        if drawn and wholly and len(self._samples) < SAMPLES:
            self._samples.append((request, rows))
            self._news.set()
