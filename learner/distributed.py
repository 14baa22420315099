"""Numbers across the learner's ranks: sums, maxima, gathered lists; with one rank, themselves.

Uses the process group that is already there; it does not make one (learner.engine may).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(values: ArrayLike) -> NDArray[np.float64]:
    """Sum over ranks of float64 [n], the same on every rank."""
    return _reduce(values, dist.ReduceOp.SUM)


def all_max(values: ArrayLike) -> NDArray[np.float64]:
    """Maximum over ranks of float64 [n], the same on every rank."""
    return _reduce(values, dist.ReduceOp.MAX)


def all_gather(value: Any) -> list[Any]:
    """One small picklable value of each rank, in rank order, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Return once every rank has called it."""
    if world() > 1:
        dist.barrier()


def all_sum_named(shares: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Sum named scalar tensors over a rank's shares and over ranks; a rank may have none."""
    local: dict[str, float] = {}
    if shares:
        sums = torch.stack([sum(s[name].double() for s in shares) for name in shares[0]])  # type: ignore[misc]
        local = dict(zip(shares[0], sums.tolist(), strict=True))
    result: dict[str, float] = {}
    for stats in all_gather(local):
        for name, value in stats.items():
            result[name] = result.get(name, 0.0) + value
    return result


def _reduce(values: ArrayLike, op: Any) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(values, np.float64))
    if world() == 1:
        return array
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(array, device=device)
    dist.all_reduce(tensor, op=op)
    return tensor.cpu().numpy()
