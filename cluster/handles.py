"""Ray actors as their callers see them: which calls each one answers, with types.

A call is made as `handle.method.remote(...)` and returns a reference at once. Scripted actors
in tests answer the same calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar

import ray
from ray import ObjectRef

from configs.schema import RunConfig
from report.metrics import Record
from rollout.bucket import PackedBucket
from rollout.engine_load import EngineLoad
from rollout.environments import Environments as Environments
from rollout.episode import EpisodeRequest
from rollout.trajectory import Block
from rollout.trajectory_summary import SummaryColumns, TrajectorySummary

P = ParamSpec("P")
T = TypeVar("T")
# Of a publish: seconds until the last engine had the weights, and seconds for which each was
# paused; None of one that was lost.
Paused = tuple[float, list[float | None]]
ChannelMessage = dict[str, object]  # vLLM's own init and update info, as keyword arguments


class BlockRows(NamedTuple):
    """Some trajectories of a block.

    block: the block, in the object store.
    rows: which of its trajectories.
    worker: index of the rollout worker that played them.
    """

    block: ObjectRef[Block]
    rows: list[int]
    worker: int


class Share(NamedTuple):
    """A rank's share of the batch of an update.

    rows: its trajectories.
    minibatches: ids of those of them that each optimizer step trains on, in its order.
    played: see `cluster.stream.shares.of_all_played`.
    staleness: how many of all ranks' are 0, 1, … versions old.
    failed: ids of all ranks' episodes that failed meanwhile; others were played in their place.
    next_group: number of the first group of episodes that no update has taken.
    states: how many episodes are where; see `cluster.stream.ledger.Ledger.states`.
    """

    rows: list[BlockRows]
    minibatches: list[list[str]]
    played: dict[str, float]
    staleness: list[int]
    failed: list[str]
    next_group: int
    states: dict[str, int]


class RemoteMethod(Protocol[P, T]):
    """An actor's method with one result."""

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[T]:
        """Call it; the reference is to its result."""


class Finished(TypedDict):
    """What is said of a block, in plain values.

    epoch: of the run, in which its episodes were requested.
    columns: its trajectories' summaries.
    """

    epoch: int
    columns: SummaryColumns


class NextBlock(Protocol):
    """`RolloutActor.next_block`: its results are two objects, so that one can move alone."""

    def remote(
        self, epoch: int, requests: list[EpisodeRequest], /
    ) -> tuple[ObjectRef[Block], ObjectRef[Finished]]:
        """Call it; the references are to the block and to what is said of it."""


class RolloutWorkerHandle(Protocol):
    """Handle of a `cluster.actors.RolloutActor`."""

    start: RemoteMethod[[], int]
    reconfigure: RemoteMethod[[RunConfig, Environments], None]
    node: RemoteMethod[[], str]
    use_gpus: RemoteMethod[[list[str]], None]
    heartbeat: RemoteMethod[[float], int]
    enter: RemoteMethod[[int], None]
    submit: RemoteMethod[[int, list[EpisodeRequest]], None]
    next_block: NextBlock
    replay: RemoteMethod[[list[EpisodeRequest], list[BlockRows]], tuple[float, int] | None]
    receive: RemoteMethod[[int, list[ObjectRef[PackedBucket]]], float]
    init_weight_transfer: RemoteMethod[[ChannelMessage], None]
    start_weight_update: RemoteMethod[[], None]
    update_weights: RemoteMethod[[ChannelMessage], None]
    finish_weight_update: RemoteMethod[[int], None]
    sleep: RemoteMethod[[], None]
    total_load: RemoteMethod[[], EngineLoad]
    shutdown: RemoteMethod[[], None]


class BufferActor(Protocol):
    """Handle of a `cluster.stream.buffer.TrajectoryBuffer`; many calls begin with an epoch."""

    start: RemoteMethod[[], list[str]]
    reset: RemoteMethod[[], int]
    heartbeat: RemoteMethod[[], None]
    loads: RemoteMethod[[], list[EngineLoad | None]]
    incidents: RemoteMethod[[], list[Record]]
    collect: RemoteMethod[[int, list[EpisodeRequest]], list[TrajectorySummary]]
    play_unproven: RemoteMethod[[int, int, list[EpisodeRequest]], list[int]]
    proven: RemoteMethod[[int], None]
    begin: RemoteMethod[[int, int, int], None]
    take: RemoteMethod[[int, int, int], Share]
    publish: RemoteMethod[[int, int, list[ObjectRef[PackedBucket]]], Paused]
    published: RemoteMethod[[int, int], None]
    shard: RemoteMethod[[int], list[BlockRows]]
    first: RemoteMethod[[int], list[BlockRows]]
    release: RemoteMethod[[int], None]
    stop: RemoteMethod[[], None]
    stopping: RemoteMethod[[], bool]
    note: RemoteMethod[[Record], None]


