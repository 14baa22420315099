"""Ray actors as their callers see them: which calls each one answers, with types.

A call is made as `handle.method.remote(...)` and returns a reference at once. Scripted actors
in tests answer the same calls.
"""

from __future__ import annotations

from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import ray
from ray import ObjectRef

from configs.schema import RunConfig
from rollout.bucket import PackedBucket
from rollout.engine_load import EngineLoad
from rollout.environments import Environments as Environments
from rollout.episode import EpisodeRequest
from rollout.trajectory import Block
from rollout.trajectory_summary import SummaryColumns, TrajectorySummary

P = ParamSpec("P")
T = TypeVar("T")
ChannelMessage = dict[str, object]  # vLLM's own init and update info, as keyword arguments


class BlockRows(NamedTuple):
    """Some trajectories of a block.

    block: the block, in the object store.
    rows: which of its trajectories.
    """

    block: ObjectRef[Block]
    rows: list[int]


class Share(NamedTuple):
    """A rank's share of the batch of an update.

    rows: its trajectories.
    staleness: how many of all ranks' are 0, 1, … versions old.
    failed: episodes of all ranks that failed meanwhile; other ones were played in their place.
    next_group: number of the first group of episodes that no update has taken.
    states: how many episodes are where; see `cluster.ledger.Ledger.states`.
    """

    rows: list[BlockRows]
    staleness: list[int]
    failed: int
    next_group: int
    states: dict[str, int]


class RemoteMethod(Protocol[P, T]):
    """An actor's method with one result."""

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[T]:
        """Call it; the reference is to its result."""


class NextBlock(Protocol):
    """`RolloutActor.next_block`: its results are two objects, so that one can move alone."""

    def remote(self) -> tuple[ObjectRef[Block], ObjectRef[SummaryColumns]]:
        """Call it; the references are to the block and to its trajectories' summaries."""


class RolloutWorkerHandle(Protocol):
    """Handle of a `cluster.actors.RolloutActor`."""

    start: RemoteMethod[[], int]
    reconfigure: RemoteMethod[[RunConfig, Environments], None]
    node: RemoteMethod[[], str]
    submit: RemoteMethod[[list[EpisodeRequest]], None]
    drop: RemoteMethod[[], None]
    next_block: NextBlock
    receive: RemoteMethod[[int, list[ObjectRef[PackedBucket]]], float]
    init_weight_transfer: RemoteMethod[[ChannelMessage], None]
    start_weight_update: RemoteMethod[[], None]
    update_weights: RemoteMethod[[ChannelMessage], None]
    finish_weight_update: RemoteMethod[[int], None]
    sleep: RemoteMethod[[], None]
    pop_load: RemoteMethod[[], EngineLoad]
    shutdown: RemoteMethod[[], None]


class BufferHandle(Protocol):
    """Handle of a `cluster.buffer.TrajectoryBuffer`."""

    collect: RemoteMethod[[list[EpisodeRequest]], list[TrajectorySummary]]
    reset: RemoteMethod[[], None]
    begin: RemoteMethod[[int, int], None]
    take: RemoteMethod[[int, int], Share]
    publish: RemoteMethod[[int, list[ObjectRef[PackedBucket]]], tuple[float, list[float]]]
    published: RemoteMethod[[int], None]
    shards: RemoteMethod[[int], list[list[BlockRows]]]
    first: RemoteMethod[[int], list[BlockRows]]
    stop: RemoteMethod[[], None]
    stopping: RemoteMethod[[], bool]


def kill(handle: RolloutWorkerHandle | BufferHandle) -> None:
    """End an actor by force; a dead one is no obstacle."""
    ray.kill(handle)  # type: ignore[arg-type]
