"""Nodes, groups and plans: which node suits which process, and what a plan says of its nodes."""

from dataclasses import replace

import pytest

from cluster.placement.types import DATA, RANK, WORKER, Group, Node, Place, Plan
from tests.cluster.placement.clusters import GIB, HEAD, node


@pytest.mark.parametrize(
    ("total", "idle"),
    [
        ({}, True),
        ({"memory": 1.0}, True),
        ({"CPU": 0.0, "GPU": 0.0}, True),
        ({"CPU": 1.0}, False),
        ({"GPU": 1.0}, False),
    ],
)
def test_a_node_without_processors_is_kept_free(total, idle):
    assert Node("id", "name", total, total).idle is idle


def test_amounts_are_named_as_ray_names_them():
    group = Group("role", 2, cpus=0.5, gpus=2.0, memory=7)
    assert [group.amount(r) for r in ("CPU", "GPU", "memory")] == [0.5, 2.0, 7]


@pytest.mark.parametrize(
    ("needs", "there", "suits"),
    [
        ({}, node("a", 1), True),
        ({}, node("a", 1, free={"CPU": 0.0}), True),  # what is free does not matter
        ({}, HEAD, False),
        ({"accelerator": "H100"}, node("a", 1, 1, "H100"), True),
        ({"accelerator": "H100"}, node("a", 1, 1, "H200"), False),
        ({"accelerator": "H100"}, node("a", 1, 1), False),
        ({"object_store": 8 * GIB}, node("a", 1), True),
        ({"object_store": 8 * GIB + 1}, node("a", 1), False),
        ({"object_store": 9 * GIB}, Node("a", "a", {"CPU": 1.0}, {}), True),  # not known
        ({"gpu_gib": 24.0}, node("a", 1, 1, "L4"), True),
        ({"gpu_gib": 24.5}, node("a", 1, 1, "L4"), False),
        ({"gpu_gib": 500.0}, node("a", 1, 1, "NEWEST"), True),  # not known
        ({"gpu_gib": 80.5}, node("a", 1, 1, "H100"), False),
        ({"gpu_gib": 80.5}, replace(node("a", 1, 1, "H100"), card=94 * GIB), True),  # it was asked
        ({"gpu_gib": 40.5}, replace(node("a", 1, 1, "A100"), card=40 * GIB), False),
        ({"gpu_gib": 40.5}, replace(node("a", 1, 1), card=40 * GIB), False),
    ],
)
def test_a_node_suits_by_its_kind(needs, there, suits):
    assert Group("role", 1, cpus=1.0, **needs).suits(there) is suits


@pytest.mark.parametrize(
    ("label", "admitted"),
    [
        ("rollout", {WORKER}),
        ("learner", {RANK, DATA}),
        ("colocated", {WORKER, RANK, DATA}),
        ("", {WORKER, RANK, DATA}),
        ("another", {WORKER, RANK, DATA}),  # of the cluster's owner
    ],
)
def test_a_node_with_a_role_admits_its_processes_alone(label, admitted):
    there = replace(node("a", 4), labels={"cardinal/role": label} if label else {})
    suited = {role for role in (WORKER, RANK, DATA) if Group(role, 1, cpus=1.0).suits(there)}
    assert suited == admitted


def plan(*places):
    nodes = [HEAD, node("a", 4), node("b", 4), node("c", 4)]
    by_name = {found.name: found for found in nodes}
    found = [Place(role, index, by_name[at], 1.0, gpus) for role, index, at, gpus in places]
    return Plan((), tuple(found), tuple(nodes))


def test_places_and_hosts_of_roles():
    found = plan(
        (WORKER, 0, "b", 0.0), (WORKER, 1, "a", 0.0), (RANK, 0, "a", 0.0), (DATA, 0, "b", 0.0)
    )
    assert [(p.index, p.node.name) for p in found.of(WORKER)] == [(0, "b"), (1, "a")]
    assert found.of("absent") == []

    def hosts(*roles):
        return [host.name for host in found.hosts(*roles)]

    assert hosts() == ["b", "a"]
    assert hosts(RANK) == ["a"]
    assert hosts(WORKER) == hosts(WORKER, RANK) == ["b", "a"]
    assert hosts(DATA) == ["b"]


@pytest.mark.parametrize(("gpus", "gpu"), [((0.0, 0.0), False), ((0.0, 1.0), True)])
def test_a_plan_is_on_gpus_where_one_process_is(gpus, gpu):
    assert plan((WORKER, 0, "a", gpus[0]), (RANK, 0, "b", gpus[1])).gpu is gpu


def test_ranks_leave_nodes_of_workers_alone_and_nodes_for_no_work():
    found = plan((WORKER, 0, "a", 0.0), (WORKER, 1, "b", 0.0), (RANK, 0, "b", 0.0))
    assert found.closed_to_ranks() == ["head", "a"]  # b has a rank, c has nothing
