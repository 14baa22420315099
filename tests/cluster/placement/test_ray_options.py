"""Options of Ray by place: the node, its GPUs, and what learner ranks keep away from."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.failures import RunFailure
from cluster.placement import ray_options
from cluster.placement.plan import plan
from cluster.placement.ray_options import (
    buffer_options,
    measured_cards,
    release_ranks,
    scaling,
    waiting_ranks,
    worker_options,
)
from cluster.placement.types import RANK, WORKER, Node
from tests.cluster.placement import clusters
from tests.cluster.placement.clusters import debug

# Ray takes ids of 28 bytes.
SMALL, LARGE = (
    [replace(node, id=f"{number + 1:056x}") for number, node in enumerate(nodes)]
    for nodes in (clusters.SMALL, clusters.LARGE)
)


def node_of(options):
    affinity = options["scheduling_strategy"]
    return affinity.node_id, affinity.soft


def test_a_worker_gets_its_place_and_another_only_once_that_is_gone():
    (place,) = plan(debug("rollout.tensor_parallel=2", "rollout.cpus=3"), LARGE).of(WORKER)
    options = worker_options(place)
    assert node_of(options) == (place.node.id, True)
    assert options["max_restarts"] == -1
    assert (options["num_cpus"], options["num_gpus"]) == (3, 2)
    assert options["runtime_env"] == ray_options.IN_OBJECT_STORE


def test_another_place_of_a_worker_is_one_that_the_plan_might_have_chosen():
    total = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}
    node = Node("a" * 56, "a", total, total, "H100", {"cardinal/role": "rollout"})
    for_ranks = replace(node, id="b" * 56, labels={"cardinal/role": "learner"})
    (place,) = plan(debug(), [node, for_ranks]).of(WORKER)
    options = worker_options(place)
    assert options["label_selector"] == {"cardinal/role": "!in(learner)"}
    assert options["accelerator_type"] == "H100"
    unlabelled = worker_options(replace(place, node=replace(node, labels={})))
    assert (unlabelled["label_selector"], unlabelled["accelerator_type"]) == (None, "H100")
    untyped = worker_options(replace(place, node=replace(node, total={"CPU": 8.0, "GPU": 2.0})))
    assert untyped["accelerator_type"] is None, "it is no resource of Ray's there"


def test_a_worker_without_a_cpu_of_its_own_goes_where_it_is_planned_too():
    (place,) = plan(debug("rollout.cpus=0"), SMALL).of(WORKER)
    options = worker_options(place)
    assert (options["num_cpus"], options["num_gpus"]) == (0, 0)
    assert options["memory"] > 0, "else Ray puts it anywhere"


def test_a_colocated_worker_is_bound_to_its_node_and_reserves_no_gpu():
    keys = ("cluster.layout=colocated", "rollout.workers=2", "rollout.tensor_parallel=2")
    places = plan(debug(*keys, "learner.ranks=4"), LARGE).of(WORKER)
    found = [worker_options(place) for place in places]
    assert [options["num_gpus"] for options in found] == [0, 0]
    assert [node_of(o) for o in found] == [(place.node.id, False) for place in places]


def test_the_buffer_lives_where_rank_0_does_or_a_worker():
    whole = plan(debug(), SMALL)
    assert node_of(buffer_options(whole, True)) == (whole.of(RANK)[0].node.id, True)
    alone = plan(debug(), SMALL, learn=False)
    assert node_of(buffer_options(alone, True)) == (alone.of(WORKER)[0].node.id, True)
    restarts = [buffer_options(whole, replaceable)["max_restarts"] for replaceable in (True, False)]
    assert restarts == [-1, 0]
    assert buffer_options(whole, True)["memory"] > 0, "else Ray puts it anywhere"


def test_ranks_keep_off_the_nodes_of_others():
    cfg = debug("rollout.workers=2", "learner.ranks=2")
    found = plan(cfg, SMALL)
    config = scaling(cfg, found)
    assert config.num_workers == 2
    assert not config.use_gpu
    assert config.resources_per_worker == {"CPU": 1.0}
    assert config.accelerator_type is None
    closed = ",".join(found.closed_to_ranks())
    assert config.label_selector == {"ray.io/node-id": f"!in({closed})"}


def test_ranks_on_gpus_ask_for_their_type():
    cfg = debug("learner.ranks=2", "cluster.accelerator=H100")
    config = scaling(cfg, plan(cfg, LARGE[1:2]))
    assert config.use_gpu
    assert config.resources_per_worker == {"CPU": 1.0, "GPU": 1.0}
    assert config.accelerator_type == "H100"
    assert config.label_selector is None


def test_ranks_keep_off_the_pods_of_workers_that_join_later():
    labelled = [replace(n, labels={"cardinal/role": "learner"}) for n in LARGE]
    cfg = debug("learner.ranks=2")
    nodes = [*labelled[:-1], replace(LARGE[-1], labels={"cardinal/role": "rollout"})]
    config = scaling(cfg, plan(cfg, nodes))
    assert config.label_selector["cardinal/role"] == "!in(rollout)"
    assert nodes[-1].id in config.label_selector["ray.io/node-id"]


def test_each_node_with_gpus_is_asked_once_for_their_memory(monkeypatch):
    sizes = {LARGE[1].id: 7, LARGE[2].id: RunFailure("does not answer")}
    asked = []

    def remote(**options):
        assert options["num_cpus"] == 0

        def task(function):
            assert function is ray_options.smallest_card
            return SimpleNamespace(options=lambda scheduling_strategy: at(scheduling_strategy))

        return task

    def at(affinity):
        assert not affinity.soft
        return SimpleNamespace(remote=lambda count: asked.append((affinity.node_id, count)) or at_)

    at_ = object()

    def wait_for(ref, who, what, seconds, key):
        answer = sizes[asked[len(waited)][0]]
        waited.append((ref, who, 0 < seconds <= ray_options.CARDS_S))
        if isinstance(answer, RunFailure):
            raise answer
        return answer

    waited = []
    monkeypatch.setattr(ray_options.ray, "remote", remote)
    monkeypatch.setattr(ray_options, "wait_for", wait_for)
    measured = measured_cards()
    for _ in range(2):
        found = measured(LARGE)
        assert [n.card for n in found] == [None, 7, None]
        assert [replace(n, card=None) for n in found] == LARGE
    assert asked == [(n.id, 8) for n in LARGE[1:]]
    assert waited == [(at_, f"node {n.name}", True) for n in LARGE[1:]]


@pytest.mark.parametrize(("nodes", "each"), [(SMALL, "1 CPU"), (LARGE, "1 CPU + 1 GPU")])
def test_ranks_that_waited_in_vain_say_for_what(nodes, each):
    found = plan(debug("learner.ranks=2"), nodes)
    sentence = waiting_ranks(found, 30)
    assert sentence.startswith(f"2 learner ranks waited 30 s (cluster.start_deadline_s) for {each}")
    assert found.of(RANK)[0].node.name in sentence


def test_the_places_of_a_lost_group_are_given_back_and_those_of_other_jobs_are_not(monkeypatch):
    jobs = ("07000000", "07000000", "08000000")
    own, gone, other = (f"{number:028x}{job}" for number, job in enumerate(jobs))
    states = {own: "CREATED", gone: "REMOVED", other: "CREATED"}
    context = SimpleNamespace(get_job_id=lambda: "07000000")
    removed = []
    monkeypatch.setattr(ray_options.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(
        ray_options, "placement_group_table", lambda: {n: {"state": s} for n, s in states.items()}
    )
    monkeypatch.setattr(ray_options, "remove_placement_group", lambda g: removed.append(g.id.hex()))
    release_ranks()
    assert removed == [own]
