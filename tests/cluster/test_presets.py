"""A preset reaches the environments of training and of every evaluation, PPO and sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.environments import environments
from cluster.phases.evaluate import sampled_requests
from cluster.stream.training_episodes import training_group
from configs.load import build, load
from configs.schema import PRESETS, RunConfig
from envs.general_points import settings as gp
from envs.virl import settings as virl

GP = {
    "fixed": gp.Resolved(False, "verifier", False, False, False, False),
    "paper_text": gp.Resolved(False, "verifier", False, False, False, False),
    "paper_code": gp.Resolved(True, "prefix_hint", True, True, True, True),
}
VIRL = {
    "fixed": virl.Rules(True, "truth", False, False, True, "cardinal", "first"),
    "paper_text": virl.Rules(True, "landmark", False, False, True, "cardinal", "first"),
    "paper_code": virl.Rules(False, "inverted", True, True, False, "legacy", "first"),
}
PPO: dict[str, dict[str, Any]] = {
    "fixed": {
        "value_trunk_grad": 0.1,
        "critic_warmup": 2,
        "ratio_level": "token",
        "thought_coef": 1.0,
    },
    "paper_text": {
        "value_trunk_grad": 1.0,
        "critic_warmup": 0,
        "ratio_level": "turn",
        "thought_coef": 1.0,
    },
    "paper_code": {
        "value_trunk_grad": 1.0,
        "critic_warmup": 0,
        "ratio_level": "token",
        "thought_coef": 0.5,
    },
}


def run(folder: Path, preset: str, env: str, variants: str) -> RunConfig:
    """A configuration that says nothing of what a preset decides."""
    file = folder / "run.yaml"
    file.write_text(
        f"preset: {preset}\nenv: {{id: {env}}}\nppo: {{updates: 3}}\n"
        f"eval: {{variants: {variants}}}\n"
    )
    return load(file)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("env", "variants", "known"),
    [
        ("cardinal/GeneralPoints-v0", "{train: {}, rule: {face_rule: ranks}}", (gp, GP)),
        ("cardinal/VIRL-v0", "{train: {}, rule: {action_space: relative}}", (virl, VIRL)),
    ],
)
def test_it_reaches_environments_ppo_and_evaluation(
    tmp_path: Path, preset: str, env: str, variants: str, known: tuple[Any, dict[str, Any]]
) -> None:
    cfg = run(tmp_path, preset, env, variants)
    played = environments(cfg)
    assert list(played) == ["rollout", "eval/train", "eval/rule"]
    module, expected = known
    for name, (_, settings) in played.items():
        resolved = module.resolve(build(module.Settings, settings, name))
        assert resolved == expected[preset], name
    assert {key: getattr(cfg.ppo, key) for key in PPO[preset]} == PPO[preset]
    temperature = 1.0 if preset == "fixed" else 0.2
    asked = training_group(cfg, 0) + sampled_requests(cfg, "ppo", "rule")
    assert {request.temperature for request in asked} == {temperature}


@pytest.mark.parametrize("preset", ["paper_text", "paper_code"])
def test_it_holds_the_papers_numbers_where_a_file_says_nothing(tmp_path: Path, preset: str) -> None:
    cfg = run(tmp_path, preset, "cardinal/GeneralPoints-v0", "{train: {}}")
    ppo, sft = cfg.ppo, cfg.sft
    assert (ppo.gamma, ppo.lam, ppo.clip, ppo.epochs, ppo.value_coef) == (0.9, 0.95, 0.1, 4, 0.5)
    assert ppo.optimizer.eps == sft.optimizer.eps == 1e-7
    assert (ppo.optimizer.lr, ppo.optimizer.lr_end, ppo.optimizer.schedule) == (
        1e-6,
        1e-9,
        "cosine",
    )
    assert (sft.optimizer.beta1, sft.optimizer.beta2, sft.optimizer.warmup) == (0.9, 0.98, 0.03)
    assert sft.batch_size == 128
