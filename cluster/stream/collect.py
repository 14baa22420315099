"""A learner's side of the buffer: batches of training episodes, and episodes on request.

Output: on each rank the trajectories of its own share, as views on shared memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from opentelemetry import trace
from ray import ObjectRef

from cluster.deadlines import play_deadline_s, take_deadline_s
from cluster.failures import RunStopped
from cluster.handles import BlockRows, BufferHandle, Share
from cluster.job import Job
from cluster.wait import wait_for, wait_for_all, wait_until_ready
from configs.schema import RunConfig
from learner import distributed
from learner.packed_update import PackedUpdate
from report.metrics import Record
from rollout.engine_load import EngineLoad
from rollout.episode import EpisodeRequest
from rollout.trajectory import Trajectory, from_block
from rollout.trajectory_summary import TrajectorySummary

R = TypeVar("R")
T = TypeVar("T")
RECEIVING = threading.Lock()  # references to blocks
TRACER = trace.get_tracer("cardinal")


def collect(
    cfg: RunConfig, buffer: BufferHandle, requests: list[EpisodeRequest]
) -> list[TrajectorySummary]:
    """Have the buffer play episodes; the deadline is that of all their blocks, one after another.

    Raises:
        RunFailure: as `TrajectoryBuffer.collect`.
    """
    ref = buffer.collect.remote(requests)
    seconds = play_deadline_s(cfg, len(requests))
    return wait_for(ref, "the buffer", "collect the episodes", seconds, "block_deadline_s")


def fetch(cfg: RunConfig, shard: list[BlockRows]) -> list[Trajectory]:
    """Fetch blocks and pick their rows; the arrays are views on shared memory.

    In the order of their ids: which episodes share a block is a matter of time, and a learner that
    sums in another order rounds otherwise (resume-loses-nothing).

    Raises:
        RunFailure: a block does not arrive, or is lost with the process that owned it.
    """
    refs = [rows.block for rows in shard]
    what, seconds = "reach this node from the object store", cfg.cluster.block_deadline_s
    begin = time.monotonic()
    blocks = wait_for_all(refs, "block", what, seconds, "block_deadline_s", begin)
    trajectories = []
    for block, (_, rows, worker) in zip(blocks, shard, strict=True):
        trajectories += [replace(t, worker=worker) for t in from_block(block, rows)]
    return sorted(trajectories, key=lambda trajectory: trajectory.id)


def receive(
    call: Callable[[], ObjectRef[T]], use: Callable[[T], R], what: str, seconds: float
) -> R:
    """Read an answer of the buffer's that holds references, by one thread of the process at a time.

    Ray 2.60 never resolves a reference that is dropped in one thread while it arrives anew in
    another, as that of a block can that has episodes of an update and of an evaluation.

    Args:
        call: asks the buffer.
        use: reads what the answer refers to; the references are gone once it has returned.
        what: the buffer should do, an infinitive, for the error.
        seconds: how long to wait for the answer.
    """
    ref, asked = call(), ("the buffer", what, seconds, "block_deadline_s")
    wait_until_ready(ref, *asked)
    with RECEIVING:
        try:
            return use(wait_for(ref, *asked))
        finally:
            del ref


def first_trajectories(cfg: RunConfig, buffer: BufferHandle, number: int) -> list[Trajectory]:
    """The first trajectories that the buffer holds, for people to read."""
    what, seconds = "name its first trajectories", cfg.cluster.block_deadline_s
    return receive(lambda: buffer.first.remote(number), partial(fetch, cfg), what, seconds)


def quick_answer(cfg: RunConfig, call: ObjectRef[T], what: str) -> T:
    """The buffer's answer to a call that does no work; it may stand behind one that does."""
    return wait_for(call, "the buffer", what, cfg.cluster.block_deadline_s, "block_deadline_s")


def _idle(load: EngineLoad | None) -> float | None:
    """Share of the time in which an engine was not busy, where that is known."""
    return None if load is None else 1 - load.busy_s / max(load.seconds, 1e-9)


class Batch(NamedTuple):
    """One rank's part of the episodes of an update.

    trajectories: its own; views on shared memory.
    next_group: number of the first group of episodes that no update has taken.
    record: failed, failed_ids, waited_seconds; on rank 0 also the trajectories by staleness, how
        many episodes were where, and figures of all that was played (`of_all_played`).
    packed: the same trajectories in microbatches, where they were fetched ahead.
    """

    trajectories: list[Trajectory]
    next_group: int
    record: Record
    packed: PackedUpdate | None = None


# Makes microbatches of a rank's trajectories, by the ids of each optimizer step.
Pack = Callable[[list[Trajectory], list[list[str]]], PackedUpdate]


