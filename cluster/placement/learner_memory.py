"""The memory of one learner rank, part by part: one function a part, with its formula and source.

Input: a configuration and the sizes of its model. Output: bytes by part, and by moment which parts
are there together. Measured against peaks by `benchmarks/partitioned_memory.py --account`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.placement.bucket_memory import AT_ONCE, bucket, copies, gathered, largest_gradient
from cluster.placement.rank import MIB, Rank
from configs.model_folder import ModelSize, part_of
from configs.schema import RunConfig

CHUNK_ELEMENTS = 2**25  # learner.output_layer
READ_BYTES = 2**26  # learner.partitioned
EXPORT_BYTES = 2**26  # learner.engine
FILES, FILE_BYTES = 16, 2**27  # learner.export
PROOF_BYTES = 2**22 * (1 + 1 + 4)  # learner.weight_noise: a piece's bits, drawn, and as integers
BACKWARD_LAYERS = 2
VALUES = 24  # of the hidden width a layer keeps of a token, where its matrices are not known


def weights(run: Rank) -> int:
    """The policy's: n·s, from stage 3 on divided by the ranks (Rajbhandari et al., 2020, §5.3)."""
    return run.parameters * run.size // run.share(3)


def gradients(run: Rank) -> int:
    """Until the optimizer's step: 4·t, from stage 2 on divided by the ranks (ibid., §5.2)."""
    return run.trained * 4 // run.share(2)


def first_gradients(run: Rank) -> int:
    """Zeros in the places of gradients, float32, that DeepSpeed makes once, at the start.

    They are from when optimizers made their moments there; today's make them at the first step
    (`initialize_optimizer_states` of stage_1_and_2.py and stage3.py). None at stage 0 and by
    BF16_Optimizer.
    """
    if run.stage == 0 or run.sums_whole:
        return 0
    return _stepped_at_once(run)


def optimizer(run: Rank) -> int:
    """AdamW's two moments in float32: 8·t, from stage 1 on divided by the ranks (ibid., §5.1)."""
    return run.trained * 8 // run.share(1)


def master_weights(run: Rank) -> int:
    """Of what learns a copy in float32: 4·t, from stage 1 on divided by the ranks.

    None in float32 at stage 0, where torch steps the weights, and at stage 3 without offload, where
    DeepSpeed takes the rank's share of the weights itself (stage3.py, _create_fp32_partitions); at
    stages 1 and 2 it copies them all the same (stage_1_and_2.py).
    """
    if run.size == 4 and run.stage in (0, 3) and not run.offloads_gradients:
        return 0
    return run.trained * 4 // run.share(1)


def step_gradients(run: Rank) -> int:
    """A flat copy in float32 of the gradients, with which the optimizer steps.

    ZeRO-3 makes it for AT_ONCE parameters at a time (_prepare_fp32_grad_for_sub_group), stages 1
    and 2 for all that are a rank's own. None at stage 0, nor in bfloat16 at stages 1 and 2, where
    gradients are added up in such a buffer. With offload it is the host's, at every stage of all
    that are a rank's own, and stays (initialize_optimizer_states).
    """
    flat = run.size == 2 and run.stage < 3 and not run.cfg.learner.offload
    if run.stage == 0 or flat:
        return 0
    return _stepped_at_once(run)


def _stepped_at_once(run: Rank) -> int:
    own = run.trained // run.share(1)
    bounded = run.stage == 3 and not run.offloads_gradients
    return 4 * (min(own, AT_ONCE) if bounded else own)


def flat_weights(run: Rank) -> int:
    """While stages 1 and 2 make one tensor of what learns: its pieces, t·s, and a copy to cast.

    The copy is of a rank's share; the pieces are free by then, but nothing so large fits into what
    torch's allocator keeps of them (stage_1_and_2.py and bf16_optimizer.py, __init__).
    """
    if run.stage not in (1, 2):
        return 0
    return run.trained * run.size + run.trained * run.size // run.share(1)


def averaged_gradients(run: Rank) -> int:
    """A rank's own, in float32 and flat, beside all that it added up: 4·t, divided by the ranks.

    At stage 1 in bfloat16 with offload (stage_1_and_2.py, _build_compact_grad_partition_buffer),
    after the backward pass, of which torch's allocator keeps pieces that nothing so large fits.
    """
    if run.size == 4 or run.stage != 1 or not run.cfg.learner.offload:
        return 0
    return run.trained * 4 // run.share(1)


