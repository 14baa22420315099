"""Collectives of small values over the learner's ranks: sum, maximum, gather, barrier.

They go over gloo, beside an NCCL group too: a rank that waits in NCCL keeps its GPU busy, which an
engine may need. Without a process group there is a single rank, and every collective returns its
own input. Each must be called by every rank.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")


def join_process_group() -> None:
    """Make a group of one where there is none (Ray Train makes one)."""
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    # DeepSpeed takes it for the GPU's index. Ray numbers a node's ranks by their GPUs' ids, and
    # lists these to CUDA sorted as strings, 10 before 9. One rank of a node has 0 either way.
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    os.environ.setdefault("LOCAL_RANK", "0")


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(values: ArrayLike) -> NDArray[np.float64]:
    """Sum over ranks of float64 [n], the same on every rank."""
    return _reduce(values, dist.ReduceOp.SUM)


def all_max(values: ArrayLike) -> NDArray[np.float64]:
    """Maximum over ranks of float64 [n], the same on every rank."""
    return _reduce(values, dist.ReduceOp.MAX)


def all_gather(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """The values of all ranks (small, picklable), in rank order, the same on every rank.

    group: one over gloo, whose ranks are meant; None: all.
    """
    if world_size() == 1:
        return [value]
    group = group or _group()
    values = [value] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values


def barrier() -> None:
    """Return once every rank has called it."""
    if world_size() > 1:
        dist.barrier(group=_group())


def all_sum_named(terms: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Sums by name over ranks of each rank's terms, the same on every rank.

    Args:
        terms: scalar tensors by name, with the same names in each; a rank may have none.
    """
    own: dict[str, float] = {}
    if terms:
        zero = torch.zeros((), dtype=torch.float64)
        sums = torch.stack([sum((t[name].double() for t in terms), zero) for name in terms[0]])
        own = dict(zip(terms[0], sums.tolist(), strict=True))
    totals: dict[str, float] = {}
    for rank_sums in all_gather(own):
        for name, value in rank_sums.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _reduce(values: ArrayLike, op: dist.ReduceOp.RedOpType) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(values, np.float64))
    if world_size() == 1:
        return array
    tensor = torch.tensor(array)
    dist.all_reduce(tensor, op=op, group=_group())
    return tensor.numpy()


def _group() -> dist.ProcessGroup:
    """All ranks, over gloo."""
    world = dist.group.WORLD
    assert world is not None
    return world if dist.get_backend() == "gloo" else _beside(world)


def subgroups(size: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """This rank's group of `size` ranks that follow each other: for tensors, and over gloo.

    The first call of all ranks makes it.
    """
    world = dist.group.WORLD
    assert world is not None
    return _subgroups(world, size)


@cache
def _subgroups(world: dist.ProcessGroup, size: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    timeout = _timeout(world)
    group, _ = dist.new_subgroups(size, timeout=timeout)
    if dist.get_backend() == "gloo":
        return group, group
    messages, _ = dist.new_subgroups(size, timeout=timeout, backend="gloo")
    return group, messages


@cache
def _beside(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """A group over gloo with the world's timeout; the first call of all ranks makes it."""
    return dist.new_group(backend="gloo", timeout=_timeout(world))


def _timeout(world: dist.ProcessGroup) -> timedelta:
    device = torch.device("cpu" if dist.get_backend() == "gloo" else "cuda")
    timeout: timedelta = world._get_backend(device).options._timeout
    return timeout
