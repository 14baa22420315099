"""Numbers across ranks: alone, and between two processes."""

from __future__ import annotations

import os
import time
from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed as dist

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


@pytest.mark.parametrize("ids", [range(8), range(8, 16), range(16), (3, 9, 10, 11)])
def test_deepspeed_is_told_the_gpu_that_ray_gave(monkeypatch, ids):
    """By Ray Train's own order of a node's GPUs, which is that of strings: 10 is before 9."""
    from ray.train.v2._internal.callbacks import accelerators  # seconds, for each rank below too
    from ray.train.v2._internal.execution.worker_group import ActorMetadata

    given = [{"GPU": [str(i)]} for i in ids]
    workers = [ActorMetadata("host", "node", "address", 1, each) for each in given]
    visible = accelerators._get_visible_accelerator_ids_per_worker(workers, "GPU")
    said = []
    monkeypatch.setenv("LOCAL_RANK", "?")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for rank, own in enumerate(given):
        index = visible[rank].split(",").index(own["GPU"][0])  # ray.train.torch.get_device
        monkeypatch.setattr(torch.cuda, "current_device", lambda index=index: index)
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        distributed.join_process_group()
        assert os.environ["LOCAL_RANK"] == str(index)
        said.append(index)
    assert sorted(said) == list(range(len(given)))  # one of them makes what a node has once


def test_without_gpus_a_launchers_rank_stays(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    distributed.join_process_group()
    assert os.environ["LOCAL_RANK"] == "3"
    monkeypatch.delenv("LOCAL_RANK")
    distributed.join_process_group()
    assert os.environ["LOCAL_RANK"] == "0"


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


def work_twice(rank, out):
    """In a world of gloo, then as on GPUs, where a group of gloo is made beside NCCL's."""
    for backend in ("gloo", "nccl"):
        (out / backend).mkdir(exist_ok=True)
    work(rank, out / "gloo")
    real, world = dist.get_backend, dist.group.WORLD
    dist.get_backend = lambda group=None: "nccl" if group in (None, world) else real(group)
    work(rank, out / "nccl")
    (group,) = {distributed._group() for _ in range(3)}
    timeouts = [g._get_backend(torch.device("cpu")).options._timeout for g in (group, world)]
    own = group is not world and real(group) == "gloo"
    np.savez(out / f"{rank}.npz", own=own, alike=timeouts[0] == timeouts[1])


def test_two_ranks(tmp_path):
    spawn(work_twice, 2, tmp_path)
    for rank, backend in product((0, 1), ("gloo", "nccl")):
        result = np.load(tmp_path / backend / f"{rank}.npz")
        assert result["written"]
        assert result["world_size"] == 2
        assert result["total"].tolist() == [1, 2]
        assert result["largest"].tolist() == [1]
        assert result["gathered"].tolist() == ["r0", "r1"]
        assert result["added"] == 2.0  # one rank had no terms
        beside = np.load(tmp_path / f"{rank}.npz")
        assert beside["own"]
        assert beside["alike"]
