"""Where processes go: packed, spread, colocated, on nodes as data."""

import pytest

from cluster.placement.plan import cpus, plan
from cluster.placement.types import DATA, RANK, WORKER
from tests.cluster.placement.clusters import HEAD, LARGE, SMALL, debug, names, node
from tests.support.effort import assert_turns


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


def test_fractions_add_up_though_floats_do_not():
    """0.3 - 0.1 - 0.1 is less than 0.1."""
    cfg = debug("rollout.workers=2", "rollout.cpus=0.1", "learner.cpus=0.1", "sft.steps=0")
    assert len(plan(cfg, [node("a", 1, free={"CPU": 0.3})]).places) == 3


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


def test_ranks_take_the_smallest_node_that_holds_them_all():
    nodes = [node("a", 32, 8, "L4"), node("b", 32, 2, "L4"), node("c", 32, 4, "L4")]
    found = plan(debug("learner.ranks=2"), nodes)
    assert names(found, RANK) == ["b", "b"]
    assert names(found, WORKER) == ["a"]


def test_ranks_that_no_node_holds_take_the_fewest_nodes():
    nodes = [node("a", 32, 1, "L4"), node("b", 32, 4, "L4"), node("c", 32, 2, "L4")]
    found = plan(debug("learner.ranks=5", "sft.batch_size=40"), nodes)
    assert names(found, RANK) == ["b"] * 4 + ["c"]


def test_workers_rather_go_where_no_ranks_are():
    nodes = [node("a", 8), node("b", 1)]
    found = plan(debug("learner.ranks=2"), nodes)
    assert names(found, RANK) == ["a", "a"]
    assert names(found, WORKER) == ["b"]


def test_colocated_engines_are_numbered_as_their_ranks():
    keys = ("cluster.layout=colocated", "rollout.workers=3", "rollout.tensor_parallel=2")
    found = plan(debug(*keys, "learner.ranks=6", "sft.batch_size=36"), LARGE)
    assert [e.index for e in found.of(WORKER)] == [0, 1, 2]
    assert [e.colocated_ranks for e in found.of(WORKER)] == [(0, 1), (2, 3), (4, 5)]
    assert [r.index for r in found.of(RANK)] == list(range(6))


def test_colocated_engines_share_a_node_with_the_ranks_whose_gpus_they_use():
    cfg = debug(
        "cluster.layout=colocated",
        "rollout.workers=4",
        "rollout.tensor_parallel=4",
        "learner.ranks=16",
    )
    found = plan(cfg, LARGE)
    at = names(found, RANK)
    for engine in found.of(WORKER):
        assert engine.gpus == 0
        assert len(engine.colocated_ranks) == 4
        assert {at[rank] for rank in engine.colocated_ranks} == {engine.node.name}
    assert sorted(rank for e in found.of(WORKER) for rank in e.colocated_ranks) == list(range(16))
    assert found.gpu


def test_only_gpus_of_the_requested_type_are_used():
    nodes = [node("old", 32, 8, "V100"), node("new", 32, 8, "H100")]
    found = plan(debug("cluster.accelerator=H100", "rollout.workers=4"), nodes)
    assert {p.node.name for p in found.places if p.role != DATA} == {"new"}


def test_the_order_of_the_nodes_does_not_matter():
    cfg = debug("rollout.workers=2", "learner.ranks=2")
    assert plan(cfg, SMALL) == plan(cfg, SMALL[::-1])


def test_a_large_cluster_is_planned_at_once():
    nodes = [node(f"n{i:02}", 64, 8, "H100") for i in range(64)]
    cfg = debug("rollout.workers=256", "learner.ranks=256", "sft.batch_size=512")
    found = plan(cfg, nodes)
    assert_turns(lambda: plan(cfg, nodes), 150e6)
    assert len(set(names(found, RANK))) == 32
    assert len(set(names(found, WORKER))) == 32
