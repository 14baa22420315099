"""What DeepSpeed 0.19.8 holds on a rank while weights are gathered and gradients are reduced.

As its zero/stage3.py, partitioned_param_coordinator.py, stage_1_and_2.py and engine.py allocate it
with learner/deepspeed_config.py. `allgather_bucket_size` has no part: stages 1 and 2 gather their
weights in place. Input: a run as its ranks see it. Output: bytes.
"""

from __future__ import annotations

from cluster.placement.rank import Rank

AT_ONCE = 10**8  # reduce_bucket_size, stage3_max_live_parameters (learner.deepspeed_config)
PREFETCH = AT_ONCE // 2  # stage3_prefetch_bucket_size
ALLREDUCE_AT_ONCE = 5 * 10**8  # DeepSpeed's own, where gradients are not partitioned


def gathered(run: Rank) -> int:
    """Weights that ZeRO-3 has together, and those that it is cutting out of what has arrived.

    It prefetches up to AT_ONCE live ones, PREFETCH at a time as one flat tensor, and passes either
    limit by a tensor at most (fetch_sub_module, AllGatherCoalescedHandle).
    """
    return _gathered(run, run.largest)


def _gathered(run: Rank, largest: int) -> int:
    if run.share(3) == 1:
        return 0
    live = min(run.parameters, AT_ONCE + largest)
    return run.size * (live + min(run.parameters, PREFETCH + largest))


def bucket(run: Rank) -> int:
    """Where gradients wait for others: AT_ONCE of them, in s bytes at stage 2, else in float32.

    ZeRO-3's stays. DeepSpeed allocates it at full size; a CPU gives pages only for what is written.
    """
    if _reduces_whole(run):
        return 0
    return (run.size if run.stage == 2 else 4) * min(run.trained, AT_ONCE)


def copies(run: Rank) -> int:
    """Of a bucket that is reduced: one flat tensor of its parts, and in float32 where it is not.

    Where each rank has all gradients, in float32, DeepSpeed makes flat ALLREDUCE_AT_ONCE, and the
    tensor that passes it.
    """
    if run.cfg.learner.zero_stage == 0 and run.cfg.learner.ranks == 1:
        return 0
    if _reduces_whole(run):
        return 4 * min(run.trained, ALLREDUCE_AT_ONCE + run.largest)
    return _copied(run) * min(run.trained, AT_ONCE)


def _reduces_whole(run: Rank) -> bool:
    """Whether gradients are not partitioned."""
    return run.stage == 0 or run.sums_whole


def _copied(run: Rank) -> int:
    """Bytes of an element's copies.

    At stages 1 and 2 the bucket's parts are those of each rank: of float32 on one rank it is itself
    the one (average_tensor, allreduce_bucket).
    """
    if run.stage < 3 and run.size == 4 and run.cfg.learner.ranks == 1:
        return 0
    return 8 - 2 if run.stage == 2 and run.size == 2 else 4


def largest_gradient(run: Rank) -> int:
    """Of the largest tensor that learns, the output layer's or embedding: no bucket takes it.

    First there are its weight, gathered, its gradient, and that of the next chunk of logits; then
    the gradient and its copies, while other weights are gathered. Nothing where all gradients are
    there in s bytes.
    """
    largest = 0 if run.cfg.model.lora_rank else run.largest
    if run.size == 4 and run.stage < 2:
        return 0
    weight = largest if run.share(3) > 1 else 0
    made = run.size * (weight + 2 * largest)
    if largest <= AT_ONCE or _reduces_whole(run):
        return made
    return max(made, run.size * largest + _sent(run, largest) + _gathered(run, run.widest))


def _sent(run: Rank, largest: int) -> int:
    """Copies of a gradient that is larger than a bucket.

    Stage 3 makes it float32, and flat where the ranks do not divide it (__avg_scatter_grads);
    stages 1 and 2 reduce it in parts, AT_ONCE and one rank's share of all at most.
    """
    ranks = run.cfg.learner.ranks
    if run.stage == 3:
        return largest * (4 * (run.size == 2) + 4 * (largest % ranks > 0))
    return _copied(run) * min(largest, AT_ONCE + run.trained // ranks)
