"""The memory of an engine on each of its GPUs, within rollout.gpu_memory: one function a part.

As vLLM takes them out of its share before it starts (`determine_available_memory` of
vllm/v1/worker/gpu_worker.py). Input: a run as its ranks see it. Output: bytes by part.
"""

from __future__ import annotations

from cluster.placement.rank import GIB, Rank
from configs.model_folder import part_of
from rollout.engine_settings import batch_tokens

# CUDA's context, graphs of some tens of batch sizes and communicators, which an engine that sleeps
# keeps too: assumed, half a GiB to one each. vLLM logs what is "still in use" as it falls asleep.
CUDA_BYTES = 2 * GIB
CACHED = (".k_proj.weight", ".v_proj.weight")  # their rows are what the cache keeps of a token
LOGITS_BYTES = 4 * 4  # of a token id: float32 logits, log-probabilities, and both sorted
MLP_WIDTHS, HIDDEN_WIDTHS = 3, 3  # gate, up, their product; the residual, what enters and leaves


def on_gpu(run: Rank) -> dict[str, int]:
    """What an engine cannot start without, by part."""
    return {
        "weights": run.parameters * run.size // run.cfg.rollout.tensor_parallel,
        "cache of one context": cache(run),
        "activations": activations(run),
        "CUDA's context and graphs": CUDA_BYTES,
    }


def cache(run: Rank) -> int:
    """One context's: with less vLLM refuses to start ("To serve at least one request …")."""
    rollout = run.cfg.rollout
    return rollout.context_tokens * cached_token(run) // rollout.tensor_parallel


def cached_token(run: Rank) -> int:
    """Keys and values of a token in all layers; as wide as the model where no name tells them."""
    rows = sum(
        shape[0]
        for name, shape in run.model.matrices.items()
        if name.endswith(CACHED) and part_of(name) != "vision"
    )
    return run.size * (rows or 2 * run.model.layers * run.model.hidden)


def activations(run: Rank) -> int:
    """Of vLLM's trial at the start: a layer at as many tokens as ever, or then the sampler."""
    rollout, hidden = run.cfg.rollout, run.model.hidden
    text = [shape for name, shape in run.model.matrices.items() if part_of(name) != "vision"]
    widest = max((max(shape) for shape in text), default=4 * hidden)
    values = MLP_WIDTHS * widest // rollout.tensor_parallel + HIDDEN_WIDTHS * hidden
    layer = batch_tokens(rollout.in_flight, rollout.context_tokens) * values * run.size
    return max(layer, rollout.in_flight * run.model.vocabulary * LOGITS_BYTES)
