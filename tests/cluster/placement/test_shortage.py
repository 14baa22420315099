"""Why a run does not fit: one sentence, at once, with what would fit."""

import pytest

from cluster.failures import PlacementError
from cluster.placement.plan import plan
from cluster.placement.types import Needs, Node
from tests.cluster.placement.clusters import GIB, HEAD, LARGE, SMALL, debug, node
from tests.support.effort import assert_turns


def refused(nodes, *overrides, needs=None):
    """The sentence of the refusal; it comes at once."""
    said = []

    def refuse():
        with pytest.raises(PlacementError) as error:
            plan(debug(*overrides), nodes, needs)
        said.append(str(error.value))

    assert_turns(refuse, 300e6)
    assert "\n" not in said[0]
    return said[0]


def test_too_few_gpus():
    said = refused(LARGE, "rollout.workers=2", "rollout.tensor_parallel=4", "learner.ranks=16")
    assert said == (
        "too few GPUs: 2 rollout workers x 4 and 16 learner ranks x 1 need 24 GPU, the cluster has "
        "16 (gpu-a 8 and gpu-b 8); learner.ranks=8 would fit"
    )
    plan(debug("rollout.workers=2", "rollout.tensor_parallel=4", "learner.ranks=8"), LARGE)
    said = refused(
        LARGE,
        "cluster.layout=colocated",
        "rollout.workers=20",
        "learner.ranks=20",
        "sft.batch_size=40",
    )
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
    said = refused(
        SMALL, "learner.ranks=8", "learner.cpus=0.1", needs=Needs(worker=5 * GIB, rank=40 * GIB)
    )
    assert said.startswith("too little memory: 1 rollout worker x 5.0 and 8 learner ranks x 40.0")
    assert "learner.ranks=2 would fit" in said
    said = refused(SMALL, needs=Needs(weights=14 * GIB))
    assert "14.0 GiB of object store" in said
    assert "has 8.0" in said
    said = refused(LARGE, needs=Needs(engine_gpu={"weights": 14 * GIB}, rank_gpu=120 * GIB))
    assert "133.3 GiB of GPU memory" in said  # of which nine tenths are filled
    assert "gpu-a (H100), has 80.0" in said
    plan(debug(), LARGE, Needs(rank_gpu=72 * GIB))
    own = Node("local", "this machine", LARGE[1].total, LARGE[1].total, card=24 * GIB)
    said = refused([own], needs=Needs(engine_gpu={"weights": 14 * GIB}, rank_gpu=22 * GIB))
    assert "a learner rank needs 24.4 GiB of GPU memory" in said
    assert "the largest node, this machine, has 24.0; learner.zero_stage=3" in said
    said = refused([own], needs=Needs(engine_gpu={"weights": 18 * GIB, "activations": 3 * GIB}))
    parts = "weights 18.0, activations 3.0, all in rollout.gpu_memory=0.85"
    assert f"a rollout worker needs 24.7 GiB of GPU memory ({parts}), and the largest" in said
    assert said.endswith("has 24.0; a larger rollout.tensor_parallel or a smaller model would fit")
    said = refused([own], needs=Needs(worker_beside=9 * GIB))
    assert "60.0 GiB of GPU memory (arriving weights 9.0, beside rollout.gpu_memory=0.85)" in said


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


def test_a_machine_of_two_cores_is_told_which_shares_fit():
    """One worker, one rank and the data tasks of SFT reserve 2.5 CPUs."""
    two = [node("laptop", 2)]
    for overrides, remedy in (
        ([], ["rollout.cpus=0.5"]),
        (["rollout.cpus=0.5", "learner.cpus=1.5"], ["learner.cpus=0.5"]),
        (["rollout.cpus=0.6", "learner.cpus=1.5"], ["learner.cpus=0.5"]),
        (["rollout.cpus=2", "learner.cpus=2"], ["rollout.cpus=0.5", "learner.cpus=0.5"]),
        (["rollout.cpus=0.3", "learner.cpus=0.3", "sft.steps=0"], None),
    ):
        if remedy is None:
            plan(debug(*overrides), two)
            continue
        said = refused(two, *overrides)
        assert said.endswith(f"the cluster has 2 (laptop); {' with '.join(remedy)} would fit")
        plan(debug(*overrides, *remedy), two)
    one = refused([node("pod", 1)])
    assert one.endswith("; rollout.cpus=0.25 with learner.cpus=0.25 would fit")
    busy = refused([node("a", 4, free={"CPU": 2.0})])
    assert busy.endswith("wait until they end, or make do: rollout.cpus=0.5 would fit")
    none = refused([node("tiny", 0.5)], "rollout.cpus=0.5", "learner.cpus=0.5")
    assert "would fit" not in none


def test_resources_that_each_suffice_but_never_on_one_node():
    nodes = [node("wide", 64, 1, "L4", memory=8), node("deep", 64, 1, "L4", memory=8)]
    nodes += [node("fat", 64, memory=512)]
    said = refused(nodes, needs=Needs(worker=16 * GIB, rank=16 * GIB))
    assert "do not fit together on wide, deep and fat" in said
