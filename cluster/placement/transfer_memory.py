"""What a publish over nccl or ipc holds on the GPUs that send and receive, beside all weights.

As vLLM packs tensors (vllm/distributed/weight_transfer/packed_tensor.py); object_store's part is
`learner_memory.sync`. Input: a run as its ranks see it. Output: bytes.
"""

from __future__ import annotations

import math
from itertools import pairwise

from cluster.placement.rank import MIB, Rank

CLONES = 2  # chunks of which an engine keeps copies until each layer is whole


def buffer(run: Rank) -> int:
    """The limit of a chunk: a bucket, or the largest tensor (learner.weight_sender)."""
    return max(run.cfg.cluster.sync_bucket_mib * MIB, *_tensors(run))


def sender(run: Rank, channel: str) -> int:
    """On a rank's GPU: what is gathered, and chunks.

    nccl: rank 0 has the tensors of a chunk, the chunk, and the one before it on its way. ipc:
    one buffer.
    """
    if channel == "ipc":
        return 2 * buffer(run)
    return buffer(run) + max(before + 2 * chunk for before, chunk in _neighbours(run))


def receiver(run: Rank, channel: str) -> int:
    """On each GPU of an engine. nccl: two chunks. ipc: copies of what the buffer held."""
    if channel == "ipc":
        return CLONES * buffer(run)
    return max(before + chunk for before, chunk in _neighbours(run))


def _neighbours(run: Rank) -> list[tuple[int, int]]:
    """Chunks of nccl and those before them: each ends with the tensor that passes the limit."""
    limit, chunks = buffer(run), [0, 0]
    for size in _tensors(run):
        chunks[-1] += size
        if chunks[-1] > limit:
            chunks.append(0)
    return list(pairwise(chunks))


def _tensors(run: Rank) -> list[int]:
    """Bytes of the model's tensors; those of no known shape in pieces of a bucket."""
    model, bucket = run.model, run.cfg.cluster.sync_bucket_mib * MIB
    table = run.size * model.vocabulary * model.hidden
    known = [table, *(run.size * math.prod(shape) for shape in model.matrices.values())]
    known += [table] * ("head" in model.parameters)
    pieces, rest = divmod(max(0, run.size * run.parameters - sum(known)), bucket)
    return [*known, *[bucket] * pieces, rest]
