"""Frees what a phase's policies hold, so that the next phase's find the memory.

DeepSpeed's own `destroy` removes hooks, and leaves weights, optimizer and gradients where they are.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

from rollout.freed_memory import return_freed_memory

PASSES = 10  # of the collector at most; two find all that DeepSpeed's optimizers hold


def free(*policies: object | None) -> None:
    """Free all that objects with DeepSpeed engines hold; they are of no use after it.

    What is freed goes back to the device and the system, for engines that share them.
    """
    for policy in filter(None, policies):
        _let_go(policy)
    _clear_trace_cache()
    # Modules, parameters and optimizers refer to each other. The collector does not look into a
    # tensor of which there are views (THPVariable_traverse): they go first, then the tensor.
    for _ in range(PASSES):
        if not gc.collect():
            break
    return_freed_memory()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
        torch.accelerator.empty_host_cache()


def _let_go(policy: object) -> None:
    for held in vars(policy).values():
        if isinstance(held, DeepSpeedEngine):
            held.destroy()
            # ZeRO-3 adds the module at the start, and never takes it away.
            FWD_MODULE_STACK[:] = [m for m in FWD_MODULE_STACK if m is not held.module]
    vars(policy).clear()


def _clear_trace_cache() -> None:
    """Empty DeepSpeed's cache of what ZeRO-3 releases after a module: one for all engines.

    It is filled in the second forward pass and never emptied, and holds the modules of each engine
    that was, their parameters, and through these the optimizer.
    """
    name = "_PartitionedParameterCoordinator__params_to_release"
    function: Any = getattr(PartitionedParameterCoordinator, name)
    while not hasattr(function, "cache_clear"):  # inside what DeepSpeed wraps for its profiler
        (function,) = filter(callable, (cell.cell_contents for cell in function.__closure__))
    function.cache_clear()
