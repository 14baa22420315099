"""Every ablation of the study is one line of configuration on a shipped one (no run is made)."""

from __future__ import annotations

import pytest

from cluster.environments import environments
from configs.load import load
from configs.study import FOLDER, load_study
from envs.registry import check_settings

LINES = {
    "gp_l": [
        "env.settings.face_rule=ten",
        "env.settings.face_rule=ranks",
        "env.settings.face_rule=five",
        "env.settings.face_rule=seven",
        "env.settings.face_rule=twelve",
        "env.settings.face_rule=mixed",
        "env.settings.face_rule=any",
        "env.settings.fake_rule=seven",
        "eval.variants.fake={face_rule: ranks, fake_rule: ten}",
        "env.settings.num_cards=3",
        "env.settings.max_rank=12",
        "env.settings.target=36",
        "env.settings.hands=all",
        "env.settings.hold_out=0.5",
        *(f"env.settings.verify_iter={n}" for n in (1, 3, 5, 10)),
        *(f"env.settings.feedback={kind}" for kind in ("none", "binary", "prefix_hint")),
        "env.settings.penalty_mode=sum",
        "env.settings.partial_reward=true",
        "env.settings.rewards={solved: 1}",
        "sft.steps=400",
        "sft.loss=dft",
        "sft.loss=ce_kl",
        "env.settings.prompt_diversity=true",
        "env.settings.cot=true",
        "ppo.estimator=grpo ppo.group_size=8",
        "ppo.estimator=rloo ppo.group_size=8",
        "ppo.estimator=reinforce_pp",
        "ppo.baseline=mean",
        "ppo.value_lr=null",
        "ppo.estimator=grpo ppo.group_size=8 ppo.dynamic_sampling=3",
        "ppo.desired_kl=0.01",
        "ppo.surrogate=cispo",
        "ppo.surrogate=sapo",
        "ppo.clip_high=0.28",
        "ppo.dual_clip=3",
        "ppo.ratio_level=turn_mean ppo.clip=3e-4",
        "ppo.aggregation=turn",
        "ppo.kl_coef=0.1 ppo.kl_in=reward",
        "ppo.kl_coef=0.1 ppo.kl_estimator=k2",
        "ppo.estimator=grpo ppo.group_size=8 ppo.group_deviation=none ppo.aggregation=constant",
        "ppo.advantage_level=token ppo.value_level=token",
        "ppo.ratio_level=turn",
        "ppo.kl_coef=0.1",
        "ppo.entropy_coef=0.01",
        "ppo.value_clip=0.2",
        "ppo.trunc_bootstrap=true",
        "ppo.max_staleness=1",
        "preset=paper_text",
        "preset=paper_code",
        "sft.steps=0",
    ],
    "gp_l_debug": ["env.settings.max_rank=10", "env.settings.trajectories=suboptimal"],
    "gp_vl": [
        "env.settings.suits=black",
        "env.settings.suits=red",
        "model.freeze=vision",
        "model.freeze=vision+projector",
    ],
    "virl_l": [
        "env.settings.city=Milan",
        "env.settings.action_space=relative",
        "env.settings.action_space=mixed",
        "env.settings.feedback=binary",
        "env.settings.penalty_mode=sum",
        "env.settings.verify_iter=2",
        "preset=paper_text",
        "preset=paper_code",
    ],
    "virl_vl": [
        "env.settings.view_layout=legacy",
        "env.settings.trajectories=suboptimal",
        "eval.variants.other_city={city: London}",
    ],
    "virl_l_gpu": ["env.settings.prompt_diversity=true"],
}
CASES = [(base, line) for base, lines in LINES.items() for line in lines]


@pytest.mark.parametrize(("base", "line"), CASES, ids=[f"{b}: {line}" for b, line in CASES])
def test_one_line_is_an_ablation(base: str, line: str) -> None:
    pairs = line.split(" ") if "{" not in line else [line]
    cfg = load(base, pairs)
    assert cfg != load(base) or line in SAME, "the line changes nothing"
    for name, played in environments(cfg).items():
        check_settings(*played, where=name)


# What the base has already, and stands in the list for the sake of the others.
SAME = {"env.settings.verify_iter=1"}


def test_sft_from_a_base_an_sft_and_an_overfitted_one_are_arms() -> None:
    arms = load_study(FOLDER / "gp_l_cpu.yaml").arms
    assert [arms[name].source for name in ("ppo", "sft_ppo", "overfit_ppo")] == [
        "pretrain",
        "sft",
        "sft_long",
    ]
