"""DeepSpeed's settings, from the typed configuration.

Input: a configuration and a ZeRO stage. Output: the dict that `deepspeed.initialize` takes.
"""

from __future__ import annotations

import torch

from configs.schema import OptimizerConfig, RunConfig

# Elements of what DeepSpeed holds at once besides a rank's share: a bucket of gradients, parameters
# that stay gathered, and at ZeRO-3 gradients in float32. Its own defaults, up to 1e9, take more
# than the share of a 7B model on eight ranks.
AT_ONCE = 10**8


def zero_stage(cfg: RunConfig) -> int:
    """The stage that DeepSpeed runs: `learner.zero_stage`, but 1 in place of 0 in bfloat16.

    Its bfloat16 optimizer of stage 0 steps on zeros at the start, which decays the float32 weights
    and makes AdamW's bias correction take the first step for the second (0.74 times its size with
    beta2=0.98), and it adds up the gradients of microbatches in bfloat16. That of stage 1 does
    neither, and on one rank holds no more.
    """
    return max(cfg.learner.zero_stage, int(cfg.model.dtype == "bfloat16"))


def deepspeed_config(cfg: RunConfig, optimizer: OptimizerConfig, stage: int) -> dict[str, object]:
    """The dict for `deepspeed.initialize`.

    Gradients are added up, over microbatches and over ranks, in float32 whatever the weights'
    dtype: of many small terms bfloat16 loses what is below 1/256 of the sum.

    With `learner.offload`, stages 1 to 3 keep the optimizer's moments and the float32 weights in
    the host's memory and step there with torch's fused AdamW. DeepSpeed's own CPU Adam is faster
    on wide vector units, but it is compiled at start-up, and few images contain a compiler.
    """
    zero: dict[str, object] = {
        "stage": stage,
        "reduce_bucket_size": AT_ONCE,
        "sub_group_size": AT_ONCE,
        "stage3_max_live_parameters": AT_ONCE,
        "stage3_prefetch_bucket_size": AT_ONCE // 2,
        "stage3_max_reuse_distance": AT_ONCE,
        "stage3_param_persistence_threshold": 0,
    }
    if cfg.learner.offload and stage:
        # Unpinned memory would make every transfer wait for the one before.
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    clip = 0.0 if engine_clips_gradients(stage) else optimizer.max_grad_norm
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": cfg.model.dtype == "bfloat16", "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": None,
    }


def engine_clips_gradients(stage: int) -> bool:
    """Whether TrainingEngine clips the gradients, because DeepSpeed would not return their norm."""
    return stage == 0
