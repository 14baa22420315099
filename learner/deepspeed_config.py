"""DeepSpeed's settings, from the typed configuration.

Comes in: a configuration and a ZeRO stage; goes out: the dict that DeepSpeed reads. It does
not know DeepSpeed itself.
"""

from __future__ import annotations

from typing import Any

import torch

from configs.schema import OptimizerConfig, RunConfig


def deepspeed_config(cfg: RunConfig, optimizer: OptimizerConfig, stage: int) -> dict[str, Any]:
    """The dict for `deepspeed.initialize`.

    With `learner.offload` a stage from 1 keeps the optimizer's moments and the float32 weights
    in the host's memory, where torch's fused AdamW steps: DeepSpeed's own CPU Adam is faster on
    wide vector units, but is compiled at start-up, for which few images hold a compiler.
    """
    zero: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": 0}
    if cfg.learner.offload and stage:
        # Pinned, or every transfer waits for the last; there is nothing to pin for on a CPU.
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    clip = 0.0 if clips_itself(cfg, stage) else optimizer.max_grad_norm
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": cfg.model.dtype == "bfloat16"},
        "steps_per_print": None,
    }


def clips_itself(cfg: RunConfig, stage: int) -> bool:
    """Whether our engine clips the gradients: DeepSpeed would not tell the norm there."""
    return stage == 0 and cfg.model.dtype == "float32"
