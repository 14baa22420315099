"""The keys of SFT and PPO: types, defaults, meanings and allowed values; see configs.schema."""

from __future__ import annotations

from dataclasses import dataclass

from configs.leaf import leaf


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = leaf(1e-6, "peak learning rate", low=0)
    lr_end: float = leaf(0.0, "learning rate at the last step", low=0)
    schedule: str = leaf("cosine", "from lr to lr_end", choices=("cosine", "linear", "constant"))
    warmup: float = leaf(
        0.03,
        "share of the steps that warm up linearly; the policy's begin after ppo.critic_warmup",
        low=0,
        high=1,
    )
    beta1: float = leaf(0.9, "decay of the first moment", low=0, high=1)
    beta2: float = leaf(0.98, "decay of the second moment", low=0, high=1)
    eps: float = leaf(1e-7, "AdamW's epsilon", low=0)
    weight_decay: float = leaf(0.0, "decoupled weight decay", low=0)
    max_grad_norm: float = leaf(1.0, "global gradient norm is clipped to this; 0 is off", low=0)


@dataclass(frozen=True)
class SFTConfig:
    """Supervised warm-up on demonstrations."""

    steps: int = leaf(0, "optimizer steps; 0 skips the phase", low=0)
    batch_size: int = leaf(128, "demonstrations of a step, over all ranks", low=1)
    demonstrations: int = leaf(8192, "how many to write when data is null", low=1)
    data: str | None = leaf(
        None, "Parquet, JSON lines or JSON: a file, or a folder; null: written by the expert"
    )
    max_tokens: int | None = leaf(
        None,
        "longer demonstrations are dropped and counted; null: none is, and one that the model's "
        "positions do not hold is refused",
        low=2,
    )
    loss: str = leaf(
        "ce", "cross-entropy, DFT, or ce + KL to the start", choices=("ce", "dft", "ce_kl")
    )
    kl_coef: float = leaf(0.1, "weight of the KL term of loss=ce_kl", low=0)
    optimizer: OptimizerConfig = leaf(OptimizerConfig, "the phase's own optimizer")
    log_every: int = leaf(20, "steps between two lines of metrics", low=1)
    eval_every: int = leaf(0, "steps between evaluations; 0: at the end of the phase only", low=0)
    keep: list[int] = leaf([], "steps whose model is exported as checkpoints/sft-STEP")
    skip: int = leaf(
        0, "demonstrations of the order seen before the first step; a study counts them", low=0
    )


