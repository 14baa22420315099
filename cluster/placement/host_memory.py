"""What of a learner rank that computes on a GPU is in its host's memory.

Input: a rank's parts (learner_memory.py). Output: bytes.
"""

from __future__ import annotations

from cluster.placement import learner_memory as account
from cluster.placement.bucket_memory import AT_ONCE
from cluster.placement.rank import Rank


def offloaded(run: Rank) -> int:
    """What learner.offload keeps in the host's memory: moments, master weights, their gradients.

    Pinned are at stages 1 and 2 all but the moments, and what passes between host and GPU; at stage
    3 the gradients: all as one piece, and one for each AT_ONCE with which the optimizer steps.
    """
    if not run.cfg.learner.offload:
        return 0
    pageable, steps = account.optimizer(run), account.step_gradients(run)
    if run.stage == 3:
        pageable += account.master_weights(run)
        pieces, piece = divmod(steps, 4 * AT_ONCE)
        held = [account.gradients(run), *[4 * AT_ONCE] * pieces, piece]
    else:
        held = [account.master_weights(run), steps, account.returned_weights(run)]
        held += [account.offload_buffer(run), account.gradients(run) * run.offloads_gradients]
    return pageable + sum(map(pinned, held))


def pinned(size: int) -> int:
    """Bytes that torch takes for so many pinned ones: the next power of two.

    ATen/core/CachingHostAllocator.h; a CPU pins none.
    """
    return 1 << (size - 1).bit_length() if size else 0


def on_host(run: Rank) -> int:
    """Of a rank that computes on a GPU: what is offloaded, and the most of what passes the host."""
    passing = (account.state_copy, account.exported, account.loaded, account.sync)
    return offloaded(run) + max(part(run) for part in passing)
