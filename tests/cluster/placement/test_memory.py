"""The memory estimate: parameters as torch counts them, and what ranks and GPUs share."""

from dataclasses import replace

import pytest

from cluster.placement.memory import (
    ENVIRONMENT_BYTES,
    PROCESS_BYTES,
    available_bytes,
    memory_bytes,
    pod_needs,
    policy_size,
    process_memory,
    process_needs,
    tiny_size,
)
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


def test_zero_stages_share_memory():
    cfgs = [debug("learner.ranks=2", f"learner.zero_stage={stage}") for stage in range(4)]
    size = ModelSize({"all": 10**6}, 1, 8, 100, None)
    found = [memory_bytes(cfg, size) for cfg in cfgs]
    assert [m["learner optimizer"] for m in found] == [16 * 10**6, *[8 * 10**6] * 3]
    assert [m["learner gradients"] for m in found] == [8 * 10**6] * 2 + [4 * 10**6] * 2
    assert [m["learner weights"] for m in found] == [8 * 10**6] * 3 + [4 * 10**6]


def test_the_control_group_limits_memory_and_file_cache_is_free(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 600000\n")
    assert available_bytes(tmp_path) == 700000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 10**8
    assert available_bytes(tmp_path / "none") > 10**8


def test_what_a_process_needs_on_its_host_and_on_its_gpu():
    cfg = debug("rollout.workers=2", "learner.ranks=2", "learner.zero_stage=3")
    size = ModelSize({"all": 10**9}, 1, 8, 100, None)
    bare = [Node("a", "a", {"CPU": 8}, {})]
    host = process_needs(cfg, size, bare)
    gpu = process_needs(cfg, size, [Node("b", "b", {"CPU": 8, "GPU": 8}, {}), *bare])
    assert host.rank > 8 * 10**9
    assert host.worker > 4 * 10**9
    assert host.rank_gpu == 0
    assert gpu.worker_gpu == 4 * 10**9 == gpu.weights
    assert gpu.rank == PROCESS_BYTES + 12 * 10**9 // 2  # the copy of its part of a state
    assert gpu.rank_gpu == pytest.approx(8 * 10**9, rel=0.01)


BILLION = ModelSize({"all": 10**9}, 2, 8, 100, 512)
SPLIT = ("rollout.workers=2", "learner.ranks=4", "rollout.tensor_parallel=2")


def test_parts_are_counted_by_hand():
    cfg = debug(*SPLIT, "model.dtype=bfloat16", "ppo.kl_coef=0.1", "rollout.kv_cache_gib=2")
    memory = memory_bytes(cfg, BILLION)
    assert memory["learner weights"] == 4 * 2 * 10**9
    assert memory["learner optimizer"] == 12 * 10**9 * (1 if cfg.learner.zero_stage else 4)
    assert memory["checkpoint copy"] == 14 * 10**9  # each once, however many ranks have them
    assert memory["learner activations"] == 16 * 2 * 8 * cfg.learner.microbatch_tokens * 4 * 4
    assert memory["reference policy"] == 2 * 10**9
    assert memory["engine weights"] == 2 * 2 * 10**9
    assert memory["engine KV cache"] == 2 * 2 * GIB
    assert memory["object store"] == int(cfg.cluster.object_store_gib * GIB)
    assert memory["environment processes"] == 2 * 2 * ENVIRONMENT_BYTES
    assert memory["processes"] == PROCESS_BYTES * (2 * 2 + 4 + 3)
    assert memory_bytes(debug("ppo.kl_coef=0"), BILLION)["reference policy"] == 0
    light = memory_bytes(debug("model.gradient_checkpointing=true"), BILLION)
    heavy = memory_bytes(debug(), BILLION)
    assert heavy["learner activations"] == 8 * light["learner activations"]


def test_what_one_process_takes():
    cfg = debug(*SPLIT, "learner.zero_stage=1", "learner.offload=true", "ppo.kl_coef=0.1")
    memory, each = memory_bytes(cfg, BILLION), process_memory(cfg, BILLION)
    learner = sum(size for part, size in memory.items() if part.startswith("learner"))
    assert each.rank == (learner + memory["reference policy"]) // 4
    assert each.offloaded == memory["learner optimizer"] // 4
    assert each.copied == 12 * 10**9 // 4
    assert process_memory(debug(*SPLIT, "learner.zero_stage=0"), BILLION).copied == 12 * 10**9
    none = debug(*SPLIT, "learner.checkpoint_minutes=0")
    assert process_memory(none, BILLION).copied == 0
    by_steps = debug(*SPLIT, "learner.checkpoint_minutes=0", "learner.checkpoint_every=5")
    assert process_memory(by_steps, BILLION).copied == 12 * 10**9
    assert each.engine_weights == each.weights == 4 * 10**9
    assert each.kv_cache == memory["engine KV cache"] // 2
    assert process_memory(debug(*SPLIT), BILLION).offloaded == 0


def test_environments_of_others_have_a_process_for_each_episode():
    keys = ("rollout.workers=3", "rollout.in_flight=10", "env.id=somebody:X-v0", "rollout.block=10")
    cfg, mib = debug(*keys), 2**20
    assert memory_bytes(cfg, BILLION, 7 * mib)["environment processes"] == 3 * 10 * 7 * mib
    assert process_memory(cfg, BILLION, 7 * mib).environments == 10 * 7 * mib
    few = debug(*keys, "rollout.env_processes=4")
    for gpus in (0, 8):
        nodes = [Node("a", "a", {"CPU": 8, "GPU": gpus}, {})]
        more, less = (process_needs(c, BILLION, nodes, 7 * mib) for c in (cfg, few))
        assert more.worker - less.worker == 6 * 7 * mib
        assert more.rank == less.rank


def test_what_is_offloaded_moves_from_the_gpu_to_the_host():
    nodes = [Node("a", "a", {"CPU": 8, "GPU": 8}, {})]
    keys = (*SPLIT, "learner.zero_stage=1", "learner.checkpoint_minutes=0")
    kept = process_needs(debug(*keys), BILLION, nodes)
    moved = process_needs(debug(*keys, "learner.offload=true"), BILLION, nodes)
    assert kept.rank == PROCESS_BYTES
    assert kept.worker == 2 * PROCESS_BYTES + 2 * ENVIRONMENT_BYTES
    assert moved.rank - kept.rank == kept.rank_gpu - moved.rank_gpu == 2 * 10**9
    assert kept.worker_gpu == 2 * 10**9
    saved = process_needs(debug(*keys[:-1]), BILLION, nodes)
    assert saved.rank - kept.rank == 12 * 10**9 // 4  # the copy is on the host
    assert saved.rank_gpu == kept.rank_gpu


def test_a_pod_has_room_for_gathered_weights_and_two_versions():
    cfg = debug(*SPLIT)
    each, host = process_memory(cfg, BILLION), process_needs(cfg, BILLION, [])
    needs, store = pod_needs(cfg, BILLION, gpus=False)
    assert needs.worker == host.worker
    assert needs.rank == host.rank + each.weights + PROCESS_BYTES
    assert store == int(cfg.cluster.object_store_gib * GIB) + 2 * each.weights
    needs, same = pod_needs(cfg, BILLION, gpus=True)
    assert same == store
    assert needs.rank == 6 * GIB + 2 * each.weights + each.copied
    assert needs.worker == 6 * GIB + each.weights + each.environments
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
