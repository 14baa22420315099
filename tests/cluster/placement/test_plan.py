"""Plans and refusals on nodes as data: no Ray, no waiting."""

import time

import pytest

from cluster.failures import PlacementError
from cluster.placement.plan import DATA, RANK, WORKER, Needs, Node, cpus, plan
from configs.load import load

GIB = 2**30


def node(name, cpu=0, gpu=0, accelerator=None, free=(), memory=64, store=8):
    """A node with its resources in Ray's names; what is 0 it does not have."""
    total = {"CPU": cpu, "GPU": gpu, "memory": memory * GIB, "object_store_memory": store * GIB}
    total = {key: float(value) for key, value in total.items() if value}
    return Node(name, name, total, total | dict(free), accelerator)


HEAD = node("head")
SMALL = [HEAD, node("a", 2), node("b", 2), node("c", 2)]
LARGE = [HEAD, node("gpu-a", 32, 8, "H100"), node("gpu-b", 32, 8, "H100")]


def debug(*overrides):
    return load("gp_l_debug", overrides)


def names(found, role):
    return [p.node.name for p in found.of(role)]


def refused(nodes, *overrides, needs=None):
    """The sentence of the refusal; it comes at once."""
    begin = time.perf_counter()
    with pytest.raises(PlacementError) as error:
        plan(debug(*overrides), nodes, needs)
    assert time.perf_counter() - begin < 10
    assert "\n" not in str(error.value)
    return str(error.value)


# --- plans ---------------------------------------------------------------------------------


def test_ranks_packed_workers_spread_and_an_idle_head_left_alone():
    found = plan(debug("rollout.workers=2", "learner.ranks=2"), SMALL)
    (home,) = set(names(found, RANK))
    assert len(set(names(found, WORKER))) == 2
    assert home not in names(found, WORKER)
    assert "head" not in {p.node.name for p in found.places}
    assert len(found.of(DATA)) == 1
    assert set(found.closed_to_ranks()) == {"head", *names(found, WORKER)}


def test_ranks_are_split_over_the_fewest_nodes_when_one_does_not_hold_them():
    shares = ("rollout.cpus=0.8", "learner.cpus=1.2")
    found = plan(debug("rollout.workers=2", "learner.ranks=2", *shares), SMALL)
    assert len(set(names(found, RANK))) == 2
    assert (
        set(names(found, WORKER)) == {"a", "b", "c"} - {names(found, RANK)[0]}
        or len(set(names(found, WORKER))) == 2
    )


def test_fractional_cpus_share_a_node():
    cfg = debug("rollout.workers=2", "learner.ranks=2", "rollout.cpus=0.3", "learner.cpus=0.2")
    found = plan(cfg, [HEAD, node("a", 2)])
    assert {p.node.name for p in found.places} == {"a"}
    assert cpus(cfg) == pytest.approx(1.5)


def test_tensor_parallel_groups_stay_inside_a_node():
    cfg = debug("rollout.workers=3", "rollout.tensor_parallel=4", "learner.ranks=4")
    found = plan(cfg, LARGE)
    taken = {n: sum(p.gpus for p in found.places if p.node.name == n) for n in ("gpu-a", "gpu-b")}
    assert [p.gpus for p in found.of(WORKER)] == [4, 4, 4]
    assert set(taken.values()) == {8}
    assert len(set(names(found, RANK))) == 1
    assert found.gpu


def test_ranks_leave_whole_nodes_to_tensor_parallel_groups():
    """Ranks go to the smaller node, though the larger comes first."""
    nodes = [node("a", 32, 4, "L4"), node("b", 32, 2, "L4")]
    found = plan(debug("rollout.tensor_parallel=4", "learner.ranks=2"), nodes)
    assert names(found, WORKER) == ["a"]
    assert names(found, RANK) == ["b", "b"]


def test_colocated_engines_stand_beside_the_ranks_whose_gpus_they_use():
    cfg = debug("cluster.layout=colocated", "rollout.workers=4", "rollout.tensor_parallel=4",
                "learner.ranks=16")  # fmt: skip
    found = plan(cfg, LARGE)
    at = names(found, RANK)
    for engine in found.of(WORKER):
        assert engine.gpus == 0
        assert len(engine.shares) == 4
        assert {at[rank] for rank in engine.shares} == {engine.node.name}
    assert [e.devices for e in found.of(WORKER)] == [(0, 1, 2, 3), (4, 5, 6, 7)] * 2
    assert sorted(rank for e in found.of(WORKER) for rank in e.shares) == list(range(16))
    assert found.gpu
    assert any("by turns" in row[-1] for row in found.rows())


def test_only_gpus_of_the_wanted_type_are_used():
    nodes = [node("old", 32, 8, "V100"), node("new", 32, 8, "H100")]
    found = plan(debug("cluster.accelerator=H100", "rollout.workers=4"), nodes)
    assert {p.node.name for p in found.places if p.role != DATA} == {"new"}


def test_evaluation_places_workers_only():
    found = plan(debug("rollout.workers=2"), SMALL, learn=False)
    assert {p.role for p in found.places} == {WORKER}


def test_the_order_of_the_nodes_does_not_matter():
    cfg = debug("rollout.workers=2", "learner.ranks=2")
    assert plan(cfg, SMALL) == plan(cfg, SMALL[::-1])


