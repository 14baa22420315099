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
    """AdamW over parameter groups; a step at rate 0, of a frozen group, does not count as one.

    Else a group's first steps would depend on whether DeepSpeed leaves frozen weights without a
    gradient (one rank at stage 0) or gives them zeros, which Adam's bias correction counts.
    """
    optimizer = torch.optim.AdamW(
        groups,
        lr=cfg.lr,
        betas=(cfg.beta1, cfg.beta2),
        eps=cfg.eps,
        weight_decay=cfg.weight_decay,
        fused=True,
    )
    optimizer.register_step_post_hook(_uncount_frozen)
    return optimizer


def _uncount_frozen(optimizer: torch.optim.Optimizer, *_: object) -> None:
    frozen = (p for group in optimizer.param_groups if group["lr"] == 0 for p in group["params"])
    for parameter in frozen:
        if "step" in optimizer.state[parameter]:
            optimizer.state[parameter]["step"].zero_()


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


def learning_rates(
    cfg: OptimizerConfig,
    ppo: PPOConfig,
    steps: int,
    frozen_steps: int,
    step: int,
    factor: float,
    frozen: bool,
) -> tuple[float, float]:
    """The trunk's and the value head's at a step of so many.

    Args:
        cfg: the phase's optimizer; its rates are multiplied by the factor.
        ppo: value_lr is the head's own, without the factor.
        steps: of the phase.
        frozen_steps: the first of them, of a frozen trunk, whose schedule begins after them.
        step: from 0.
        factor: see `learner.adaptive_rate`.
        frozen: whether the trunk is, at this step: its rate is 0.
    """
    trunk = 0.0 if frozen else learning_rate(cfg, step - frozen_steps, steps - frozen_steps)
    head = head_rate(ppo, step, steps)
    return factor * trunk, factor * learning_rate(cfg, step, steps) if head is None else head


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


def set_learning_rates(groups: list[ParameterGroup], trunk: float, head: float) -> None:
    """Set the learning rates of the trunk and of the value head."""
    rates = {"trunk": trunk, "head": head}
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