def offload_buffer(run: Rank) -> int:
    """As large as the largest tensor that learns: at stages 1 and 2 it stays where one offloads."""
    if run.stage == 3 or not run.cfg.learner.offload:
        return 0
    return run.size * min(run.trained, run.largest)


def returned_weights(run: Rank) -> int:
    """What the host has stepped, on its way back in s bytes: t·s, divided; at stages 1 and 2."""
    if run.stage == 3 or not run.cfg.learner.offload:
        return 0
    return run.trained * run.size // run.share(1)


def activations(run: Rank) -> int:
    """What a microbatch of T tokens keeps of the trunk for its backward pass.

    Of each linear layer its input and its output, and the widest input of a block once more, which
    its activation function keeps: T·s·(Σ(in + out) + widest). With gradient checkpointing a
    layer's input alone, T·s·hidden, and all of one layer while it is computed again (Chen et
    al., 2016). The backward pass itself holds as much as BACKWARD_LAYERS (measured).
    """
    model, tokens = run.model, run.tokens
    layer = tokens * run.size * _kept(model) // max(1, model.layers)
    if run.cfg.model.gradient_checkpointing:
        inputs = tokens * run.size * model.hidden * model.layers
        return inputs + layer * (1 + BACKWARD_LAYERS)
    return layer * (model.layers + BACKWARD_LAYERS)


def attention_mask(run: Rank) -> int:
    """Which tokens of a row see each other: a byte for each pair, and its number in s bytes.

    A row is as long as the longest sequence; rows hold the microbatch's tokens together. Flash
    attention has none, and sdpa none for rows of one sequence.
    """
    one = run.cfg.learner.packing == "padded" and run.cfg.model.attention != "eager"
    if run.cfg.learner.packing == "flat" or one:
        return 0
    row = min(run.cfg.rollout.context_tokens, run.cfg.learner.microbatch_tokens)
    return run.cfg.learner.microbatch_tokens * row * (1 + run.size)


