"""What an engine takes of each of its GPUs, by hand; a model whose weights alone fit is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.model_sizes import SHAPES, size
from cluster.failures import PlacementError
from cluster.placement import engine_memory
from cluster.placement.memory import card_bytes, card_parts, process_needs
from cluster.placement.plan import plan
from cluster.placement.rank import Rank
from cluster.placement.types import Needs, Node
from configs.load import load
from configs.model_folder import ModelSize

GIB = 2**30
BFLOAT16 = ("model.dtype=bfloat16", "rollout.context_tokens=4096", "rollout.in_flight=64")
SEVEN = size(SHAPES["7B"])  # 3,584 wide, of 18,944 within, 28 layers, 4 key-value heads of 128
BARE = ModelSize({"all": 10**9}, 2, 8, 100, 512)  # of no known tensors


def run(*keys: str, model: ModelSize = SEVEN) -> Rank:
    return Rank(load("gp_l", [*BFLOAT16, *keys]), model)


def card(gib: float) -> Node:
    have = {"CPU": 64.0, "GPU": 8.0}
    return Node("a", "a", have, have, card=int(gib * GIB))


def test_the_parts_of_an_engine_by_hand():
    parts = engine_memory.on_gpu(run())
    assert parts == {
        "weights": 2 * sum(SEVEN.parameters.values()),
        "cache of one context": 4096 * 2 * 2 * 28 * 4 * 128,
        "activations": 8192 * 2 * (3 * 18_944 + 3 * 3584),
        "CUDA's context and graphs": 2 * GIB,
    }
    both = engine_memory.on_gpu(run("rollout.tensor_parallel=2"))
    assert both["weights"] == parts["weights"] // 2
    assert both["cache of one context"] == parts["cache of one context"] // 2
    assert both["activations"] == 8192 * 2 * (3 * 18_944 // 2 + 3 * 3584)
    assert both["CUDA's context and graphs"] == 2 * GIB


def test_a_long_context_is_profiled_whole_and_a_large_vocabulary_sampled():
    assert engine_memory.activations(run("rollout.context_tokens=16384")) == 2 * (
        engine_memory.activations(run())
    )
    few = run("rollout.in_flight=16", "rollout.context_tokens=256")
    assert engine_memory.activations(few) == engine_memory.activations(run()) // 2
    many = run("rollout.in_flight=4096")
    assert engine_memory.activations(many) == 4096 * SEVEN.vocabulary * 16


def test_a_vision_tower_has_no_cache_and_a_model_without_names_the_widest():
    tower = {"model.vision_model.layers.0.self_attn.k_proj.weight": (9000, 9000)}
    seen = replace(SEVEN, matrices=SEVEN.matrices | tower)
    wider = {"model.vision_model.layers.0.mlp.fc1.weight": (90_000, 9000)}
    assert engine_memory.cached_token(run(model=seen)) == engine_memory.cached_token(run())
    seen = replace(SEVEN, matrices=SEVEN.matrices | wider)
    assert engine_memory.activations(run(model=seen)) == engine_memory.activations(run())
    assert engine_memory.cached_token(run(model=BARE)) == 2 * 2 * 2 * 8
    assert engine_memory.activations(run(model=BARE)) == 8192 * 2 * (3 * 4 * 8 + 3 * 8)


def test_an_engine_that_could_not_start_is_refused_with_its_parts():
    """Weights of 14.2 GiB are less than 0.85 x 17 GiB; with what vLLM needs beside they are not."""
    engine = Needs(engine_gpu=process_needs(run().cfg, SEVEN, [card(17)]).engine_gpu)
    plan(run().cfg, [card(21)], engine)
    with pytest.raises(PlacementError) as refused:
        plan(run().cfg, [card(17)], engine)
    parts = (
        "weights 14.2, cache of one context 0.2, activations 1.0, CUDA's context and graphs 2.0, "
        "all in rollout.gpu_memory=0.85"
    )
    assert f"needs 20.5 GiB of GPU memory ({parts})" in str(refused.value)


def test_a_shared_gpu_has_room_for_the_engine_while_it_plays():
    keys = ("cluster.layout=colocated", "learner.ranks=1", "ppo.max_staleness=0")
    shared = run(*keys, "rollout.gpu_memory=0.05", "learner.zero_stage=3")
    play = card_parts(shared.cfg, SEVEN)["play"]
    assert play["rollout.gpu_memory"] == sum(engine_memory.on_gpu(shared).values())
    assert card_bytes(shared.cfg, SEVEN)["play"] == sum(play.values())
