"""Schedules at their ends, and which parameters decay."""

from __future__ import annotations

import pytest
import torch

from configs.schema import OptimizerConfig, PPOConfig
from learner.model import ActorCritic, ValueHead
from learner.optimizer import (
    adamw,
    head_rate,
    learning_rate,
    learning_rates,
    parameter_groups,
    set_learning_rates,
)
from learner.trunk import load_trunk
from tests.support.learner import save_llama


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule(schedule):
    cfg = OptimizerConfig(lr=2.0, lr_end=0.5, schedule=schedule, warmup=0.1)
    rates = [learning_rate(cfg, step, 101) for step in range(101)]
    assert rates[:11] == pytest.approx([2.0 * (s + 1) / 11 for s in range(11)])
    assert rates[11] == 2.0
    middle, last = {"cosine": (1.25, 0.5), "linear": (1.25, 0.5), "constant": (2.0, 2.0)}[schedule]
    assert (rates[10] + rates[11]) / 2 == 2.0
    assert (rates[55] + rates[56]) / 2 == pytest.approx(middle, rel=1e-6)
    assert rates[100] == pytest.approx(last)
    assert learning_rate(cfg, 500, 101) == pytest.approx(last)


def test_one_step_and_no_warmup():
    cfg = OptimizerConfig(lr=1.0, warmup=0.0)
    assert learning_rate(cfg, 0, 1) == 1.0


def test_groups(tmp_path):
    trunk = load_trunk(save_llama(tmp_path), torch.float32, "sdpa")
    actor = ActorCritic(trunk, ValueHead(32))
    plain = parameter_groups(actor, OptimizerConfig())
    assert [g["part"] for g in plain] == ["trunk", "head"]
    assert sum(len(g["params"]) for g in plain) == len(list(actor.parameters()))
    cfg = OptimizerConfig(weight_decay=0.1)
    optimizer = adamw(parameter_groups(actor, cfg), cfg)
    assert len(optimizer.param_groups) == 4
    for group in optimizer.param_groups:
        assert all((p.dim() > 1) == (group["weight_decay"] == 0.1) for p in group["params"])
    assert [g["part"] for g in parameter_groups(ActorCritic(trunk, None), cfg)] == ["trunk"] * 2


@pytest.mark.parametrize(
    ("value_lr", "frozen", "expected"),
    [
        (None, False, [1.5, 1.5]),
        (None, True, [0.0, 1.5]),
        (2.0, False, [1.5, 2.0]),
        (2.0, True, [0.0, 2.0]),
        (0.0, False, [1.5, 0.0]),
    ],
)
def test_the_value_head_may_have_a_rate_of_its_own(value_lr, frozen, expected):
    own = OptimizerConfig(lr=0.75, schedule="constant", warmup=0.0)
    ppo = PPOConfig(value_lr=value_lr, optimizer=own)
    groups = [{"part": "trunk"}, {"part": "head"}]
    set_learning_rates(groups, *learning_rates(own, ppo, 9, 0, 3, 2.0, frozen))
    assert [group["lr"] for group in groups] == expected


def test_the_trunks_schedule_begins_after_its_frozen_steps():
    own = OptimizerConfig(lr=2.0, lr_end=0.5, warmup=0.1)
    ppo = PPOConfig(value_lr=8.0, optimizer=own)
    both = [learning_rates(own, ppo, 50, 20, step, 1.0, step < 20) for step in range(50)]
    trunk = [learning_rate(own, step, 30) for step in range(30)]
    assert [rate for rate, _ in both] == [0.0] * 20 + trunk
    assert trunk[0] < trunk[1] < trunk[2] == 2.0
    assert trunk[-1] == pytest.approx(0.5)
    assert [head for _, head in both] == [head_rate(ppo, step, 50) for step in range(50)]
    same = [learning_rates(own, PPOConfig(), 50, 20, step, 1.0, False)[1] for step in range(50)]
    assert same == [learning_rate(own, step, 50) for step in range(50)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("lr", "lr_end"), [(2.0, 0.5), (2.0, 0.0), (0.0, 0.0)])
def test_value_lr_is_the_heads_peak_of_the_optimizers_schedule(schedule, lr, lr_end):
    optimizer = OptimizerConfig(lr=lr, lr_end=lr_end, schedule=schedule, warmup=0.1)
    own = OptimizerConfig(lr=8.0, lr_end=4 * lr_end, schedule=schedule, warmup=0.1)
    cfg = PPOConfig(value_lr=8.0, optimizer=optimizer)
    heads = [head_rate(cfg, step, 50) for step in range(50)]
    assert heads == pytest.approx([learning_rate(own, step, 50) for step in range(50)])
    assert max(heads) == 8.0
    assert head_rate(PPOConfig(optimizer=optimizer), 3, 50) is None