def logits(run: Rank) -> int:
    """Of a chunk of rows: as the model gives them, in float32, their gradient, and that in s bytes.

    A chunk is CHUNK_ELEMENTS (learner/output_layer.py); a KL penalty needs all rows' distributions,
    the policy's and the reference's, and their gradients, at once.
    """
    tokens, vocabulary = run.tokens, run.model.vocabulary
    if _reference(run.cfg):
        return tokens * vocabulary * (2 * run.size + 5 * 4)
    rows = min(tokens, max(1, CHUNK_ELEMENTS // max(1, vocabulary)))
    return rows * vocabulary * (2 * run.size + 8 + 4 * (run.cfg.rollout.temperature != 1.0))


def scored(run: Rank) -> int:
    """Of a forward pass without gradients: the values of a layer, and a chunk of logits.

    The logits as the model gives them, in float32, and what their entropy takes of the same size.
    """
    layer = run.tokens * run.size * _kept(run.model) // max(1, run.model.layers)
    rows = min(run.tokens, max(1, CHUNK_ELEMENTS // max(1, run.model.vocabulary)))
    return layer + rows * run.model.vocabulary * (run.size + 8)


def vision(run: Rank) -> int:
    """What the vision encoder keeps of a microbatch's pictures, by the formula of `activations`."""
    model = run.model
    patches = run.cfg.learner.microbatch_images * model.patches
    matrices = [shape for name, shape in model.matrices.items() if part_of(name) == "vision"]
    return patches * run.size * sum(map(sum, matrices))


def reference(run: Rank) -> int:
    """The KL penalty's frozen copy of the policy: n·s, divided by the ranks at every stage."""
    if not _reference(run.cfg):
        return 0
    return run.parameters * run.size // run.cfg.learner.ranks


def sync(run: Rank) -> int:
    """A bucket of gathered weights that is published, and its copy on its way to the engines.

    No tensor is divided, so a bucket may be the largest one.
    """
    return 2 * _pieces(run, run.cfg.cluster.sync_bucket_mib * MIB)


def proof(run: Rank) -> int:
    """What the weight proof draws at once; of the weights it changes it keeps nothing."""
    return PROOF_BYTES


def loaded(run: Rank) -> int:
    """What is read at once: READ_BYTES, or the largest tensor; below stage 3 the whole policy.

    Twice at stage 3, for the files' pages are this process's while they are copied.
    """
    if run.stage < 3:
        return run.parameters * run.size
    return 2 * max(min(READ_BYTES, run.parameters * run.size), run.largest * run.size)


def exported(run: Rank) -> int:
    """On rank 0 a weight file before it is written, and what is gathered for it."""
    file = max(FILE_BYTES, run.parameters * run.size // FILES)
    return _pieces(run, file) + _pieces(run, EXPORT_BYTES)


def state_copy(run: Rank) -> int:
    """The copy of a rank's state in the host's memory from which a checkpoint is written.

    Weights that learn, moments and master weights; without ZeRO all of it on rank 0 alone.
    """
    learner = run.cfg.learner
    if not (learner.checkpoint_minutes or learner.checkpoint_every):
        return 0
    return run.trained * run.size // run.share(3) + optimizer(run) + master_weights(run)


def moments(run: Rank) -> dict[str, dict[str, int]]:
    """By moment, the parts that a rank holds together on the device where it computes."""
    kept = {
        "learner weights": weights(run),
        "learner optimizer": optimizer(run) + master_weights(run) + returned_weights(run),
        "reference policy": reference(run),
    }
    late = {"learner gradients": gradients(run)}
    if run.sums_whole:
        kept |= late
    if run.stage == 3:  # its buffers stay
        kept |= late | {"learner buckets": bucket(run)}
    if run.cfg.learner.offload:
        kept |= {"step gradients": step_gradients(run), "offload buffer": offload_buffer(run)}
    passes = {
        "learner buckets": bucket(run) + copies(run),
        "averaged gradients": averaged_gradients(run),
        "learner activations": activations(run) + attention_mask(run),
        "learner logits": logits(run),
        "vision encoder": vision(run),
    }
    head = {"learner buckets": bucket(run), "largest gradient": largest_gradient(run)}
    first = {"step gradients": first_gradients(run)}
    flat = {"learner optimizer": master_weights(run), "flat weights": flat_weights(run)}
    return {
        "read": {"learner weights": weights(run), "weight files": loaded(run)},
        "flatten": kept | first | flat,
        "load": kept | first,
        "learn": kept | late | passes | {"gathered weights": gathered(run)},
        "output layer": kept | late | passes | head,
        "score": kept
        | {
            "gathered weights": gathered(run),
            "scored tokens": scored(run) + attention_mask(run),
            "vision encoder": vision(run),
        },
        "step": kept | late | {"step gradients": step_gradients(run)},
        "sync": kept | {"weight sync": sync(run)},
        "proof": kept | {"weight proof": proof(run)},
        "export": kept | {"weight file": exported(run)},
        "rest": kept,
    }


def peak(run: Rank) -> Mapping[str, int]:
    """The parts of the moment that needs most."""
    return max(moments(run).values(), key=lambda parts: sum(parts.values()))


def moved(run: Rank) -> tuple[str, ...]:
    """Parts that learner.offload keeps in the host's memory: of some stages the gradients too.

    stage3.py makes its flat buffer of them on `self.device`, the CPU; stage_1_and_2.py adds up
    those that are not float32 already on the GPU (copy_grads_in_partition).
    """
    if not run.cfg.learner.offload:
        return ()
    early = ("learner gradients",) if run.offloads_gradients else ()
    return ("learner optimizer", "step gradients", *early)


def on_gpu(run: Rank) -> dict[str, dict[str, int]]:
    """As `moments`, without what learner.offload keeps in the host's memory."""
    off = moved(run)
    return {
        moment: {part: size for part, size in parts.items() if part not in off}
        for moment, parts in moments(run).items()
    }


def _reference(cfg: RunConfig) -> bool:
    return bool(cfg.ppo.kl_coef) or cfg.sft.loss == "ce_kl"


def _kept(model: ModelSize) -> int:
    """Values that all layers of the text trunk keep of one token; experts in part."""
    matrices = {n: shape for n, shape in model.matrices.items() if part_of(n) != "vision"}
    if not matrices:
        return VALUES * model.hidden * model.layers
    widest = max(shape[-1] for shape in matrices.values())
    experts = sum(sum(shape) for name, shape in matrices.items() if ".experts." in name)
    every = sum(map(sum, matrices.values()))
    return int(every - experts * (1 - model.active_experts)) + widest * model.layers


def _pieces(run: Rank, limit: int) -> int:
    """Bytes of weights in pieces of at most `limit`, or the largest tensor."""
    return min(run.parameters * run.size, max(limit, run.largest * run.size))
