"""The trajectory buffer: has workers play what the ledger admits, and keeps references to it.

It asks workers for their next block, so it owns the references, and a worker's death loses no
finished block. It never holds an array (refs-move-bytes-do-not). All that is known of an episode
is in the ledger; here are the waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TypeVar

import ray
from opentelemetry import trace
from ray import ObjectRef

from cluster.failures import RunFailure, RunStopped, TooManyFailures, first_line
from cluster.handles import BlockRows, PackedBucket, RolloutWorkerHandle, Share
from cluster.ledger import Batch, Ledger, Stream
from cluster.prometheus import QUEUES, RunMetrics
from cluster.run_folder import folder_of
from cluster.tracing import count, record_spans
from cluster.training_episodes import training_groups
from cluster.wait import wait_for_async
from configs.schema import RunConfig
from learner.minibatches import deal, update_minibatches
from rollout.episode import EpisodeRequest
from rollout.trajectory import Block
from rollout.trajectory_summary import TrajectorySummary, from_columns

T = TypeVar("T")
TRACER = trace.get_tracer("cardinal")
QUEUED = ("queued", "running", "ready", "taken")  # of the ledger's states, those of now
QUEUES_S = 0.1  # between two looks at how many episodes are where


@dataclass(frozen=True)
class BufferedTrajectory:
    """Where a trajectory is stored, and its summary."""

    block: ObjectRef[Block]
    row: int
    summary: TrajectorySummary


@ray.remote(num_cpus=0)
class TrajectoryBuffer:
    """Plays training episodes ahead of the learner, and requested ones at once.

    `cluster.handles.BufferHandle` is its handle. The first failure ends every wait.
    """

    def __init__(self, workers: list[RolloutWorkerHandle], cfg: RunConfig) -> None:
        record_spans(folder_of(cfg), "trajectory buffer")
        self._workers, self._cfg = workers, cfg
        self._ledger: Ledger[BufferedTrajectory] = Ledger()
        self._versions = [-1] * len(workers)
        # A worker's queue is a block longer than its flight, so that its batch never drains.
        self._capacity = cfg.rollout.in_flight + cfg.rollout.block
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._receivers, self._calls, self._epoch = 0, 0, 0
        self._submissions = 0  # that no worker has confirmed
        self._publishing: set[asyncio.Task[tuple[float, list[float]]]] = set()
        self._failure: RunFailure | None = None
        self._stopping = False
        self._collected: list[BufferedTrajectory] = []
        self._batches: dict[int, tuple[Batch[BufferedTrajectory], dict[int, list[BlockRows]]]] = {}
        self._taking = asyncio.Lock()
        self._recording = False

    async def collect(self, requests: list[EpisodeRequest]) -> list[TrajectorySummary]:
        """Have episodes played before all others; `shards` and `first` speak of them then.

        Returns:
            Summaries of all trajectories, failed ones too, in the order of the requests.

        Raises:
            DeadlineExceeded: a worker gave no block in time.
            WorkerLost: a worker died.
            TooManyFailures: names the first cause.
        """
        group = self._ledger.request(requests)
        await self._play()
        await self._until(lambda: group.finished)
        trajectories = group.in_order()
        summaries = [trajectory.summary for trajectory in trajectories]
        self._check_failures([s for s in summaries if s.end == "failed"], len(summaries))
        self._collected = [t for t in trajectories if t.summary.end != "failed"]
        return summaries

    def shards(self, ranks: int) -> list[list[BlockRows]]:
        """The collected trajectories of each rank; balanced by tokens, deterministic."""
        return shards(self._collected, ranks)

    def first(self, n: int) -> list[BlockRows]:
        """The first n collected trajectories by id."""
        by_id = sorted(self._collected, key=lambda trajectory: trajectory.summary.id)
        return [BlockRows(trajectory.block, [trajectory.row]) for trajectory in by_id[:n]]

    async def reset(self) -> None:
        """Begin an epoch: nothing that was requested or played before is handed out any more."""
        self._epoch += 1
        self._ledger, self._collected = Ledger(), []
        self._batches.clear()
        # A dead learner's weights die with it, or arrive late: neither concerns the new epoch.
        await asyncio.gather(*self._publishing, return_exceptions=True)
        self._failure = None
        # Ray may run two calls of an actor in another order than they were made.
        await self._until(lambda: self._submissions == 0)
        for index, worker in enumerate(self._workers):
            await self._wait(index, "drop its episodes", worker.drop.remote())
        await self._until(lambda: self._calls == 0)  # blocks on their way are of the old epoch

    async def begin(self, update: int, next_group: int) -> None:
        """Begin an epoch of training: play for `update` and those after it, from a group on."""
        await self.reset()
        ppo = self._cfg.ppo
        groups = training_groups(self._cfg, next_group)
        size = ppo.episodes // ppo.group_size
        self._ledger.begin(Stream(groups, size, ppo.max_staleness, update, ppo.updates))
        await self._play()

    async def take(self, update: int, rank: int) -> Share:
        """A rank's share of the batch of an update, once it is complete.

        Every rank asks once; all get theirs of the same batch.

        Raises:
            RunFailure: as `collect`.
        """
        async with self._taking:
            if update not in self._batches:
                batch = await self._until(lambda: self._complete(update))
                dealt = shards(batch.results, self._cfg.learner.ranks, self._steps(batch, update))
                self._batches[update] = (batch, dict(enumerate(dealt)))
                await self._play()
        batch, shares = self._batches[update]
        rows, states = shares.pop(rank), self._ledger.states()
        if not shares:
            del self._batches[update]
        return Share(rows, batch.staleness, batch.failed, batch.next_group, states)

    async def stop(self) -> None:
        """The run is to end: whoever waits for episodes, now or later, gets RunStopped."""
        self._stopping = True
        await self._fail(RunStopped("the run was asked to stop"))

    def stopping(self) -> bool:
        """Whether the run is to end."""
        return self._stopping

    def _steps(self, batch: Batch[BufferedTrajectory], update: int) -> list[list[str]]:
        """The ids of each minibatch that the learner will make of the batch."""
        trained = [t.summary.id for t in batch.results if t.summary.action_tokens]
        return update_minibatches(trained, self._cfg.ppo, self._cfg.seed, update - 1)

    def _complete(self, update: int) -> Batch[BufferedTrajectory] | None:
        too_old = self._ledger.dropped["too old"]
        batch = self._ledger.take(update)
        if self._ledger.dropped["too old"] > too_old:
            self._start(self._play())  # what is to be played again
        return batch

    async def publish(
        self, version: int, refs: list[ObjectRef[PackedBucket]]
    ) -> tuple[float, list[float]]:
        """Bring weights to all engines; each plays with them as soon as it has them.

        Those of one node load one after another: so most of them play meanwhile, and shared memory
        holds one version and one engine's bucket. Where none plays, all begin together at the end.

        Returns:
            Seconds until the last engine had them, and seconds that each was paused.

        Raises:
            DeadlineExceeded: names the worker that did not confirm.
            WorkerLost: a worker died or refused; names it and the cause.
        """
        publishing = asyncio.ensure_future(self._publish(version, refs))
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)
        attributes = {"track": "weights", "version": version}
        with TRACER.start_as_current_span("weights travel", attributes=attributes):
            return await publishing

    async def _publish(
        self, version: int, refs: list[ObjectRef[PackedBucket]]
    ) -> tuple[float, list[float]]:
        begin, epoch = time.monotonic(), self._epoch
        nodes: dict[str, list[int]] = defaultdict(list)
        for index, worker in enumerate(self._workers):
            nodes[await self._receive(index, worker.node.remote(), version, epoch)] += [index]
        paused = [0.0] * len(self._workers)
        playing = self._ledger.states()["running"]

        async def load(indices: list[int]) -> None:
            for index in indices:
                ref = self._workers[index].receive.remote(version, refs)
                paused[index] = await self._receive(index, ref, version, epoch)
                if playing and epoch == self._epoch:
                    await self._loaded([index], version)

        await asyncio.gather(*(load(indices) for indices in nodes.values()))
        if not playing and epoch == self._epoch:  # or the first one would be given all episodes
            await self._loaded([*range(len(self._workers))], version)
        return time.monotonic() - begin, paused

    async def _receive(self, index: int, ref: ObjectRef[T], version: int, epoch: int) -> T:
        """A worker's answer in a publish; a failure ends the waits of the same epoch."""
        who, what = f"rollout worker {index}", f"receive weights of version {version}"
        seconds = self._cfg.cluster.sync_deadline_s
        try:
            return await wait_for_async(ref, who, what, seconds, "sync_deadline_s")
        except RunFailure as failure:
            if epoch == self._epoch:
                await self._fail(failure)
            raise

    async def published(self, version: int) -> None:
        """All engines have weights that came over another channel."""
        await self._loaded(list(range(len(self._workers))), version)

    async def _loaded(self, indices: list[int], version: int) -> None:
        self._ledger.trained(version)
        for index in indices:
            self._versions[index] = version
        await self._play()

    async def _play(self) -> None:
        """Give workers what they may play now, and whoever waits a look at the ledger."""
        given = self._ledger.assign(self._versions, self._capacity)
        for index, requests in given.items():
            self._submissions += 1
            self._start(self._submit(index, requests))
        if not self._recording:
            self._recording = True
            self._start(self._record_queues())
        while self._receivers < len(self._workers):
            self._start(self._receive_blocks(self._receivers))
            self._receivers += 1
        async with self._changed:
            self._changed.notify_all()

    async def _record_queues(self) -> None:
        """Record how many episodes are where, whenever that has changed."""
        metrics, before = RunMetrics(self._cfg.name), dict[str, int]()
        while True:
            states = self._ledger.states()
            if states != before:
                before = states
                count("episodes", {state: states[state] for state in QUEUED})
                metrics.set_all(QUEUES, states)
            await asyncio.sleep(QUEUES_S)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except RunFailure as failure:
                await self._fail(failure)
            except Exception as error:  # noqa: BLE001 - a task's boundary; else all would wait
                await self._fail(RunFailure(f"the trajectory buffer broke: {first_line(error)}"))

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _submit(self, index: int, requests: list[EpisodeRequest]) -> None:
        await self._wait(index, "take requests", self._workers[index].submit.remote(requests))
        self._submissions -= 1
        async with self._changed:
            self._changed.notify_all()

    async def _receive_blocks(self, index: int) -> None:
        """Take blocks from a worker whenever it plays."""
        what = "finish a block of episodes"
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._ledger.running(index) > 0)
            self._calls += 1
            block, columns = self._workers[index].next_block.remote()
            try:
                summaries = from_columns(await self._wait(index, what, columns))
            finally:
                self._calls -= 1
            stored = [BufferedTrajectory(block, row, s) for row, s in enumerate(summaries)]
            self._ledger.finish(stored)
            episodes = max(self._ledger.finished, self._cfg.ppo.episodes)
            self._check_failures(self._ledger.failures, episodes)
            await self._play()

    async def _wait(self, index: int, what: str, ref: ObjectRef[T]) -> T:
        seconds = self._cfg.cluster.block_deadline_s
        return await wait_for_async(
            ref, f"rollout worker {index}", what, seconds, "block_deadline_s"
        )

    async def _until(self, reached: Callable[[], T | None]) -> T:
        """Wait for a true answer; the first failure of any part is raised instead."""
        epoch = self._epoch
        while True:
            if self._failure is not None:
                raise self._failure
            if epoch != self._epoch:
                raise RunFailure("a restarted learner has begun a new epoch")
            answer = reached()
            if answer:
                return answer
            async with self._changed:
                await self._changed.wait()

    async def _fail(self, failure: RunFailure) -> RunFailure:
        """Keep the first failure, for whoever waits now or later."""
        self._failure = self._failure or failure
        async with self._changed:
            self._changed.notify_all()
        return failure

    def _check_failures(self, failed: list[TrajectorySummary], episodes: int) -> None:
        rate = self._cfg.cluster.max_failure_rate
        if len(failed) > rate * episodes:
            raise TooManyFailures(
                f"{len(failed)} of {episodes} trajectories failed, more than "
                f"cluster.max_failure_rate = {rate:g}; the first, "
                f"{failed[0].id}: {failed[0].failure}"
            )


def shards(
    trajectories: list[BufferedTrajectory], ranks: int, minibatches: Iterable[list[str]] = ()
) -> list[list[BlockRows]]:
    """The trajectories of each rank; each minibatch of ids balanced by tokens; deterministic."""
    ordered = sorted(trajectories, key=lambda trajectory: trajectory.summary.id)
    rank_of = deal({t.summary.id: t.summary.tokens for t in ordered}, minibatches, ranks)
    rows: list[dict[ObjectRef[Block], list[int]]] = [{} for _ in range(ranks)]
    for trajectory in ordered:
        own = rows[rank_of[trajectory.summary.id]]
        own.setdefault(trajectory.block, []).append(trajectory.row)
    return [[BlockRows(*item) for item in blocks.items()] for blocks in rows]