class Collector:
    """Episodes for one learner rank; `write` adds a record to the run's metrics."""

    def __init__(self, job: Job, rank: int, write: Callable[..., None]) -> None:
        self._job, self._rank, self._write = job, rank, write
        self._pack: Pack | None = None
        self._ahead: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[Batch]] | None = None
        self._loads: ObjectRef[list[EngineLoad | None]] | None = None  # on their way
        self._counted: dict[int, EngineLoad] = {}  # of each engine, when it was last known

    def begin(self, update: int, next_group: int, pack: Pack | None = None) -> None:
        """Have the engines play for the update and those after it, with the published weights.

        Args:
            update: the first one.
            next_group: number of the first group of episodes.
            pack: for batches that are fetched ahead, on their thread.
        """
        self._pack = pack
        if self._rank == 0:
            call = self._job.buffer.begin.remote(update, next_group)
            quick_answer(self._job.cfg, call, "begin to play")
            self.forget_loads()
        distributed.barrier()

    def updates(self, first: int) -> range:
        """The updates from `first` on that there are batches for."""
        return range(first, self._job.cfg.ppo.updates + 1)

    def write_batch(self, update: int, batch: Batch) -> None:
        """Nothing is kept of what the rank trains on."""

    @TRACER.start_as_current_span("take")
    def take(self, update: int) -> Batch:
        """This rank's part of the batch of an update, once it is complete.

        Where engines play ahead, the next batch is fetched and packed while the learner trains on
        this one.
        """
        begin = time.monotonic()
        ahead, self._next = self._next, None  # which would keep the last batch in the object store
        if ahead is not None and ahead[0] == update:
            batch = ahead[1].result()  # within the deadline of `_take`
        else:
            batch = self._take(update)
        ppo = self._job.cfg.ppo
        if ppo.max_staleness and update < ppo.updates:
            self._ahead = self._ahead or ThreadPoolExecutor(1, "next batch")
            self._next = update + 1, self._ahead.submit(self._take, update + 1, self._pack)
        self._ask_loads()
        return batch._replace(record=batch.record | {"waited_seconds": time.monotonic() - begin})

    @TRACER.start_as_current_span("batch", attributes={"track": "next batch"})
    def _take(self, update: int, pack: Pack | None = None) -> Batch:
        cfg, buffer = self._job.cfg, self._job.buffer
        seconds = take_deadline_s(cfg)
        what = f"complete the batch of update {update}"
        call = partial(buffer.take.remote, update, self._rank)
        batch, minibatches = receive(call, self._batch, what, seconds)
        return batch._replace(packed=pack and pack(batch.trajectories, minibatches))

    def _batch(self, share: Share) -> tuple[Batch, list[list[str]]]:
        record: Record = {"failed": len(share.failed), "failed_ids": share.failed}
        if self._rank == 0:
            record |= {"staleness": share.staleness, "ledger": share.states, **share.played}
        batch = Batch(fetch(self._job.cfg, share.rows), share.next_group, record)
        return batch, share.minibatches

    def forget_loads(self) -> None:
        """Begin to count anew how busy the engines are: they did other things than to play."""
        self._counted.clear()
        self._ask_loads()
        self.loads()

    def _ask_loads(self) -> None:
        """Ask how busy the engines were; `loads` has the answer."""
        if self._rank == 0:
            self._loads = self._job.buffer.loads.remote()

    def loads(self) -> Record:
        """Of the engines until the last batch was taken: sequences while any ran, seconds so, …

        Empty on other ranks than 0. They were asked then, and the learner has worked since. What
        one that did not answer has done is part of its next answer.
        """
        call, self._loads = self._loads, None
        if call is None:
            return {}
        totals = quick_answer(self._job.cfg, call, "give the engines' loads")
        loads = [self._uncounted(engine, total) for engine, total in enumerate(totals)]
        self._write_incidents()
        known = [load for load in loads if load is not None]
        engines = max(1, len(known))  # none, while the only one is replaced
        return {
            "running": sum(load.mean_running for load in known) / engines,
            "sampled_tokens": sum(load.tokens for load in known),
            "busy_seconds": sum(load.busy_s for load in known) / engines,
            "engine_idle": [_idle(load) for load in loads],
        }

    def _uncounted(self, engine: int, total: EngineLoad | None) -> EngineLoad | None:
        """An engine's load since it was last known, where it was."""
        before = self._counted.get(engine)
        if total is None:
            return None
        self._counted[engine] = total
        return before and total.after(before)

    def _write_incidents(self) -> None:
        """Add what has befallen rollout workers to the run's records."""
        call = self._job.buffer.incidents.remote()
        for incident in quick_answer(self._job.cfg, call, "tell what has happened"):
            self._write(**incident)

    def collect(self, requests: list[EpisodeRequest]) -> None:
        """Rank 0 has requested episodes played."""
        if self._rank == 0:
            collect(self._job.cfg, self._job.buffer, requests)

    @TRACER.start_as_current_span("wait for the proof")
    def play_unproven(self, version: int, requests: list[EpisodeRequest]) -> list[int]:
        """Have engines that joined unproven play episodes with weights of that version.

        Returns:
            Their workers, on every rank; none where all are proven or the run is to stop, of which
            the next `take` tells every rank.
        """
        cfg = self._job.cfg
        played = np.zeros(cfg.rollout.workers)
        if self._rank == 0:
            call = self._job.buffer.play_unproven.remote(version, requests)
            what, seconds = "have new engines play", play_deadline_s(cfg, len(requests))
            with suppress(RunStopped):
                workers = wait_for(call, "the buffer", what, seconds, "block_deadline_s")
                played[workers] = 1
        return [int(worker) for worker in np.flatnonzero(distributed.all_max(played))]

    def proven(self, worker: int) -> None:
        """What an engine of `play_unproven` has played was compared."""
        if self._rank == 0:
            self._job.buffer.proven.remote(worker)

    def release(self) -> None:
        """What was collected last is needed no more: the buffer lets go of its blocks."""
        if self._rank == 0:
            self._job.buffer.release.remote()

    def fetch(self) -> list[Trajectory]:
        """This rank's trajectories of what was collected last."""
        distributed.barrier()
        cfg = self._job.cfg
        call = partial(self._job.buffer.shard.remote, self._rank)
        seconds = cfg.cluster.block_deadline_s
        return receive(call, partial(fetch, cfg), "deal out the trajectories", seconds)
