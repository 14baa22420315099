"""The trajectory buffer: has workers play what the ledger admits, and keeps references to it.

It asks workers for their next block, so it owns the references, and a worker's death loses no
finished block. It never holds an array (refs-move-bytes-do-not). All that is known of an episode
is in the ledger; here are the waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TypeVar

import ray
from opentelemetry import trace
from ray import ObjectRef

from cluster.failures import (
    EpochOver,
    RunFailure,
    RunStopped,
    SourceLost,
    first_line,
)
from cluster.handles import BlockRows, PackedBucket, Paused, RolloutWorkerHandle, Share, find_worker
from cluster.run.run_folder import folder_of
from cluster.run.tracing import record_spans
from cluster.stream.failed_episodes import check_failures
from cluster.stream.ledger import Batch, Ledger
from cluster.stream.queue_lengths import record_queues
from cluster.stream.shares import BufferedTrajectory, Shares
from cluster.stream.training_episodes import training_stream
from cluster.workers.engine_loads import engine_loads
from cluster.workers.engine_weights import EngineWeights
from cluster.workers.supervisor import Supervisor, WorkerGone
from configs.schema import RunConfig
from report.metrics import Record
from rollout.engine_load import EngineLoad
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary, from_columns

T = TypeVar("T")


@ray.remote(num_cpus=0)
class TrajectoryBuffer:
    """Plays training episodes ahead of the learner, and requested ones at once.

    `cluster.handles.BufferActor` is its handle. A worker that is lost is replaced, and its episodes
    are played again; the first failure that cannot be mended so ends every wait.

    workers: names or handles.
    replaceable: whether a new engine can get weights without the learner's part in it.
    """

    def __init__(
        self, workers: Sequence[RolloutWorkerHandle | str], cfg: RunConfig, replaceable: bool = True
    ) -> None:
        record_spans(folder_of(cfg), "trajectory buffer")
        self._workers, self._cfg = [find_worker(w) for w in workers], cfg
        takes_over = ray.get_runtime_context().was_current_actor_reconstructed
        self._supervisor = Supervisor(self._workers, cfg, replaceable, self, takes_over)
        self._ledger: Ledger[BufferedTrajectory] = Ledger()
        self._weights = EngineWeights(self._workers, cfg, self._supervisor, takes_over)
        # A worker's queue is a block longer than its flight, so that its batch never drains.
        self._capacity = cfg.rollout.in_flight + cfg.rollout.block
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = int(time.time()) if takes_over else 0  # higher than any of the lost one
        self._unproven: dict[int, int] = {}  # engines of `play_unproven`, by worker
        self._asked: set[int] = set()  # workers that have been asked for a block
        self._next_requests: dict[int, list[EpisodeRequest]] = defaultdict(list)  # of the others
        self._foreign = 0  # trajectories and calls of epochs that were over
        self._publishing: set[asyncio.Task[Paused]] = set()
        self._failure: RunFailure | None = None  # of this epoch
        self._end: RunFailure | None = None  # of the run, whatever epoch
        self._stopping = self._begun = False
        self._shares = Shares(cfg)
        self._taking = asyncio.Lock()

    async def start(self) -> list[str]:
        """Start all engines, once; ids of their nodes.

        Raises:
            RunFailure: one does not start; names the worker and the cause.
        """
        await self._supervisor.start()
        return self._supervisor.nodes

    async def heartbeat(self) -> None:
        """A sign of life, for the driver."""

    async def loads(self) -> list[EngineLoad | None]:
        """How busy each engine was since its start; see `cluster.workers.engine_loads`."""
        return await engine_loads(self._workers, self._supervisor)

    def incidents(self) -> list[Record]:
        """Losses and restarts of workers, and of this buffer, since the last call."""
        incidents, self._supervisor.incidents = self._supervisor.incidents, []
        return incidents

    def note(self, incident: Record) -> None:
        """Add to the incidents."""
        self._supervisor.incidents.append(incident)

    async def collect(self, epoch: int, requests: list[EpisodeRequest]) -> list[TrajectorySummary]:
        """Have episodes played before all others; `shard` and `first` speak of them then.

        Returns:
            Summaries of all trajectories, failed ones too, in the order of the requests.

        Raises:
            TooManyFailures: names the first cause.
            RunFailure: a worker raised an error of its own, or was lost too often.
        """
        self._refuse_foreign(epoch)
        group = self._ledger.request(requests)
        await self._play()
        await self._until(lambda: group.finished)
        trajectories = group.in_order()
        summaries = [trajectory.summary for trajectory in trajectories]
        failed = [s for s in summaries if s.end == "failed"]
        check_failures(self._cfg.cluster.max_failure_rate, failed, len(summaries))
        self._shares.hold([t for t in trajectories if t.summary.end != "failed"])
        return summaries

    async def play_unproven(
        self, epoch: int, version: int, requests: list[EpisodeRequest]
    ) -> list[int]:
        """Have each engine that joined unproven play episodes, with weights of that version.

        `shard` speaks of them then. One that is lost meanwhile is proven anew when it is back.

        Returns:
            The engines' workers; empty at once where all are proven.
        """
        self._refuse_foreign(epoch)
        self._unproven = self._weights.unproven()
        groups = {
            worker: self._ledger.request_of(
                worker, [replace(r, id=f"{r.id}/{worker}") for r in requests], version
            )
            for worker in self._unproven
        }
        await self._play()
        await self._until(lambda: all(group.finished for group in groups.values()))
        for worker, group in groups.items():
            if group.requests and group.failed:
                cause = group.in_order()[0].summary.failure
                self._weights.tell_unplayed(worker, self._unproven[worker], cause)
        self._shares.hold([t for group in groups.values() for t in group.ended_well()])
        return [*groups]

    def proven(self, worker: int) -> None:
        """The learner has compared what an engine of `play_unproven` has played."""
        self._weights.prove(worker, self._unproven.get(worker, 0))

    def shard(self, rank: int) -> list[BlockRows]:
        """A rank's part of the collected trajectories; balanced by tokens, deterministic."""
        return self._shares.shard(rank)

    def first(self, n: int) -> list[BlockRows]:
        """The first n collected trajectories by id."""
        return self._shares.first(n)

    def release(self, epoch: int) -> None:
        """Nobody needs what was collected any more."""
        if epoch == self._epoch:
            self._shares.hold([])

    async def reset(self) -> int:
        """Begin an epoch of the run: the first act of a learner group that starts, or restarts.

        Nothing that was requested, played or published before is handed out any more. Whoever
        belongs to it gives its number, which is returned, with each call.
        """
        self._epoch += 1
        self._ledger.forget()
        self._shares = Shares(self._cfg)
        self._next_requests.clear()
        self._weights.forget()
        async with self._changed:
            self._changed.notify_all()  # who still waits belongs to an epoch that is over
        # A dead learner's weights die with it, or arrive late: neither concerns the new epoch.
        await asyncio.gather(*self._publishing, return_exceptions=True)
        self._failure = self._end
        for index in self._supervisor.present():
            self._start(self._enter(index, self._epoch))
        return self._epoch

    def _refuse_foreign(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._foreign += 1
            raise EpochOver("a restarted learner has begun a new epoch")

    async def begin(self, epoch: int, update: int, next_group: int) -> None:
        """Play for `update` and those after it, from a group on."""
        self._refuse_foreign(epoch)
        self._ledger.begin(training_stream(self._cfg, update, next_group))
        await self._play()

    async def take(self, epoch: int, update: int, rank: int) -> Share:
        """A rank's share of the batch of an update, once it is complete.

        Every rank asks once; all get theirs of the same batch.

        Raises:
            RunFailure: as `collect`.
        """
        async with self._taking:
            self._refuse_foreign(epoch)
            if update not in self._shares:
                self._shares.deal(update, await self._until(lambda: self._complete(update)))
                await self._play()
        self._refuse_foreign(epoch)  # it may have ended while another rank was waited for
        return self._shares.take(update, rank, self._states())

    async def stop(self) -> None:
        """The run is to end: whoever waits for episodes, now or later, gets RunStopped."""
        self._stopping = True
        await self.fail(RunStopped("the run was asked to stop"))

    def stopping(self) -> bool:
        """Whether the run is to end."""
        return self._stopping

    def _complete(self, update: int) -> Batch[BufferedTrajectory] | None:
        too_old = self._ledger.dropped["too old"]
        batch = self._ledger.take(update)
        if self._ledger.dropped["too old"] > too_old:
            self._start(self._play())  # what is to be played again
        return batch

    async def publish(
        self, epoch: int, version: int, refs: list[ObjectRef[PackedBucket]]
    ) -> Paused:
        """Bring weights to all engines; each plays with them as soon as it has them.

        Those of one node load one after another: so most of them play, and each copy in shared
        memory is gone before the next one is made. One that is lost meanwhile is not waited for;
        its successor gets these weights, or newer ones.

        Returns:
            Seconds until the last engine had them, and seconds of each one's pause, if it has them.

        Raises:
            RunFailure: a worker refused them; names it and the cause.
        """
        self._refuse_foreign(epoch)
        if self._failure is not None and not self._stopping:  # a run that stops ends its update
            raise self._failure
        self._ledger.trained(version)
        playing = bool(self._ledger.states()["running"])
        work = self._weights.publish(version, refs, playing, self._play)
        publishing = asyncio.ensure_future(work)
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)
        attributes: dict[str, str | int] = {"track": "weights", "version": version}
        try:
            tracer = trace.get_tracer("cardinal")  # no global: Ray could not send this class
            with tracer.start_as_current_span("weights travel", attributes=attributes):
                return await publishing
        except RunFailure as failure:
            # Weights are lost with the rank that sent them: its successor begins an epoch.
            if epoch == self._epoch and not isinstance(failure, SourceLost):
                await self._fail(failure)
            raise

    async def published(self, epoch: int, version: int) -> None:
        """All engines have weights that came over another channel."""
        self._refuse_foreign(epoch)
        self._ledger.trained(version)
        self._weights.take_note(version)
        await self._play()

    def _states(self) -> dict[str, int]:
        """As `Ledger.states`, with what was dropped in other epochs as foreign."""
        states, key = self._ledger.states(), "dropped foreign"
        foreign = self._foreign + states.get(key, 0)
        return states | ({key: foreign} if foreign else {})

    def lost(self, index: int, cause: str) -> Record:
        """A worker is gone; see `cluster.workers.supervisor.Fleet`."""

        def failed(request: EpisodeRequest, losses: int) -> BufferedTrajectory:
            words = f"quarantined: {losses} workers were lost with its question; the last: {cause}"
            summary = TrajectorySummary(request.id, "failed", words, 0.0, 0, 0, -1, {})
            return BufferedTrajectory(None, 0, summary, index)

        self._next_requests.pop(index, None)
        again, quarantined = self._ledger.lose(index, failed)
        self._start(self._play())
        return {"episodes": again, "quarantined": quarantined}

    async def prepare(self, index: int) -> Record:
        """Bring a new engine to where the others are; see `Fleet`."""
        await self._enter(index, self._epoch)
        return await self._weights.bring(index)

    async def present(self) -> None:
        """A worker serves, or serves again; see `Fleet`."""
        await self._play()

    async def _play(self) -> None:
        """Give workers what they may play now, and whoever waits a look at the ledger."""
        serves = self._supervisor.serves
        versions = [v if serves(index) else None for index, v in enumerate(self._weights.versions)]
        for index, requests in self._ledger.assign(versions, self._capacity).items():
            if index in self._asked:
                self._start(self._submit(index, self._epoch, requests))
            else:
                self._next_requests[index] += requests
        if not self._begun:
            self._begun = True
            self._start(record_queues(self._cfg.name, lambda: self._ledger.states()))
            for index in range(len(self._workers)):
                self._start(self._receive_blocks(index))
        async with self._changed:
            self._changed.notify_all()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except WorkerGone:
            pass  # the ledger has its episodes again
        except RunFailure as failure:
            await self._fail(failure)
        except Exception as error:  # noqa: BLE001 - a task's boundary; else all would wait
            await self._fail(RunFailure(f"the trajectory buffer broke: {first_line(error)}"))

    async def _submit(self, index: int, epoch: int, requests: list[EpisodeRequest]) -> None:
        await self._ask(index, "take requests", self._workers[index].submit.remote(epoch, requests))

    async def _enter(self, index: int, epoch: int) -> None:
        await self._ask(index, "drop its episodes", self._workers[index].enter.remote(epoch))

    async def _receive_blocks(self, index: int) -> None:
        """Take blocks from a worker whenever it plays, and nothing has failed in the epoch."""
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._failure is None and self._ledger.running(index) > 0
                )
            await self._guarded(self._receive_block(index))

    async def _receive_block(self, index: int) -> None:
        """Take a block from a worker; the call for it brings new requests."""
        requests = self._next_requests.pop(index, [])
        block, ref = self._workers[index].next_block.remote(self._epoch, requests)
        self._asked.add(index)
        try:
            finished = await self._ask(index, "finish a block of episodes", ref)
        finally:
            self._asked.discard(index)
        summaries = from_columns(finished["columns"])
        if finished["epoch"] != self._epoch:
            self._foreign += len(summaries)
            return
        stored = [BufferedTrajectory(block, row, s, index) for row, s in enumerate(summaries)]
        for request, trajectory in self._ledger.finish(stored):
            self._weights.keep_sample(request, trajectory.rows, trajectory.summary.oldest_version)
        episodes = max(self._ledger.finished, self._cfg.ppo.episodes)
        check_failures(self._cfg.cluster.max_failure_rate, self._ledger.failures, episodes)
        await self._play()

    async def _ask(self, index: int, what: str, ref: ObjectRef[T]) -> T:
        seconds = self._cfg.cluster.block_deadline_s
        return await self._supervisor.ask(index, what, ref, seconds, "block_deadline_s")

    async def _until(self, reached: Callable[[], T | None]) -> T:
        """Wait for a true answer; the first failure of any part is raised instead."""
        epoch = self._epoch
        while True:
            if epoch != self._epoch:
                raise EpochOver("a restarted learner has begun a new epoch")
            if self._failure is not None:
                raise self._failure
            if answer := reached():
                return answer
            async with self._changed:
                await self._changed.wait()

    async def fail(self, failure: RunFailure) -> None:
        """The run cannot continue, nor in another epoch; see `Fleet`."""
        self._end = self._end or failure
        await self._fail(failure)

    async def _fail(self, failure: RunFailure) -> None:
        """Keep the epoch's first failure, for whoever waits now or later."""
        self._failure = self._failure or failure
        async with self._changed:
            self._changed.notify_all()
