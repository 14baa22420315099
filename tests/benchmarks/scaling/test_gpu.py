"""Costs on GPUs against the same formulas with the figures written out."""

from dataclasses import replace

import pytest

from benchmarks.scaling.gpu import GpuRun, Model
from benchmarks.scaling.hardware import GPUS, Hardware, figures
from benchmarks.scaling.sizes import configuration
from benchmarks.scaling.workload import Workload
from tests.benchmarks.scaling.test_parts import PARTS

N = 7_615_616_512  # parameters of Qwen2.5-7B
MODEL = Model("7B")


def run(ranks=8, workers=8, parallel=1, gpu="H100", **keys):
    keys = {"colocated": False, "offload": False, "episodes": 1024} | keys
    cfg = configuration(ranks, workers, parallel, **keys)
    return GpuRun(Hardware(gpu), MODEL, cfg, PARTS.host, Workload())


def test_each_input_has_a_unit_and_a_source():
    assert set(GPUS) <= set(figures())
    for group, inputs in figures().items():
        for name, (value, unit, source) in inputs.items():
            assert value > 0, (group, name)
            assert unit, (group, name)
            assert len(source) > 5, (group, name)


def test_decoding_reads_weights_and_cache_from_the_gpus_memory():
    assert MODEL.parameters == N
    engine = run().engine()
    read = 3.35e12 * 0.6
    assert engine.weights_s == pytest.approx(2 * N / read)
    assert engine.context_s == pytest.approx(2 * 2 * 28 * 4 * 128 / read)
    matrices = 28 * (2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 18944 * 3584)
    token = 2 * (matrices + 3584 * 152_064) / (989.4e12 * 0.5)
    assert (engine.compute_s, engine.prompt_token_s) == pytest.approx((token, token))
    assert engine.step_s == 2e-3
    four = run(parallel=4, workers=2).engine()
    assert four.weights_s == pytest.approx(engine.weights_s / 4)
    assert four.step_s == pytest.approx(2e-3 + 2 * 28 * 15e-6)


def test_zero_3_gathers_over_nvlink_or_through_all_adapters_of_a_node():
    in_node, two_nodes = run(ranks=8), run(ranks=16)
    assert in_node.gathered_s() == pytest.approx(2 * N * 7 / 8 / (450e9 * 0.8))
    assert two_nodes.gathered_s() == pytest.approx(2 * N * 15 / 16 / (8 * 50e9 * 0.8))
    assert run(ranks=1).gathered_s() == 0.0
    learner = two_nodes.learner()
    assert learner.step.exchange_s == pytest.approx(4 * two_nodes.gathered_s())
    assert learner.score.exchange_s == pytest.approx(two_nodes.gathered_s())


def test_learning_is_flops_at_the_published_share_of_the_peak():
    learner = run().learner()
    assert learner.step.token_s == pytest.approx(3 * learner.score.token_s)
    matrices = N - 3584 * 152_064 - 28 * (2 * 3584 + 3584 + 2 * 512) - 3584  # and output layer
    flops = 6 * matrices + 12 * 28 * 3584 * Workload().tokens()
    assert learner.step.token_s == pytest.approx(flops / (989.4e12 * 0.33))
    assert learner.optimizer_s == pytest.approx(28 * N / 8 / 3.35e12)
    assert run(offload=True).learner().optimizer_s == pytest.approx(28 * N / 8 / 40e9)


def test_a_publish_by_channel():
    sync = run(ranks=8, workers=8).sync
    gathered = run().gathered_s()
    assert sync("nccl").sent_s == pytest.approx(gathered + 2 * N / (50e9 * 0.8))
    assert sync("nccl over TCP").sent_s == pytest.approx(gathered + 2 * N / (12.5e9 * 0.8))
    assert sync("nccl").collective
    within = run(ranks=4, workers=4)
    assert within.sync("nccl").sent_s == pytest.approx(within.gathered_s() + 2 * N / (450e9 * 0.8))
    stored = run(ranks=8, workers=400).sync("object_store")
    assert not stored.collective
    assert stored.sent_s == pytest.approx(gathered + 2 * N * 1e-9)
    assert stored.travel_s == pytest.approx(16.94 * 2 * N / 2**30, rel=1e-3)  # to 50 nodes
    assert stored.load_s == pytest.approx(2 * N / (64e9 * 0.8))
    assert within.sync("object_store").travel_s == 0.0  # it is all on one node
    halves = run(ranks=8, workers=4, parallel=2)
    assert halves.sync("ipc").sent_s == pytest.approx(gathered + 0.2 + N / 86e9)
    assert halves.sync("ipc").collective


def test_what_shares_gpus_takes_ipc_and_counts_them_once():
    shared = run(ranks=8, workers=8, colocated=True, offload=True)
    assert (shared.gpus, shared.channel()) == (8, "ipc")
    assert (run().gpus, run().channel()) == (16, "nccl")
    assert shared.host_bytes() > 20 * N  # moments, master weights, and their gradients twice
    assert run().host_bytes() == 0


def test_the_cache_has_what_weights_leave():
    tokens = run().cache_tokens()
    others = 2 * N + 2 * 2**30 + 8192 * (3 * 18_944 + 3 * 3584) * 2  # CUDA's, activations
    assert tokens == int(0.85 * 80 * 2**30 - others) // (2 * 2 * 28 * 4 * 128)
    tiny = replace(
        run(), cfg=replace(run().cfg, rollout=replace(run().cfg.rollout, gpu_memory=0.1))
    )
    assert tiny.cache_tokens() == 0


def test_what_the_network_carries():
    carried = run(ranks=8, workers=8).network(10.0)
    tokens = Workload().tokens() * 1024
    assert carried["weights"] == pytest.approx(8 * 2 * N / 10)
    assert carried["trajectories"] == pytest.approx(13 * tokens / 10)
    # 4 steps; of each microbatch weights twice, gradients of 4 bytes, and 1 to score; 1 to publish
    microbatches = 4 * -(-tokens // (8 * 4 * 8192))
    gathers = (5 * microbatches + 1) * 2 * N * 7 / 8
    assert carried["gathers"] == pytest.approx(gathers / 10)
