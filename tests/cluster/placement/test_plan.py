"""The processes that a run requests, and the kind of error if they do not fit."""

import pytest

from cluster.failures import ClusterBusyError, PlacementError
from cluster.placement.layout import without_engines
from cluster.placement.plan import cpus, groups, plan
from cluster.placement.types import DATA, RANK, WORKER, Group, Needs
from tests.cluster.placement.clusters import GIB, LARGE, SMALL, debug, node


def test_evaluation_places_workers_only():
    found = plan(debug("rollout.workers=2"), SMALL, learn=False)
    assert {p.role for p in found.places} == {WORKER}


PARTS = {"weights": 2 * GIB, "cache of one context": GIB}
NEEDS = Needs(worker=1, rank=2, engine_gpu=PARTS, rank_gpu=4 * GIB, weights=5)
KEYS = ("rollout.workers=2", "learner.ranks=4", "rollout.tensor_parallel=2", "rollout.cpus=3")
GPU_KEYS = (*KEYS, "learner.cpus=2", "rollout.gpu_memory=0.5", "cluster.accelerator=L4")


@pytest.mark.parametrize(("share", "gib"), [(0.5, 8.0), (0.75, 12.0), (1.0, 300.0)])
def test_a_gpu_has_an_engines_share_and_what_is_beside_it(share, gib):
    needs = Needs(engine_gpu={"weights": 3 * GIB, "cache": GIB}, worker_beside=3 * GIB)
    worker = groups(debug(f"rollout.gpu_memory={share}"), True, needs)[0]
    assert worker.gpu_gib == pytest.approx(gib)
    assert groups(debug(), True, Needs(engine_gpu={"weights": 4 * GIB}))[0].gpu_gib == 4 / 0.85


def test_what_a_run_requests():
    said = "weights 2.0, cache of one context 1.0, all in rollout.gpu_memory=0.5"
    assert groups(debug(*GPU_KEYS), True, NEEDS) == (
        Group(WORKER, 2, 3.0, 2.0, 1, 6.0, said, 5, "L4"),
        Group(RANK, 4, 2.0, 1.0, 2, 4 / 0.9, "", 5, "L4"),
        Group(DATA, 1, 0.5),
    )
    worker, rank, _ = groups(debug(*GPU_KEYS), False, NEEDS)
    assert (worker.gpus, worker.gpu_gib) == (rank.gpus, rank.gpu_gib) == (0.0, 0.0)
    assert worker.gpu_parts == ""
    assert [g.role for g in groups(debug("sft.steps=0"), False, NEEDS)] == [WORKER, RANK]
    assert cpus(debug(*GPU_KEYS)) == 2 * 3 + 4 * 2 + 0.5


def test_a_colocated_engine_requests_no_gpu_of_its_own():
    cfg = debug(*GPU_KEYS, "cluster.layout=colocated")
    assert groups(cfg, True, NEEDS)[0].gpus == 0
    (worker,) = groups(cfg, True, NEEDS, learn=False)
    assert worker.gpus == 2


def test_what_would_fit_an_empty_cluster_is_told_from_what_never_will():
    full = [node("a", 4, free={"CPU": 0.5})]
    with pytest.raises(ClusterBusyError, match="the cluster is busy"):
        plan(debug(), full)
    with pytest.raises(PlacementError) as error:
        plan(debug("learner.ranks=8"), full)
    assert type(error.value) is PlacementError


def test_tensor_parallelism_counts_gpus():
    many = [node(name, 64) for name in "abc"]
    with pytest.raises(PlacementError, match="counts GPUs, and no node has one"):
        plan(debug("rollout.tensor_parallel=2"), many)
    assert not plan(debug(), many).gpu
    assert plan(debug(), LARGE).gpu
    colocated = debug("cluster.layout=colocated")
    assert plan(colocated, LARGE).gpu
    assert not plan(colocated, many).gpu


def test_the_plan_holds_every_node_by_name():
    assert [n.name for n in plan(debug(), SMALL[::-1]).nodes] == ["a", "b", "c", "head"]


@pytest.mark.parametrize("nodes", [SMALL, LARGE])
def test_without_engines_there_are_ranks_alone(nodes):
    settings = ["ppo.blocks=x", "model.path=y", "sft.steps=0", "learner.ranks=2"]
    found = plan(without_engines(debug(*settings)), nodes)
    assert [p.role for p in found.places] == [RANK, RANK]
    assert len(found.hosts()) == 1
