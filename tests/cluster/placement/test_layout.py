"""Layout and channel by key: what `auto` means, and what is refused with which sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from cluster.placement.layout import (
    loss_ends_run,
    weight_channel,
    without_engines,
    without_learner,
)
from cluster.preflight.check import check
from configs.contradictions import contradictions
from configs.load import ConfigError, load
from configs.schema import ClusterConfig, PPOConfig, RunConfig
from tests.end_to_end.test_train import cardinal, finish

BASE = RunConfig()


def run(ranks=1, workers=1, parallel=1, staleness=0, **cluster) -> RunConfig:
    return replace(
        BASE,
        cluster=replace(BASE.cluster, **cluster),
        learner=replace(BASE.learner, ranks=ranks),
        rollout=replace(BASE.rollout, workers=workers, tensor_parallel=parallel),
        ppo=replace(BASE.ppo, max_staleness=staleness),
    )


@pytest.mark.parametrize(
    ("cluster", "gpu", "expected"),
    [
        ({}, False, "object_store"),
        ({}, True, "nccl"),
        ({"layout": "colocated"}, True, "ipc"),
        ({"channel": "object_store"}, True, "object_store"),
        ({"layout": "colocated", "channel": "object_store"}, True, "object_store"),
        ({"channel": "nccl"}, True, "nccl"),
        ({"lora_sync": "adapters"}, True, "object_store"),
        ({"layout": "colocated", "lora_sync": "adapters"}, True, "object_store"),
    ],
)
def test_the_channel_of_a_run(cluster, gpu, expected):
    assert weight_channel(run(**cluster), gpu) == expected


@pytest.mark.parametrize(
    "cluster", [{"layout": "colocated"}, {"channel": "nccl"}, {"channel": "ipc"}]
)
def test_what_needs_gpus_says_so(cluster):
    (key, value), *_ = cluster.items()
    with pytest.raises(ConfigError, match=f"cluster.{key}={value} needs GPUs"):
        weight_channel(run(**cluster), gpu=False)


def test_the_check_refuses_it_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = load("gp_l_debug", [f"cluster.root={tmp_path}", "cluster.layout=colocated"])
    with pytest.raises(ConfigError, match=r"cluster\.layout=colocated needs GPUs"):
        check(cfg)


@pytest.mark.parametrize(
    ("cluster", "gpu", "words"),
    [
        ({}, False, ""),
        ({}, True, "travel over nccl, .* ends the run, .*cluster.channel=object_store replaces"),
        ({"channel": "object_store"}, True, ""),
        ({"layout": "colocated"}, True, "engines share the GPUs of learner ranks: .* ends the run"),
        ({"layout": "colocated", "channel": "object_store"}, True, "share the GPUs"),
        ({"channel": "ipc"}, True, "share the GPUs"),  # whatever the layout
        ({"lora_sync": "adapters"}, True, ""),
    ],
)
def test_whether_a_lost_worker_ends_the_run_is_told(cluster, gpu, words):
    found = loss_ends_run(run(**cluster), gpu)
    assert re.search(words, found) if words else found == ""


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (run(channel="ipc"), "cluster.channel=ipc shares memory within a GPU; it needs"),
        (run(channel="nccl", layout="colocated"), "cluster.channel=nccl joins GPUs that differ"),
        (run(layout="colocated", staleness=1), "ppo.max_staleness=1 needs both at once"),
        (
            run(layout="colocated", ranks=3, workers=2, parallel=2),
            "learner.ranks=3 must be rollout.workers x rollout.tensor_parallel=4",
        ),
    ],
)
def test_contradictions(cfg, words):
    found = [s for s in contradictions(cfg) if s.startswith("cluster.")]
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "cfg",
    [
        run(),
        run(channel="nccl", ranks=2, staleness=1),
        run(layout="colocated", ranks=4, workers=2, parallel=2),
        run(layout="colocated", channel="ipc"),
    ],
)
def test_what_can_be(cfg):
    assert not [s for s in contradictions(cfg) if s.startswith("cluster.")]


def test_playing_alone_shares_nothing():
    alone = without_learner(run(layout="colocated"))
    assert weight_channel(alone, gpu=False) == "object_store"
    assert alone.cluster.layout == "disaggregated"


def test_engines_that_play_alone_read_the_weights_that_nobody_sends():
    rollout = replace(RunConfig().rollout, read_weights=False, workers=3)
    alone = without_learner(replace(RunConfig(), rollout=rollout))
    assert (alone.rollout.read_weights, alone.rollout.workers) == (True, 3)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("sync", ["merged", "adapters"])
def test_what_saves_memory_runs_together(tmp_path, sync):
    small = ["sft.steps=4", "ppo.updates=1", "ppo.episodes=32", "eval.episodes=8"]
    keys = [
        "ppo.critic_warmup=0",
        "model.lora_rank=8",
        "model.gradient_checkpointing=true",
        "learner.zero_stage=2",
        "learner.offload=true",
        f"cluster.lora_sync={sync}",
    ]
    code, _, err = finish(
        cardinal("train", "gp_l_debug", "name=run", f"cluster.root={tmp_path}", *small, *keys), 300
    )
    assert code == 0, err[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (proof,) = [line["check"] for line in lines if line["kind"] == "sync" and line["check"]]
    assert {"attention", "mlp", "head"} <= set(proof)
    assert all(check["parity_mean_abs"] < 1e-5 for check in proof.values())
    assert [line["version"] for line in lines if line["kind"] == "ppo"] == [1]
    sent = [line["bytes"] for line in lines if line["kind"] == "sync" and line["bytes"]]
    assert (sent[-1] < max(sent) / 2) == (sync == "adapters")


def test_a_run_on_recorded_blocks_has_no_workers_and_others_are_left_alone():
    cfg = RunConfig(cluster=ClusterConfig(layout="colocated"))
    assert without_engines(cfg) is cfg
    alone = without_engines(replace(cfg, ppo=PPOConfig(blocks="x")))
    assert (alone.rollout.workers, alone.cluster.layout) == (0, "disaggregated")
