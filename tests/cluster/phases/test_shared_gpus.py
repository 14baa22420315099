"""Colocated engines: each gets GPUs of its node's own ranks, whatever numbers these have."""

from types import SimpleNamespace

import pytest

from cluster.failures import RunFailure
from cluster.phases import shared_gpus
from cluster.phases.shared_gpus import RankGPUs, assign, own_gpus, share_gpus
from configs.load import load


def ranks(*pairs):
    return [RankGPUs(node, (gpu,)) for node, gpu in pairs]


@pytest.mark.parametrize(
    ("given", "workers", "parallel", "shares"),
    [
        ([("a", "0"), ("a", "1")], "aa", 1, [("0",), ("1",)]),
        ([("a", "2"), ("a", "5")], "aa", 1, [("2",), ("5",)]),  # another job has the first
        ([("a", "3"), ("a", "1")], "a", 2, [("3", "1")]),
        ([("b", "0"), ("a", "1"), ("b", "1"), ("a", "0")], "ab", 2, [("1", "0"), ("0", "1")]),
        ([("a", "GPU-8a"), ("b", "GPU-8b")], "ba", 1, [("GPU-8b",), ("GPU-8a",)]),
        ([("a", "0"), ("a", "1")], "a", 1, [("0",)]),
    ],
)
def test_each_engine_gets_gpus_of_its_node_once(given, workers, parallel, shares):
    assert assign(ranks(*given), workers, parallel) == shares


@pytest.mark.parametrize(
    ("given", "workers", "parallel", "words"),
    [
        ([("a", "0"), ("b", "0")], "aa", 1, "rollout worker 1 shares 1 GPUs .* node a have 0"),
        ([("a", "0"), ("b", "0")], "a", 2, "rollout worker 0 shares 2 GPUs .* node a have 1"),
        ([("a", "0")], "c", 1, "node c have 0"),
    ],
)
def test_ranks_on_other_nodes_than_their_engines_are_refused(given, workers, parallel, words):
    with pytest.raises(RunFailure, match=words):
        assign(ranks(*given), workers, parallel)


def test_every_worker_is_told_its_own(monkeypatch):
    told, waits = [], []

    def worker(number, node):
        def use_gpus(gpus):
            return lambda: told.append((number, gpus))

        return SimpleNamespace(
            node=SimpleNamespace(remote=lambda: lambda: node),
            use_gpus=SimpleNamespace(remote=use_gpus),
        )

    def wait_for_all(calls, who, what, seconds, key, begin):
        waits.append((who, what, seconds, key))
        return [call() for call in calls]

    monkeypatch.setattr(shared_gpus, "wait_for_all", wait_for_all)
    cfg = load("gp_l_debug", ["cluster.layout=colocated", "cluster.start_deadline_s=77"])
    share_gpus(cfg, [worker(0, "b"), worker(1, "a")], ranks(("a", "4"), ("b", "7")))
    assert told == [(0, ["7"]), (1, ["4"])]
    assert waits == [
        ("rollout worker", "name its node", 77.0, "start_deadline_s"),
        ("rollout worker", "take its GPUs", 77.0, "start_deadline_s"),
    ]


@pytest.mark.parametrize(("ids", "gpus"), [({"GPU": ["3"]}, ("3",)), ({}, ())])
def test_a_ranks_gpus_are_those_that_ray_gave_it(monkeypatch, ids, gpus):
    context = SimpleNamespace(get_node_id=lambda: "a", get_accelerator_ids=lambda: ids)
    monkeypatch.setattr(shared_gpus.ray, "get_runtime_context", lambda: context)
    assert own_gpus() == RankGPUs("a", gpus)