@dataclass(frozen=True)
class PPOConfig:
    """Reinforcement learning on episodes."""

    updates: int = leaf(0, "PPO updates; 0 skips the phase", low=0)
    episodes: int = leaf(256, "trajectories of an update, over all workers", low=1)
    epochs: int = leaf(4, "passes over the trajectories of an update", low=1)
    minibatch: int = leaf(64, "trajectories of an optimizer step, over all ranks", low=1)
    optimizer: OptimizerConfig = leaf(OptimizerConfig, "the phase's own optimizer")
    estimator: str = leaf(
        "gae", "advantage estimator", choices=("gae", "grpo", "rloo", "reinforce_pp")
    )
    group_size: int = leaf(1, "episodes of one seed; above 1 for grpo and rloo", low=1)
    dynamic_sampling: int = leaf(
        0,
        "drop groups whose returns are all equal, and play others in their place, up to so many "
        "times `episodes` for an update; 0: train on all",
        low=0,
    )
    gamma: float = leaf(0.9, "discount per turn", low=0, high=1)
    lam: float = leaf(0.95, "GAE's lambda", low=0, high=1)
    group_deviation: str = leaf(
        "sample",
        "what grpo divides by: the sample's deviation (over n - 1), the population's, or none",
        choices=("sample", "population", "none"),
    )
    surrogate: str = leaf(
        "clip",
        "the policy's objective: PPO's clip; cispo: the clipped ratio weighs log pi; sapo: a soft "
        "gate in place of the clip",
        choices=("clip", "cispo", "sapo"),
    )
    clip: float = leaf(0.1, "ratio clip epsilon", low=0)
    clip_high: float | None = leaf(None, "epsilon above 1; null: as clip", low=0)
    dual_clip: float = leaf(
        0.0, "bound of the ratio where the advantage is negative, above 1; 0 is off", low=0
    )
    value_coef: float = leaf(0.5, "weight of the value loss", low=0)
    value_lr: float | None = leaf(
        None,
        "peak learning rate of the value head, by the optimizer's schedule; null: optimizer.lr",
        low=0,
    )
    value_clip: float = leaf(0.0, "clip of the value's move; 0 is off", low=0)
    value_level: str = leaf(
        "turn", "one value per turn or per action token", choices=("turn", "token")
    )
    value_trunk_grad: float = leaf(
        0.1, "factor on the value loss's gradient into the trunk", low=0, high=1
    )
    critic_warmup: int = leaf(2, "first updates that train the value head alone", low=0)
    advantage_level: str = leaf("turn", "GAE over turns or over tokens", choices=("turn", "token"))
    normalize_advantages: bool = leaf(True, "over the whole batch of the update")
    baseline: str = leaf(
        "mean",
        "what advantages are compared with, in the batch or the group. mean: their mean; optimal: "
        "the mean weighted by the squared norm of the score function, which has the least variance",
        choices=("mean", "optimal"),
    )
    ratio_level: str = leaf(
        "token",
        "ratio per token, per answer, or an answer's geometric mean over its tokens",
        choices=("token", "turn", "turn_mean"),
    )
    aggregation: str = leaf(
        "token",
        "how tokens' terms are averaged. token: all alike; turn: within their answer, then over "
        "answers; constant: their sum by rollout.answer_tokens, then over answers",
        choices=("token", "turn", "constant"),
    )
    thought_coef: float = leaf(
        1.0, "weight of an answer's tokens before its final field, in the policy loss", low=0
    )
    entropy_coef: float = leaf(0.0, "weight of the entropy bonus", low=0)
    kl_coef: float = leaf(0.0, "weight of the KL to the SFT policy; 0 keeps no copy", low=0)
    kl_in: str = leaf(
        "loss", "where the KL counts: in the loss or in the reward", choices=("loss", "reward")
    )
    kl_estimator: str = leaf(
        "k3",
        "of the KL in the loss; k2 has the exact KL's gradient on the policy's own tokens alone, "
        "in an update's first step at staleness 0",
        choices=("k2", "k3"),
    )
    correction: str = leaf(
        "truncated",
        "for tokens of an older policy, by w = proximal / behaviour. truncated: min(w, cap); "
        "masked: w within [1 / cap, cap], else 0; sequence: truncated w of the whole answer; none: "
        "the ratio is to the behaviour policy",
        choices=("truncated", "masked", "sequence", "none"),
    )
    correction_cap: float = leaf(2.0, "bound of proximal / behaviour", low=1)
    trunc_bootstrap: bool = leaf(
        False,
        "add gamma V(next prompt) where an episode is truncated and that prompt fits in "
        "rollout.context_tokens",
    )
    max_staleness: int = leaf(0, "versions that a trajectory may lag; 0: none", low=0, high=1000)
    record: bool = leaf(False, "write what each update trains on to RUN/blocks, for a replay")
    blocks: str | None = leaf(
        None,
        "folder of recorded blocks to train on: no engine is started, nothing is evaluated, and "
        "the recorded updates are the last; null: engines play",
    )
    target_kl: float = leaf(
        0.0, "stop an update's epochs when KL(proximal, current) passes this; 0 is off", low=0
    )
    desired_kl: float = leaf(
        0.0,
        "KL(proximal, current) that the policy's learning rate is adapted to: divided by 1.5 after "
        "an update whose last epoch has above twice this, multiplied below half of it; 0 is off",
        low=0,
    )
