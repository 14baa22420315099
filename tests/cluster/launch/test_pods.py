"""Pods: how many of which size, and that the run's own placement fits them."""

import pytest

from cluster.launch.pods import ManifestOptions, host_memory, worker_pods
from cluster.placement.memory import policy_size, process_needs
from cluster.placement.plan import plan
from cluster.placement.types import RANK, ROLE, WORKER, Node
from configs.load import ConfigError, load
from configs.model_folder import ModelSize

GIB = 2**30


@pytest.mark.parametrize("gpus", [True, False], ids=["gpu", "cpu"])
@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("rollout.workers=9", "learner.ranks=12"),
        ("rollout.workers=3", "rollout.threads=2", "learner.cpus=0.5", "learner.ranks=2"),
        ("rollout.workers=3", "rollout.tensor_parallel=4", "learner.ranks=10"),
        (
            "rollout.workers=6",
            "rollout.tensor_parallel=2",
            "learner.ranks=12",
            "cluster.layout=colocated",
        ),
    ],
)
def test_the_placement_fits_the_pods(keys, gpus):
    """What the run itself computes on a cluster of just these pods."""
    cfg = load("gp_l", ["sft.batch_size=120", *keys])
    if not gpus and ("parallel" in str(keys) or "colocated" in str(keys)):
        pytest.skip("needs GPUs")
    options = ManifestOptions(gpus=gpus)
    nodes = [Node("head", "head", {"memory": 8.0 * GIB}, {"memory": 8.0 * GIB})]
    for pods in worker_pods(cfg, options):
        total = {
            "CPU": pods.cpus,
            "GPU": pods.gpus,
            "memory": pods.memory,
            "object_store_memory": pods.object_store,
        }
        names = [f"{pods.name}-{i}" for i in range(pods.count)]
        labels = {ROLE: pods.name}
        nodes += [Node(name, name, total, total, labels=labels) for name in names]
    size = policy_size(cfg, ModelSize({"all": 1_100_000}, 4, 128, 512, None), 300)
    placed = plan(cfg, nodes, process_needs(cfg, size, nodes))
    assert {n.name.split("-")[0] for n in placed.hosts()} == {
        n.name.split("-")[0] for n in nodes[1:]
    }


@pytest.mark.parametrize(("gpus", "cpus"), [(True, [32, 8]), (False, [9, 5])])
def test_each_gpu_has_some_cpus(gpus, cpus):
    cfg = load("gp_l", ["rollout.workers=8", "learner.ranks=2", "learner.threads=2"])
    assert [pods.cpus for pods in worker_pods(cfg, ManifestOptions(gpus=gpus))] == cpus


def test_workers_are_spread_over_spare_pods_and_another_pod_may_be_lost():
    cfg = load("gp_l", ["rollout.workers=16", "sft.batch_size=128"])
    needed, _ = worker_pods(cfg, ManifestOptions())
    rollout, learner = worker_pods(cfg, ManifestOptions(spare=1))
    assert (needed.count, rollout.count, learner.count) == (2, 3, 1)
    assert rollout.gpus == needed.gpus == 8
    nodes = []
    for pods in (rollout, learner):
        total = {"CPU": pods.cpus, "GPU": pods.gpus, "memory": pods.memory}
        for i in range(pods.count):
            name = f"{pods.name}-{i}"
            nodes.append(Node(name, name, total, total, labels={ROLE: pods.name}))
    placed = plan(cfg, nodes)
    used = [place.node.name for place in placed.of(WORKER)]
    assert sorted(used.count(f"rollout-{i}") for i in range(3)) == [5, 5, 6]
    assert {place.node.name for place in placed.of(RANK)} == {"learner-0"}
    assert plan(cfg, nodes[1:]).of(WORKER)  # one pod less holds them too


def test_spare_pods_are_of_no_use_to_colocated_engines():
    cfg = load("gp_l", ["cluster.layout=colocated"])
    with pytest.raises(ConfigError, match=r"--spare 1: with cluster\.layout=colocated "):
        worker_pods(cfg, ManifestOptions(spare=1))


def test_colocated_engines_and_ranks_share_pods():
    keys = (
        "cluster.layout=colocated",
        "rollout.workers=6",
        "rollout.tensor_parallel=2",
        "learner.ranks=12",
        "sft.batch_size=120",
    )
    (pods,) = worker_pods(load("gp_l", keys), ManifestOptions())
    assert (pods.name, pods.count, pods.gpus) == ("colocated", 2, 6)
    assert pods.cpus == 4 * 6
    with pytest.raises(ConfigError, match="layout=colocated needs GPUs"):
        worker_pods(load("gp_l", keys), ManifestOptions(gpus=False))


def test_an_offloaded_optimizer_is_counted_in_the_hosts_memory():
    keys = (
        "model.init.hidden=1024",
        "model.init.heads=8",
        "model.init.layers=24",
        "learner.zero_stage=1",
    )
    there, here = (
        host_memory(load("gp_l", [*keys, f"learner.offload={value}"]), ManifestOptions())
        for value in ("false", "true")
    )
    assert here[0].rank - there[0].rank > GIB
    assert here[0].worker == there[0].worker
    assert here[1] == there[1]


def test_memory_grows_with_the_model_and_holds_the_object_store():
    small = worker_pods(load("gp_l"), ManifestOptions(gpus=False))
    large = worker_pods(
        load("gp_l", ["model.init.hidden=1024", "model.init.heads=8", "model.init.layers=24"]),
        ManifestOptions(gpus=False),
    )
    for before, after in zip(small, large, strict=True):
        assert after.memory - before.memory > GIB
        assert after.object_store > before.object_store
        assert before.memory > before.object_store >= 0.5 * GIB
    given = worker_pods(load("gp_l"), ManifestOptions(memory=7 * GIB))
    assert [p.memory for p in given] == [7 * GIB] * 2


@pytest.mark.parametrize(("channel", "gib"), [("auto", 0.5), ("object_store", 48)])
def test_of_a_model_that_is_not_here_much_is_asked(channel, gib):
    keys = ["model.path=Qwen/Qwen2.5-7B", f"cluster.channel={channel}"]
    cfg = load("gp_l", [*keys, "cluster.object_store_gib=0.5"])
    needs, store = host_memory(cfg, ManifestOptions())
    assert (needs.worker, needs.rank, store) == (48 * GIB, 48 * GIB, gib * GIB)
    assert host_memory(cfg, ManifestOptions(gpus=False))[1] == 48 * GIB


def test_an_engine_may_fill_a_pod_and_counts_once_without_gpus():
    keys = ("rollout.workers=4", "rollout.tensor_parallel=2")
    rollout, _ = worker_pods(load("gp_l", keys), ManifestOptions(pod_size=2))
    assert (rollout.count, rollout.gpus) == (4, 2)
    rollout, _ = worker_pods(load("gp_l", keys), ManifestOptions(pod_size=2, gpus=False))
    assert (rollout.count, rollout.gpus) == (2, 0)
