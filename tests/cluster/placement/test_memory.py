"""The memory estimate: parameters as torch counts them, and what ranks and GPUs share."""

from dataclasses import replace

import psutil
import pytest

from cluster.placement import engine_memory, host_memory, learner_memory, transfer_memory
from cluster.placement.memory import (
    ENVIRONMENT_BYTES,
    PROCESS_BYTES,
    available_bytes,
    card_bytes,
    memory_bytes,
    pod_needs,
    policy_size,
    process_memory,
    process_needs,
    shared_memory,
    tiny_size,
    total_bytes,
)
from cluster.placement.rank import Rank
from cluster.placement.types import Node
from configs.load import ConfigError
from configs.model_folder import ModelSize, check_model
from tests.cluster.placement.clusters import GIB, debug


def test_parameters_are_counted_as_torch_counts_them(tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    true = sum(p.numel() for p in model.parameters())
    found = policy_size(debug(), check_model(tiny_model), 10).parameters
    init = ["model.init.layers=2", "model.init.hidden=128", "model.init.heads=4"]
    tokens = AutoTokenizer.from_pretrained(tiny_model)
    cfg = debug(*init, "model.init.mlp=256")
    size = tiny_size(cfg, len(tokens))
    assert replace(size, positions=1024) == check_model(tiny_model)
    made = policy_size(cfg, size, len(tokens)).parameters
    assert made == found
    assert sum(made.values()) - made["value head"] == true
    without = policy_size(debug("ppo.updates=0"), check_model(tiny_model), 10)
    assert "value head" not in without.parameters


def test_the_value_head_is_counted_as_torch_counts_it(tiny_model):
    from learner.model import ValueHead

    true = sum(p.numel() for p in ValueHead(128, 0).parameters())
    size = policy_size(debug(), check_model(tiny_model), 10)
    assert size.parameters["value head"] == true


def test_the_control_group_limits_memory_and_file_cache_is_free(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 600000\n")
    assert available_bytes(tmp_path) == 700000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 10**8
    assert available_bytes(tmp_path / "none") > 10**8


def test_the_memory_of_a_machine_ends_at_its_control_groups_limit(tmp_path):
    whole = psutil.virtual_memory().total
    assert total_bytes(tmp_path / "none") == whole
    for limit, total in (("max", whole), ("700000", 700000), (str(2 * whole), whole)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert total_bytes(tmp_path) == total


BILLION = ModelSize({"all": 10**9}, 2, 8, 100, 512)
SPLIT = ("rollout.workers=2", "learner.ranks=4", "rollout.tensor_parallel=2")
BARE, WITH_GPUS = (Node(n, n, {"CPU": 8, "GPU": gpus}, {}) for n, gpus in (("a", 0), ("b", 8)))


def peak(cfg):
    return sum(learner_memory.peak(Rank(cfg, BILLION)).values())


def test_what_a_process_needs_on_its_host_and_on_its_gpu():
    cfg = debug("rollout.workers=2", "learner.ranks=2", "learner.zero_stage=3")
    host = process_needs(cfg, BILLION, [BARE])
    gpu = process_needs(cfg, BILLION, [WITH_GPUS, BARE])
    copy = learner_memory.state_copy(Rank(cfg, BILLION))
    assert host.rank == peak(cfg) + copy + PROCESS_BYTES
    each = process_memory(cfg, BILLION)
    assert host.worker == 4 * 10**9 + each.kv_cache + each.environments + 2 * PROCESS_BYTES
    assert (host.rank_gpu, host.engine_gpu) == (0, {})
    assert gpu.engine_gpu == engine_memory.on_gpu(Rank(cfg, BILLION))
    assert gpu.engine_gpu["weights"] == 4 * 10**9 == host.weights
    assert gpu.weights == 0  # over nccl none passes through an object store
    assert gpu.rank == PROCESS_BYTES + copy
    assert gpu.rank_gpu == max(card_bytes(cfg, BILLION).values()) >= peak(cfg)
    assert gpu.worker == 2 * PROCESS_BYTES + each.environments


def test_parts_are_those_of_a_ranks_peak_and_of_every_process():
    cfg = debug(*SPLIT, "model.dtype=bfloat16", "ppo.kl_coef=0.1", "rollout.kv_cache_gib=2")
    memory = memory_bytes(cfg, BILLION)
    learner = learner_memory.peak(Rank(cfg, BILLION))
    assert {part: memory[part] for part in learner} == {p: 4 * size for p, size in learner.items()}
    assert memory["learner weights"] == 4 * 2 * 10**9
    assert memory["learner optimizer"] == 12 * 10**9  # in bfloat16 shared at stage 0 too
    assert memory["reference policy"] == 2 * 10**9
    assert memory["checkpoint copy"] == 4 * (2 + 3) * 10**9
    alone = debug(*SPLIT, "ppo.kl_coef=0.1")
    assert memory_bytes(alone, BILLION)["checkpoint copy"] == 12 * 10**9  # rank 0's
    assert memory["engine weights"] == 2 * 2 * 10**9
    assert memory["engine KV cache"] == 2 * 2 * GIB
    assert memory["object store"] == int(cfg.cluster.object_store_gib * GIB)
    assert memory["environment processes"] == 2 * 2 * ENVIRONMENT_BYTES
    assert memory["processes"] == PROCESS_BYTES * (2 * 2 + 4 + 3)
    shared = memory_bytes(debug(*SPLIT, "model.dtype=bfloat16", "learner.zero_stage=3"), BILLION)
    assert shared["checkpoint copy"] == 14 * 10**9  # each its share


def test_what_one_process_takes():
    keys = (*SPLIT, "learner.zero_stage=1", "learner.offload=true", "ppo.kl_coef=0.1")
    cfg = debug(*keys)
    each = process_memory(cfg, BILLION)
    assert each.rank == peak(cfg)
    assert each.offloaded == host_memory.offloaded(Rank(cfg, BILLION)) > 0
    assert each.copied == learner_memory.state_copy(Rank(cfg, BILLION)) > 0
    assert each.engine_weights == each.weights == 4 * 10**9
    assert each.kv_cache == int(cfg.rollout.kv_cache_gib * GIB)
    assert process_memory(debug(*SPLIT), BILLION).offloaded == 0


def test_a_shared_gpu_holds_what_meets_at_each_moment():
    keys = (
        "rollout.workers=2",
        "learner.ranks=4",
        "rollout.tensor_parallel=2",
        "model.dtype=bfloat16",
    )
    keys = (*keys, "learner.zero_stage=3")
    apart, colocated = debug(*keys), debug(*keys, "cluster.layout=colocated", "ppo.max_staleness=0")
    own, shared = card_bytes(apart, BILLION), card_bytes(colocated, BILLION)
    moments = learner_memory.moments(Rank(apart, BILLION))
    sums = {name: sum(parts.values()) for name, parts in moments.items()}
    nccl, ipc = (transfer_memory.sender(Rank(apart, BILLION), name) for name in ("nccl", "ipc"))
    assert own == sums | {"sync": sums["rest"] + nccl}
    chunk = transfer_memory.buffer(Rank(apart, BILLION))
    asleep, engine = 2 * GIB, 10**9  # half an engine's weights
    assert shared["sync"] == sums["rest"] + ipc + asleep + engine + 2 * chunk
    for moment in ("read", "load", "learn", "step", "score", "export"):
        assert shared[moment] == own[moment] + asleep, moment
    # The rank scores what the engine samples; of the publish the buffer is there, mapped.
    rank = own["score"] + chunk
    assert sums["rest"] < own["score"] < own["learn"]
    assert shared["play"] == pytest.approx(rank / 0.15, rel=1e-6)  # beside 85 % for the engine
    needs = process_needs(colocated, BILLION, [WITH_GPUS])
    assert needs.rank_gpu == max(shared.values()) == shared["play"]
    half = debug(*keys, "cluster.layout=colocated", "rollout.gpu_memory=0.5", "ppo.max_staleness=0")
    assert card_bytes(half, BILLION)["play"] == 2 * rank
    whole = debug(*keys, "cluster.layout=colocated", "rollout.gpu_memory=1", "ppo.max_staleness=0")
    assert card_bytes(whole, BILLION)["play"] == pytest.approx(100 * rank)
    store = replace(half, cluster=replace(half.cluster, channel="object_store"))
    assert card_bytes(store, BILLION)["play"] == 2 * own["score"]
    assert card_bytes(store, BILLION)["sync"] == sums["sync"] + asleep + engine


def test_what_arrives_over_nccl_is_beside_an_engines_share():
    run = Rank(debug(*SPLIT), BILLION)
    arrives = transfer_memory.receiver(run, "nccl")
    assert process_needs(run.cfg, BILLION, [WITH_GPUS]).worker_beside == arrives > 0
    assert process_needs(run.cfg, BILLION, [BARE]).worker_beside == 0
    for keys in (["cluster.channel=object_store"], ["cluster.layout=colocated"]):
        cfg = debug(*SPLIT, "ppo.max_staleness=0", *keys)
        assert process_needs(cfg, BILLION, [WITH_GPUS]).worker_beside == 0


def test_shared_memory_holds_a_bucket_and_the_store():
    cfg = debug("cluster.sync_bucket_mib=8", "cluster.object_store_gib=0.5")
    assert shared_memory(cfg, BILLION, store=True) == {
        "weight bucket": 8 * 2**20,
        "object store": GIB // 2,
    }
    small = ModelSize({"all": 1000}, 2, 8, 100, 512)
    assert shared_memory(cfg, small, store=False) == {"weight bucket": 4000}


def test_environments_of_others_have_a_process_for_each_episode():
    keys = ("rollout.workers=3", "rollout.in_flight=10", "env.id=somebody:X-v0", "rollout.block=10")
    cfg, mib = debug(*keys), 2**20
    assert memory_bytes(cfg, BILLION, 7 * mib)["environment processes"] == 3 * 10 * 7 * mib
    assert process_memory(cfg, BILLION, 7 * mib).environments == 10 * 7 * mib
    few = debug(*keys, "rollout.env_processes=4")
    for node in (BARE, WITH_GPUS):
        more, less = (process_needs(c, BILLION, [node], 7 * mib) for c in (cfg, few))
        assert more.worker - less.worker == 6 * 7 * mib
        assert more.rank == less.rank


def test_what_is_offloaded_moves_from_the_gpu_to_the_host():
    keys = (*SPLIT, "learner.zero_stage=1", "learner.checkpoint_minutes=0")
    kept = process_needs(debug(*keys), BILLION, [WITH_GPUS])
    moved = process_needs(debug(*keys, "learner.offload=true"), BILLION, [WITH_GPUS])
    assert kept.rank == PROCESS_BYTES + 4 * 10**9  # the policy is read on the host
    assert kept.worker == 2 * PROCESS_BYTES + 2 * ENVIRONMENT_BYTES
    # Moments (2 GB); pinned, master weights, gradients to step with, weights as they return (1 GB).
    assert moved.rank - kept.rank == 2 * 10**9 + 3 * GIB + 2**12
    assert 2 * 10**9 < kept.rank_gpu - moved.rank_gpu <= 4 * 10**9
    assert kept.engine_gpu["weights"] == 2 * 10**9
    saved = process_needs(debug(*keys[:-1]), BILLION, [WITH_GPUS])
    assert saved.rank == PROCESS_BYTES + (4 + 2 + 1) * 10**9  # the copy of a state is on the host
    assert saved.rank_gpu == kept.rank_gpu


def test_a_pod_has_room_for_two_versions_and_a_second_process():
    cfg = debug(*SPLIT)
    each, host = process_memory(cfg, BILLION), process_needs(cfg, BILLION, [])
    needs, store = pod_needs(cfg, BILLION, gpus=False)
    assert needs.worker == host.worker
    assert needs.rank == host.rank + PROCESS_BYTES
    assert store == int(cfg.cluster.object_store_gib * GIB) + 2 * each.weights
    needs, plain = pod_needs(cfg, BILLION, gpus=True)
    assert plain == int(cfg.cluster.object_store_gib * GIB)
    assert needs.rank == 6 * GIB + host_memory.on_host(Rank(cfg, BILLION))
    assert needs.worker == 2 * 6 * GIB + each.environments  # an engine of two GPUs
    stored = debug(*SPLIT, "cluster.channel=object_store")
    more, same = pod_needs(stored, BILLION, gpus=True)
    assert same == store
    assert more.worker == needs.worker + each.weights
    assert process_needs(stored, BILLION, [WITH_GPUS]).weights == each.weights
    keys = (*SPLIT, "learner.zero_stage=1")
    needs, _ = pod_needs(debug(*keys), BILLION, gpus=True)
    offload = debug(*keys, "learner.offload=true")
    more, _ = pod_needs(offload, BILLION, gpus=True)
    assert more.rank - needs.rank == process_memory(offload, BILLION).offloaded > 0


def test_a_model_too_small_for_its_run():
    longest = debug("rollout.context_tokens=512")
    assert policy_size(longest, BILLION, 100).vocabulary == 100
    with pytest.raises(ConfigError, match=r"rollout\.context_tokens=513: .* knows 512 positions"):
        policy_size(debug("rollout.context_tokens=513"), BILLION, 100)
    with pytest.raises(ConfigError, match="has 101 tokens, more than the 100"):
        policy_size(longest, BILLION, 101)


def test_a_tiny_model_of_no_known_tokenizer_has_the_largest_vocabulary(tiny_model):
    cfg = debug()
    assert tiny_size(cfg).vocabulary > check_model(tiny_model).vocabulary
    assert tiny_size(cfg).positions == cfg.rollout.context_tokens
    assert sum(tiny_size(cfg, 0).parameters.values()) < sum(tiny_size(cfg).parameters.values())
