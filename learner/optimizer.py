"""AdamW, its parameter groups and its learning-rate schedule, from the typed configuration.

DeepSpeed wraps the optimizer that is made here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from configs.schema import OptimizerConfig, PPOConfig
from learner.checkpoint_layout import full_shape
from learner.model import ActorCritic

ParameterGroup = dict[str, object]
MakeOptimizer = Callable[[list[ParameterGroup], OptimizerConfig], torch.optim.Optimizer]


def adamw(groups: list[ParameterGroup], cfg: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over parameter groups."""
    return torch.optim.AdamW(
        groups,
        lr=cfg.lr,
        betas=(cfg.beta1, cfg.beta2),
        eps=cfg.eps,
        weight_decay=cfg.weight_decay,
        fused=True,
    )


def learning_rate(cfg: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of step 0 … steps - 1: linear warm-up to lr, then to lr_end at the last."""
    warm = math.ceil(cfg.warmup * steps)
    if step < warm:
        return cfg.lr * (step + 1) / warm
    if cfg.schedule == "constant":
        return cfg.lr
    share = min(1.0, (step - warm) / max(1, steps - 1 - warm))
    if cfg.schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return cfg.lr + (cfg.lr_end - cfg.lr) * share


def head_rate(cfg: PPOConfig, step: int, steps: int) -> float | None:
    """The value head's of its own, `ppo.value_lr` by the optimizer's schedule; None without one.

    Where the trunk's peak is 0, and the critic is trained alone, it falls to 0.
    """
    own = cfg.optimizer
    if cfg.value_lr is None:
        return None
    if own.lr == 0:
        return learning_rate(replace(own, lr=cfg.value_lr, lr_end=0.0), step, steps)
    return learning_rate(own, step, steps) * cfg.value_lr / own.lr


def set_learning_rates(
    groups: list[ParameterGroup], rate: float, head: float | None, freeze_trunk: bool
) -> None:
    """Set the trunk's learning rate, 0 when it is frozen, and the value head's; None: the same."""
    rates = {"trunk": 0.0 if freeze_trunk else rate, "head": rate if head is None else head}
    for group in groups:
        group["lr"] = rates[str(group["part"])]


def parameter_groups(model: ActorCritic, cfg: OptimizerConfig) -> list[ParameterGroup]:
    """Trainable parameters, trunk and value head apart, each group with its "part".

    Weight decay applies to matrices; norms and biases have a group without it.
    """
    groups: list[ParameterGroup] = []
    for part, module in (("trunk", model.trunk), ("head", model.value_head)):
        parameters = list(module.parameters()) if module is not None else []
        parameters = [p for p in parameters if p.requires_grad]
        matrices = [p for p in parameters if len(full_shape(p)) > 1 or cfg.weight_decay == 0]
        others = [p for p in parameters if len(full_shape(p)) <= 1 and cfg.weight_decay > 0]
        groups.append({"params": matrices, "part": part})
        groups.append({"params": others, "part": part, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]