@dataclass(frozen=True)
class InEpoch(Generic[P, T]):
    """A method of the buffer, called with an epoch before its arguments."""

    method: RemoteMethod[Concatenate[int, P], T]
    epoch: int

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[T]:
        """Call it."""
        return self.method.remote(self.epoch, *args, **kwargs)


@dataclass(frozen=True)
class BufferHandle:
    """The buffer, as those see it who belong to one epoch of the run.

    What they request, take and publish carries its number; of an epoch that is over it is
    refused, so that nothing of a lost timeline is trained on.
    """

    actor: BufferActor
    epoch: int = 0

    @property
    def start(self) -> RemoteMethod[[], list[str]]:
        """Start all engines; ids of their nodes."""
        return self.actor.start

    @property
    def reset(self) -> RemoteMethod[[], int]:
        """Begin an epoch; its number."""
        return self.actor.reset

    @property
    def heartbeat(self) -> RemoteMethod[[], None]:
        """A sign of life."""
        return self.actor.heartbeat

    @property
    def loads(self) -> RemoteMethod[[], list[EngineLoad | None]]:
        """How busy the engines were."""
        return self.actor.loads

    @property
    def incidents(self) -> RemoteMethod[[], list[Record]]:
        """Losses and restarts of workers since the last call."""
        return self.actor.incidents

    @property
    def collect(self) -> RemoteMethod[[list[EpisodeRequest]], list[TrajectorySummary]]:
        """Have episodes played."""
        return InEpoch(self.actor.collect, self.epoch)

    @property
    def play_unproven(self) -> RemoteMethod[[int, list[EpisodeRequest]], list[int]]:
        """Have engines that joined unproven play; their workers."""
        return InEpoch(self.actor.play_unproven, self.epoch)

    @property
    def proven(self) -> RemoteMethod[[int], None]:
        """An engine has been proven by the learner."""
        return self.actor.proven

    @property
    def begin(self) -> RemoteMethod[[int, int], None]:
        """Play for an update and those after it."""
        return InEpoch(self.actor.begin, self.epoch)

    @property
    def take(self) -> RemoteMethod[[int, int], Share]:
        """A rank's share of the batch of an update."""
        return InEpoch(self.actor.take, self.epoch)

    @property
    def publish(
        self,
    ) -> RemoteMethod[[int, list[ObjectRef[PackedBucket]]], Paused]:
        """Bring weights to all engines."""
        return InEpoch(self.actor.publish, self.epoch)

    @property
    def published(self) -> RemoteMethod[[int], None]:
        """All engines have weights."""
        return InEpoch(self.actor.published, self.epoch)

    @property
    def stop(self) -> RemoteMethod[[], None]:
        """The run is to end."""
        return self.actor.stop

    @property
    def stopping(self) -> RemoteMethod[[], bool]:
        """Whether the run is to end."""
        return self.actor.stopping

    @property
    def note(self) -> RemoteMethod[[Record], None]:
        """Add an incident to those of workers."""
        return self.actor.note

    @property
    def shard(self) -> RemoteMethod[[int], list[BlockRows]]:
        """A rank's part of the collected trajectories."""
        return self.actor.shard

    @property
    def first(self) -> RemoteMethod[[int], list[BlockRows]]:
        """The first collected trajectories."""
        return self.actor.first

    @property
    def release(self) -> RemoteMethod[[], None]:
        """Let go of the collected trajectories."""
        return InEpoch(self.actor.release, self.epoch)


def find_worker(worker: RolloutWorkerHandle | str) -> RolloutWorkerHandle:
    """A worker by its name, or as it is.

    An actor that Ray may restart is given names: for handles among its constructor's arguments
    Ray prints an error, though they can be had again.
    """
    handle = ray.get_actor(worker) if isinstance(worker, str) else worker
    return handle  # type: ignore[return-value]


def kill(handle: RolloutWorkerHandle | BufferActor) -> None:
    """End an actor by force; a dead one is no obstacle."""
    ray.kill(handle)  # type: ignore[arg-type]


def restart(handle: RolloutWorkerHandle | BufferActor) -> None:
    """End an actor by force; Ray starts it anew."""
    ray.kill(handle, no_restart=False)  # type: ignore[arg-type]
