"""Numbers across ranks: alone, and between two processes."""

from __future__ import annotations

import numpy as np
import torch

from learner import distributed
from tests.learner_support import spawn


def test_alone():
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.total([1, 2.5]).tolist() == [1, 2.5]
    assert distributed.largest(3).tolist() == [3]
    assert distributed.gather("x") == ["x"]
    shares = [{"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0)}]
    assert distributed.add_up(shares) == {"a": 3.0}
    assert distributed.add_up([]) == {}


def work(rank, out):
    shares = [{"a": torch.tensor(1.0)}] * 2 if rank == 1 else []
    np.savez(
        out / f"{rank}.npz",
        world=distributed.world(),
        total=distributed.total([rank, 1]),
        largest=distributed.largest(rank),
        gathered=distributed.gather(f"r{rank}"),
        added=distributed.add_up(shares)["a"],
    )


def test_two_ranks(tmp_path):
    spawn(work, 2, tmp_path)
    for rank in (0, 1):
        found = np.load(tmp_path / f"{rank}.npz")
        assert found["world"] == 2
        assert found["total"].tolist() == [1, 2]
        assert found["largest"].tolist() == [1]
        assert found["gathered"].tolist() == ["r0", "r1"]
        assert found["added"] == 2.0  # one rank had nothing to add
