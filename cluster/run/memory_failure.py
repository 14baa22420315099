"""What to say of a process that took more memory than there is: its peak, and the keys to lower."""

from __future__ import annotations

import resource

import torch

from cluster.failures import out_of_memory
from configs.schema import RunConfig
from configs.text import one_line

GIB = 2**30


class LearnerMemory(MemoryError):
    """A rank took more memory than there is; the line says how much it had."""


def with_peak(error: Exception) -> Exception:
    """A rank's error, with the rank's peak where it is for lack of memory; else as it is."""
    if not out_of_memory(f"{type(error).__name__}: {error}"):
        return error
    return LearnerMemory(f"out of memory: {one_line(error)}; peak {peak()}")


def peak() -> str:
    """The most memory that this process had at once."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    if not torch.cuda.is_available():
        return f"{host:.1f} GiB"
    device = torch.cuda.max_memory_allocated() / GIB
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    return f"{device:.1f} of the GPU's {total:.1f} GiB, {host:.1f} GiB of the host's"


def advice(failure: str, cfg: RunConfig) -> str:
    """The keys that lower what the part takes that a failure for lack of memory names."""
    if "rollout worker" in failure:
        rollout = cfg.rollout
        return (
            f"lower rollout.in_flight={rollout.in_flight}, or rollout.kv_cache_gib="
            f"{rollout.kv_cache_gib:g} (on a GPU rollout.gpu_memory={rollout.gpu_memory:g})"
        )
    if "rank" in failure:
        stage = cfg.learner.zero_stage
        return (
            f"lower learner.microbatch_tokens={cfg.learner.microbatch_tokens}, or raise "
            f"learner.zero_stage={stage} (from 1, learner.offload=true takes the optimizer to the "
            "host)"
        )
    return (
        "`cardinal check` estimates what each part takes, and names the keys: "
        "learner.microbatch_tokens, rollout.in_flight, cluster.object_store_gib"
    )
