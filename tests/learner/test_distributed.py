"""Numbers across ranks: alone, and between two processes."""

from __future__ import annotations

import time

import numpy as np
import torch

from learner import distributed
from tests.support.learner import spawn


def test_alone():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.all_sum([1, 2.5]).tolist() == [1, 2.5]
    assert distributed.all_max(3).tolist() == [3]
    assert distributed.all_gather("x") == ["x"]
    shares = [{"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0)}]
    assert distributed.all_sum_named(shares) == {"a": 3.0}
    assert distributed.all_sum_named([]) == {}


def work(rank, out):
    if rank == 1:
        time.sleep(0.3)
        (out / "written").touch()
    distributed.barrier()
    shares = [{"a": torch.tensor(1.0)}] * 2 if rank == 1 else []
    np.savez(
        out / f"{rank}.npz",
        written=(out / "written").exists(),  # rank 0 has waited for rank 1
        world_size=distributed.world_size(),
        total=distributed.all_sum([rank, 1]),
        largest=distributed.all_max(rank),
        gathered=distributed.all_gather(f"r{rank}"),
        added=distributed.all_sum_named(shares)["a"],
    )


def test_two_ranks(tmp_path):
    spawn(work, 2, tmp_path)
    for rank in (0, 1):
        result = np.load(tmp_path / f"{rank}.npz")
        assert result["written"]
        assert result["world_size"] == 2
        assert result["total"].tolist() == [1, 2]
        assert result["largest"].tolist() == [1]
        assert result["gathered"].tolist() == ["r0", "r1"]
        assert result["added"] == 2.0  # one rank had no terms
