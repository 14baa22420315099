"""The presets of SFT and PPO: values of dotted keys that replace the schema's defaults.

Each environment applies `preset` to its own settings.
"""

from __future__ import annotations

_STUDY: dict[str, float | str] = {
    "ppo.value_trunk_grad": 1.0,
    "ppo.critic_warmup": 0,
    "ppo.ratio_level": "turn",
    "ppo.clip": 0.1,
    "ppo.epochs": 4,
    "ppo.optimizer.lr": 1e-6,
    "ppo.optimizer.lr_end": 1e-9,
    "ppo.optimizer.eps": 1e-7,
    "sft.optimizer.beta2": 0.98,
    "sft.optimizer.eps": 1e-7,
    "rollout.temperature": 0.2,
    "eval.temperature": 0.2,
}

PRESET_KEYS: dict[str, dict[str, float | str]] = {
    "fixed": {},
    "paper_text": _STUDY,
    "paper_code": _STUDY | {"ppo.ratio_level": "token", "ppo.thought_coef": 0.5},
}
