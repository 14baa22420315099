"""The memory account of a learner rank: each part by hand, and which parts meet at a moment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.placement import bucket_memory
from cluster.placement import learner_memory as account
from cluster.placement.learner_memory import moments
from cluster.placement.rank import Rank
from configs.model_folder import ModelSize, size_of
from tests.cluster.placement.clusters import BILLION, N, rank

HIDDEN, MLP, LAYERS, VOCABULARY = 64, 256, 3, 1000
LAYER = {
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "mlp.up_proj.weight": (256, 64),
    "mlp.down_proj.weight": (64, 256),
}
TENSORS = {f"model.layers.{i}.{n}": shape for i in range(LAYERS) for n, shape in LAYER.items()}
SMALL = size_of(
    {**TENSORS, "lm_head.weight": (VOCABULARY, HIDDEN)}.items(), LAYERS, HIDDEN, VOCABULARY, None
)


def llama(hidden: int, mlp: int, layers: int, vocabulary: int = 32_000) -> ModelSize:
    layer = {
        **{f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"},
        **{f"mlp.{name}_proj.weight": (mlp, hidden) for name in ("gate", "up")},
        "mlp.down_proj.weight": (hidden, mlp),
    }
    tensors = {f"model.layers.{n}.{name}": layer[name] for n in range(layers) for name in layer}
    ends = {f"{name}.weight": (vocabulary, hidden) for name in ("model.embed_tokens", "lm_head")}
    return size_of((tensors | ends).items(), layers, hidden, vocabulary, None)


BF16, OFFLOAD = "model.dtype=bfloat16", "learner.offload=true"
CHECKPOINTING = "model.gradient_checkpointing=true"
HALF, LARGE = (1024, 2816, 32), (2048, 5632, 28)
STATE = (account.weights, account.gradients, account.optimizer, account.master_weights)


@pytest.mark.parametrize(
    ("dtype", "stage", "expected"),
    [  # bytes a parameter: weights, gradients, moments, master weights
        ("float32", 0, (4, 4, 8, 0)),
        ("float32", 1, (4, 4, 4, 2)),
        ("float32", 2, (4, 2, 4, 2)),
        ("float32", 3, (2, 2, 4, 0)),
        ("bfloat16", 0, (2, 4, 4, 2)),  # as stage 1
        ("bfloat16", 1, (2, 4, 4, 2)),
        ("bfloat16", 2, (2, 2, 4, 2)),
        ("bfloat16", 3, (1, 2, 4, 2)),
    ],
)
def test_two_ranks_divide_what_the_stage_says(dtype, stage, expected):
    run = rank(stage, f"model.dtype={dtype}")
    assert tuple(part(run) / N for part in STATE) == expected


@pytest.mark.parametrize(
    ("dtype", "stage", "step", "first"),
    [("float32", 0, 0, 0), ("bfloat16", 0, 0, 0), ("float32", 2, 2, 2), ("bfloat16", 2, 0, 2)],
)
def test_gradients_that_the_optimizer_steps_with(dtype, stage, step, first):
    run = rank(stage, f"model.dtype={dtype}")
    assert account.step_gradients(run) == step * N
    assert account.first_gradients(run) == first * N
    offloaded = rank(max(stage, 1), f"model.dtype={dtype}", OFFLOAD)
    assert account.step_gradients(offloaded) == account.first_gradients(offloaded) == 2 * N


def test_zero_3_steps_with_a_bounded_number_at_once():
    run, few = rank(3, BF16), rank(3, BF16, model=ModelSize({"all": 10**6}, 2, 8, 100, None))
    assert account.step_gradients(run) == account.first_gradients(run) == 4 * 10**8
    assert account.step_gradients(few) == account.first_gradients(few) == 4 * 10**6 // 2


def test_activations_are_inputs_and_outputs_of_the_linear_layers():
    each = (64 + 64) + (32 + 64) + (256 + 64) + (64 + 256) + 256  # once more the widest input
    run = rank(0, "learner.microbatch_tokens=100", model=SMALL)
    assert account.activations(run) == 100 * 4 * each * (LAYERS + 2)
    half = rank(0, "learner.microbatch_tokens=100", BF16, model=SMALL)
    assert account.activations(half) == account.activations(run) // 2
    keys = ("learner.microbatch_tokens=100", "model.gradient_checkpointing=true")
    again = rank(0, *keys, model=SMALL)
    assert account.activations(again) == 100 * 4 * (HIDDEN * LAYERS + 3 * each)
    unknown = rank(0, "learner.microbatch_tokens=100")
    assert account.activations(unknown) == 100 * 4 * 24 * 8 * 4


def test_a_token_passes_through_some_of_the_experts():
    experts = {f"model.layers.0.mlp.experts.{i}.up.weight": (16, 8) for i in range(4)}
    others = {"model.layers.0.self_attn.q.weight": (8, 8)}
    model = size_of({**experts, **others}.items(), 1, 8, 100, None)
    run = rank(0, "learner.microbatch_tokens=10", model=model)
    assert account.activations(run) == 10 * 4 * (4 * 24 + 16 + 8) * 3
    some = Rank(run.cfg, replace(model, active_experts=0.25))
    assert account.activations(some) == 10 * 4 * (24 + 16 + 8) * 3


def test_pictures_pass_the_vision_encoder_and_the_text_does_not():
    tower = {"model.vision_model.layers.0.fc.weight": (8, 24)}
    model = replace(size_of({**TENSORS, **tower}.items(), LAYERS, HIDDEN, 100, None), patches=9)
    run = rank(0, "learner.microbatch_images=5", model=model)
    assert account.vision(run) == 5 * 9 * 4 * (8 + 24)
    assert account.activations(run) == account.activations(rank(0, model=SMALL))
    assert account.vision(rank(0, model=SMALL)) == 0


def test_logits_come_in_chunks_but_for_a_kl_penalty():
    keys = ("learner.microbatch_tokens=100", "rollout.temperature=1")
    run = rank(0, *keys, model=replace(SMALL, vocabulary=2**20))
    assert account.logits(run) == 2**25 * (4 + 8 + 4)
    short = rank(0, *keys, model=SMALL)
    assert account.logits(short) == 100 * 1000 * (4 + 8 + 4)
    warm = rank(0, keys[0], "rollout.temperature=0.5", model=SMALL)
    assert account.logits(warm) == 100 * 1000 * 20
    for key in ("ppo.kl_coef=0.1", "sft.loss=ce_kl"):
        kl = rank(0, *keys, BF16, key, model=replace(SMALL, vocabulary=2**20))
        assert account.logits(kl) == 100 * 2**20 * (4 + 20)
        assert account.reference(kl) == kl.parameters * 2 // 2
    assert account.reference(run) == 0


def test_a_mask_is_as_wide_as_a_row():
    keys = ("learner.microbatch_tokens=2000", "rollout.context_tokens=512")
    assert account.attention_mask(rank(0, *keys)) == 2000 * 512 * 5
    assert account.attention_mask(rank(0, *keys, BF16)) == 2000 * 512 * 3
    small = ("learner.microbatch_tokens=100", "rollout.context_tokens=512")
    assert account.attention_mask(rank(0, *small)) == 100 * 100 * 5
    assert account.attention_mask(rank(0, *keys, "learner.packing=flat")) == 0
    padded = (*keys, "learner.packing=padded")
    assert account.attention_mask(rank(0, *padded)) == 0
    assert account.attention_mask(rank(0, *padded, "model.attention=eager")) == 2000 * 512 * 5


def test_no_part_of_a_publish_export_proof_or_load_is_the_whole_model():
    run = rank(3, BF16, "cluster.sync_bucket_mib=64")
    mib = 2**20
    assert account.sync(run) == 2 * 64 * mib
    assert account.exported(run) == (128 + 64) * mib
    assert account.exported(rank(3, BF16, model=ModelSize({"all": 32 * N}, 2, 8, 100, None))) == (
        4 * N + 64 * mib
    )
    assert account.loaded(run) == 2 * 64 * mib
    assert account.proof(run) == 24 * mib
    assert account.loaded(rank(2, BF16)) == 2 * N
    small = rank(3, BF16, model=SMALL)
    assert account.exported(small) == account.sync(small) == 2 * 2 * small.parameters
    wide = rank(3, BF16, model=ModelSize({"all": N}, 2, 1000, 400_000, None))
    assert account.sync(wide) == account.loaded(wide) == 2 * 8 * 10**8
    assert account.exported(wide) == 2 * 8 * 10**8
    square = {"model.layers.0.mlp.up.weight": (20_000, 20_000)}
    merged = rank(3, BF16, model=replace(BILLION, matrices=square))
    assert account.sync(merged) == 2 * 2 * 4 * 10**8


def test_a_forward_pass_without_gradients_holds_one_layer_and_a_chunk_of_logits():
    keys = (BF16, "learner.microbatch_tokens=512", "learner.packing=flat")
    run = rank(3, *keys, model=SMALL)
    values = 64 + 64 + 64 + 32 + 64 + 256 + 256 + 64 + 256  # in and out of each, the widest again
    assert account.scored(run) == 512 * (2 * values + (2 + 8) * VOCABULARY)
    shared = rank(3, *keys, "learner.sequence_parallel=2", model=SMALL)
    assert account.scored(shared) == account.scored(run) // 2
    long = rank(3, BF16, "learner.microbatch_tokens=65536", "learner.packing=flat", model=SMALL)
    logits = 2**25 // VOCABULARY * (2 + 8) * VOCABULARY
    assert account.scored(long) == 65536 * 2 * values + logits
    padded = rank(3, BF16, "learner.microbatch_tokens=512", "learner.packing=packed", model=SMALL)
    mask = account.attention_mask(padded)
    assert moments(padded)["score"]["scored tokens"] == account.scored(padded) + mask > mask > 0


def test_a_states_copy_is_what_learns():
    assert account.state_copy(rank(0)) == 12 * N
    assert account.state_copy(rank(3, BF16)) == 7 * N
    assert account.state_copy(rank(1)) == (4 + 4 + 2) * N
    assert account.state_copy(rank(3, "learner.checkpoint_minutes=0")) == 0
    by_steps = ("learner.checkpoint_minutes=0", "learner.checkpoint_every=5")
    assert account.state_copy(rank(0, *by_steps)) == 12 * N


def test_moments_hold_what_is_there_together():
    run = rank(3, BF16, "ppo.kl_coef=0.1")
    parts = moments(run)
    kept = {"learner weights", "learner optimizer", "reference policy"}
    kept |= {"learner gradients", "learner buckets"}  # ZeRO-3 keeps its buffers
    assert parts["rest"].keys() == kept
    passes = {"learner activations", "learner logits", "vision encoder", "averaged gradients"}
    assert parts["learn"].keys() == kept | passes | {"gathered weights"}
    assert parts["output layer"].keys() == kept | passes | {"largest gradient"}
    held, copied = bucket_memory.bucket(run), bucket_memory.copies(run)
    assert parts["learn"]["learner buckets"] == held + copied > held
    for moment in ("output layer", "step", "rest"):
        assert parts[moment]["learner buckets"] == held, moment
    for moment in ("learn", "score"):
        assert parts[moment]["gathered weights"] == bucket_memory.gathered(run), moment
    assert parts["output layer"]["largest gradient"] == bucket_memory.largest_gradient(run)
    scored = {"gathered weights", "scored tokens", "vision encoder"}
    assert parts["score"].keys() == kept | scored
    assert parts["step"].keys() == parts["load"].keys() == kept | {"step gradients"}
    assert parts["flatten"].keys() == kept | {"step gradients", "flat weights"}
    assert parts["sync"].keys() == kept | {"weight sync"}
    assert parts["export"].keys() == kept | {"weight file"}
    assert parts["proof"].keys() == kept | {"weight proof"}
    assert parts["read"].keys() == {"learner weights", "weight files"}
    for other in moments(rank(2, BF16))["rest"], moments(rank(0))["rest"]:
        assert other.keys() == {"learner weights", "learner optimizer", "reference policy"}
    for moment in ("learn", "output layer", "step"):
        assert "learner gradients" in moments(rank(2, BF16))[moment], moment
    assert "learner gradients" in moments(rank(0, BF16))["rest"]
    assert parts["rest"]["learner optimizer"] == 6 * N
    peaks = {name: sum(part.values()) for name, part in parts.items()}
    assert sum(account.peak(run).values()) == max(peaks.values())


def test_where_zero_3_offloads_float32_has_a_copy():
    run = rank(3, OFFLOAD)
    assert account.master_weights(run) == 2 * N
    assert account.master_weights(rank(3)) == account.master_weights(rank(0)) == 0


def test_one_offloads_by_way_of_buffers():
    run, two = rank(1, BF16, OFFLOAD), rank(2, BF16, OFFLOAD)
    assert account.averaged_gradients(run) == 2 * N
    others = two, rank(1, OFFLOAD), rank(1, BF16), rank(3, BF16, OFFLOAD)
    assert [account.averaged_gradients(other) for other in others] == [0, 0, 0, 0]
    for part, size in (("offload_buffer", 2 * 800), ("returned_weights", N)):
        found = [getattr(account, part)(other) for other in (run, *others)]
        assert found == [size, size, 2 * size, 0, 0], part
    wide = {"model.layers.0.mlp.up.weight": (20_000, 20_000)}
    assert account.offload_buffer(Rank(run.cfg, replace(BILLION, matrices=wide))) == 8 * 10**8
    few = ModelSize({"all": 100}, 2, 8, 100, None)
    assert account.offload_buffer(Rank(run.cfg, few)) == 2 * 100
    for parts in account.on_gpu(run).values():
        assert not parts.keys() & {"learner optimizer", "step gradients"}
    kept = {"learner weights": 2 * N, "reference policy": 0, "offload buffer": 1600}
    assert account.on_gpu(run)["rest"] == kept
    assert account.on_gpu(run)["flatten"] == kept | {"flat weights": 3 * N}
    learn = account.on_gpu(run)["learn"]
    assert learn["averaged gradients"] == 2 * N
    assert learn["learner gradients"] == 4 * N
    on_a_cpu = moments(run)["rest"]
    assert on_a_cpu["learner optimizer"] == (8 + 4 + 2) * N // 2
    assert on_a_cpu["step gradients"] == 2 * N


def test_stages_1_and_2_make_one_tensor_of_what_learns():
    found = [account.flat_weights(rank(stage)) for stage in range(4)]
    assert found == [0, 6 * N, 6 * N, 0]
    assert account.flat_weights(rank(0, BF16)) == 3 * N
    adapters = rank(2, "model.lora_rank=4", model=SMALL, ranks=1)
    assert account.flat_weights(adapters) == 2 * 4 * adapters.trained
    parts = moments(rank(2))["flatten"]
    assert parts["learner optimizer"] == parts["step gradients"] == 2 * N
    summed = moments(rank(1, BF16))["flatten"]
    assert summed["learner gradients"] == 4 * N


@pytest.mark.parametrize(
    ("shape", "tokens", "row", "stage", "keys", "found"),
    [
        (HALF, 4096, 512, 0, (BF16,), {"load": 6.29, "step": 14.80}),
        (HALF, 4096, 512, 0, (), {"load": 1.94, "step": 17.26}),
        (LARGE, 8192, 1024, 0, (BF16,), {"load": 20.7, "step": 47.43}),
        (LARGE, 8192, 1024, 0, (BF16, CHECKPOINTING), {"step": 28.7}),
        (LARGE, 8192, 1024, 1, (BF16, CHECKPOINTING, OFFLOAD), {"load": 9.0, "step": 17.4}),
    ],
)
def test_a_gpu_held_what_the_account_says(shape, tokens, row, stage, keys, found):
    """GiB that torch's allocator had taken at most, measured on an H200 on 2026-11-27.

    While a rank was made and while it stepped, by benchmarks/partitioned_memory.py: Llamas of 0.48
    and 1.57 billion parameters.
    """
    tokens = f"learner.microbatch_tokens={tokens}"
    keys = (*keys, tokens, f"rollout.context_tokens={row}", "rollout.temperature=1")
    run = rank(stage, *keys, "learner.packing=padded", model=llama(*shape), ranks=1)
    sums = {name: sum(parts.values()) / 2**30 for name, parts in account.on_gpu(run).items()}
    said = {"load": sums["flatten"], "step": max(sums.values())}
    assert {act: said[act] for act in found} == pytest.approx(found, rel=0.15)


def test_adapters_alone_have_gradients_and_moments():
    run = rank(0, "model.lora_rank=4", model=SMALL)
    assert run.trained == 4 * LAYERS * (128 + 96 + 320 + 320)
    assert account.weights(run) == 4 * run.parameters
    assert account.optimizer(run) == 8 * run.trained
    assert account.gradients(run) == 4 * run.trained
    head = rank(0, "model.lora_rank=4", model=replace(SMALL, parameters={"value head": 7, "a": 1}))
    assert head.trained == run.trained + 7


def test_the_constants_are_the_learners():
    from learner import engine, export, output_layer, partitioned, weight_noise

    assert account.CHUNK_ELEMENTS == output_layer.CHUNK_ELEMENTS
    assert account.READ_BYTES == partitioned.READ_BYTES
    assert account.EXPORT_BYTES == engine.EXPORT_BYTES
    assert account.FILE_BYTES == export.FILE_BYTES
    assert account.FILES == export.FILES
    assert account.PROOF_BYTES == 6 * weight_noise.PIECE


def test_ranks_that_share_rows_share_their_activations():
    keys = ("learner.microbatch_tokens=1024", "learner.packing=padded")
    alone, shared = (rank(3, *keys, f"learner.sequence_parallel={n}", model=SMALL) for n in (1, 2))
    assert account.activations(shared) == account.activations(alone) // 2
    assert account.logits(shared) == account.logits(alone) // 2
    assert account.weights(shared) == account.weights(alone)