def test_a_large_cluster_is_planned_at_once():
    nodes = [node(f"n{i:02}", 64, 8, "H100") for i in range(64)]
    cfg = debug("rollout.workers=256", "learner.ranks=256", "sft.batch_size=512")
    begin = time.perf_counter()
    found = plan(cfg, nodes)
    assert time.perf_counter() - begin < 5
    assert len(set(names(found, RANK))) == 32
    assert len(set(names(found, WORKER))) == 32


def test_the_table_names_each_node_and_its_work():
    rows = list(plan(debug("rollout.workers=2", "learner.ranks=2"), SMALL).rows())
    text = {row[0]: " ".join(row[1:]) for row in rows}
    assert "(no work)" in text["head"]
    assert any("learner ranks 0-1 (1 CPU each)" in line for line in text.values())
    busy = plan(debug(), [node("a", 8, free={"CPU": 4.0})])
    assert "held by others" in next(busy.rows())[1]


# --- situations that cannot work -----------------------------------------------------------


def test_too_few_gpus():
    said = refused(LARGE, "rollout.workers=2", "rollout.tensor_parallel=4", "learner.ranks=16")
    assert said == (
        "too few GPUs: 2 rollout workers x 4 and 16 learner ranks x 1 need 24 GPU, the cluster has "
        "16 (gpu-a 8 and gpu-b 8); learner.ranks=8 would fit"
    )
    plan(debug("rollout.workers=2", "rollout.tensor_parallel=4", "learner.ranks=8"), LARGE)
    said = refused(LARGE, "cluster.layout=colocated", "rollout.workers=20", "learner.ranks=20",
                   "sft.batch_size=40")  # fmt: skip
    assert "20 learner ranks x 1 need 20 GPU" in said
    assert "rollout.workers=16 with learner.ranks=16 would fit" in said


def test_what_would_fit_does_fit():
    for workers, ranks in ((40, 2), (3, 32), (40, 32)):
        wanted = [f"rollout.workers={workers}", f"learner.ranks={ranks}"]
        said = refused(LARGE, *wanted)
        fitting = said.split("; ")[1].removesuffix(" would fit").split(" with ")
        plan(debug(*wanted, *fitting), LARGE)


def test_tensor_parallel_larger_than_a_node():
    said = refused(LARGE, "rollout.tensor_parallel=16")
    assert said.startswith("rollout.tensor_parallel=16 is larger than a node")
    assert "gpu-a, has 8" in said
    assert "8 or fewer would fit" in said
    said = refused(SMALL, "rollout.tensor_parallel=2")
    assert "rollout.tensor_parallel=2 counts GPUs, and no node has one" in said


def test_memory_too_small():
    said = refused(SMALL, needs=Needs(worker=5 * GIB, rank=100 * GIB))
    assert "a learner rank needs 100.0 GiB of memory, and the largest node, a, has 64.0" in said
    said = refused(SMALL, "learner.ranks=8", "learner.cpus=0.1",
                   needs=Needs(worker=5 * GIB, rank=40 * GIB))  # fmt: skip
    assert said.startswith("too little memory: 1 rollout worker x 5.0 and 8 learner ranks x 40.0")
    assert "learner.ranks=2 would fit" in said
    said = refused(SMALL, needs=Needs(weights=14 * GIB))
    assert "14.0 GiB of object store" in said
    assert "has 8.0" in said
    said = refused(LARGE, needs=Needs(worker_device=14 * GIB, rank_device=120 * GIB))
    assert "120.0 GiB of GPU memory" in said
    assert "gpu-a (H100), has 96.0" in said


def test_wrong_accelerator_type():
    said = refused(LARGE, "cluster.accelerator=A100")
    assert said == "cluster.accelerator=A100: the cluster has none, it has H100 (gpu-a and gpu-b)"
    assert "no node has a GPU at all" in refused(SMALL, "cluster.accelerator=A100")


def test_busy_cluster():
    half = node("gpu-a", 32, 8, "H100", free={"GPU": 0.0})
    said = refused([HEAD, half, LARGE[2]], "rollout.workers=8", "learner.ranks=2")
    assert said.startswith("the cluster is busy: 8 rollout workers x 1 and 2 learner ranks x 1")
    assert "others leave 8 (gpu-b); wait until they end" in said
    assert "rollout.workers=6 would fit" in said
    full = [node("a", 4, free={"CPU": 0.5})]
    assert "others leave 0.5 (a); wait until they end" in refused(full)


def test_too_few_cpus():
    said = refused(SMALL, "learner.ranks=8")
    assert "need 9.5 CPU, the cluster has 6 (a 2, b 2 and c 2); learner.ranks=4 would fit" in said
    said = refused(SMALL, "learner.cpus=3")
    assert "a learner rank asks for 3 CPU (learner.cpus) and the largest node, a, has 2" in said
    assert "none of the cluster's 1 nodes offers a CPU or GPU" in refused([HEAD])


def test_resources_that_each_suffice_but_never_on_one_node():
    nodes = [node("wide", 64, 1, "L4", memory=8), node("deep", 64, 1, "L4", memory=8)]
    nodes += [node("fat", 64, memory=512)]
    said = refused(nodes, needs=Needs(worker=16 * GIB, rank=16 * GIB))
    assert "do not fit together on wide, deep and fat" in said
