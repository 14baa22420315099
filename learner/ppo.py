"""One PPO update: this rank's trajectories in, optimizer steps taken, metrics out.

`ppo_update(engine, trajectories, cfg, update, reference=None, version=None)`; `ppo_steps(cfg)`
is the number of optimizer steps for the TrainingEngine's schedule. It does not know who played.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from configs.schema import PPOConfig, RunConfig
from learner import advantage, distributed
from learner.batch import MicroBatch
from learner.engine import LossFn, Reference, TrainingEngine
from learner.loss import k3, policy_terms, value_terms
from learner.model import ForwardOptions, Scores
from learner.parity import differences
from learner.reasoning_weights import reasoning_weights
from learner.training_trajectory import Episode, episode, scored, training_sequences
from rollout.trajectory import Trajectory


def steps_per_update(cfg: PPOConfig) -> int:
    """Optimizer steps of one update, when none of its trajectories failed."""
    return cfg.epochs * -(-cfg.episodes // cfg.minibatch)


def ppo_steps(cfg: PPOConfig) -> int:
    """Optimizer steps of the whole phase: `steps` of its TrainingEngine."""
    return cfg.updates * steps_per_update(cfg)


def ppo_update(
    engine: TrainingEngine,
    trajectories: list[Trajectory],
    cfg: RunConfig,
    update: int,
    reference: Reference | None = None,
    version: int | None = None,
) -> dict[str, float]:
    """All epochs and minibatches over one batch of trajectories; a collective call.

    Args:
        engine: of the PPO phase; with a value head for estimator=gae.
        trajectories: this rank's own, in any order; failed ones are counted, not learned from.
        cfg: the run's configuration (ppo, rollout.temperature, seed).
        update: 0, 1, …; seeds the minibatches and ends critic_warmup.
        reference: the SFT policy; needed when ppo.kl_coef is above 0.
        version: policy version of the engine's weights now; `update` when None.

    Returns:
        reward, success, first_try, metric_NAME (the environment's other measures), episodes,
        failed, tokens and segments (of all ranks), action_tokens, turns, steps, staleness_max;
        loss, policy_loss, value_loss, entropy, kl (proximal to current, k3), kl_ref,
        clip_fraction, grad_norm (means over the steps), lr (of the last step),
        explained_variance (of V_old); parity_mean_abs, parity_kl (k3), parity_tokens:
        behaviour against proximal log-probabilities of the tokens that `version` sampled.
        Equal on every rank.

    Raises:
        ValueError: contradictory ppo keys, or nothing to learn from.
    """
    _refuse_contradictions(cfg.ppo, engine, reference)
    version = update if version is None else version
    built = [episode(t, cfg.ppo.value_level) for t in trajectories if t.end != "failed"]
    episodes = [e for e in built if e is not None]
    _score(engine, reference, episodes, cfg.rollout.temperature)
    _set_advantages(episodes, cfg.ppo)
    sizes = _sizes(episodes)
    if not sizes:
        raise ValueError(f"update {update} has no trajectory with an action token to learn from")
    warmup = cfg.ppo.estimator == "gae" and update < cfg.ppo.critic_warmup
    steps = _learn(engine, episodes, sizes, cfg, update, warmup)
    names = steps[0].keys()
    means = {name: float(np.mean([step[name] for step in steps])) for name in names}
    return {
        **means,
        "lr": steps[-1]["lr"],
        "steps": float(len(steps)),
        "turns": float(sum(size.turns for size in sizes.values())),
        "action_tokens": float(sum(size.tokens for size in sizes.values())),
        "explained_variance": _explained(episodes),
        **_outcomes(trajectories, version),
        **differences(episodes, version),
    }


def _refuse_contradictions(
    ppo: PPOConfig, engine: TrainingEngine, reference: Reference | None
) -> None:
    if ppo.advantage_level == "token" and ppo.value_level == "turn" and ppo.estimator == "gae":
        raise ValueError(
            "ppo.advantage_level is 'token'; GAE over tokens needs ppo.value_level 'token' too"
        )
    if ppo.estimator == "gae" and engine.model.value_head is None:
        raise ValueError("ppo.estimator is 'gae'; its TrainingEngine must be made with value=True")
    if ppo.kl_coef > 0 and reference is None:
        raise ValueError(f"ppo.kl_coef is {ppo.kl_coef}; it needs the SFT policy as reference")


def _score(
    engine: TrainingEngine, reference: Reference | None, episodes: list[Episode], temperature: float
) -> None:
    """Proximal (and reference) log-probabilities and V_old, from one pass without gradients."""
    sequences = [s for e in episodes for s in e.sequences]
    packed = engine.microbatches(sequences)
    how = ForwardOptions(temperature=temperature)
    logprobs, values = scored(len(sequences), packed, engine.score(packed, how))
    start = 0
    for e in episodes:
        end = start + len(e.sequences)
        e.proximal = np.concatenate(logprobs[start:end])
        e.values = np.concatenate(values[start:end])
        if e.trajectory.bootstrap:
            e.values, e.bootstrap = e.values[:-1], float(e.values[-1])
        start = end
    if reference is None:
        return
    logprobs, _ = scored(len(sequences), packed, reference.score(packed, how))
    start = 0
    for e in episodes:
        e.reference = np.concatenate(logprobs[start : start + len(e.sequences)])
        start += len(e.sequences)


def _set_advantages(episodes: list[Episode], ppo: PPOConfig) -> None:
    """Advantages and value targets, normalised over the batch of all ranks; collective."""
    if ppo.estimator == "gae":
        found = [_gae(e, ppo) for e in episodes]
    else:
        found = [
            (np.full(len(e.rewards), a), np.zeros(len(e.values)))
            for e, a in zip(episodes, _by_group(episodes, ppo.estimator), strict=True)
        ]
    # GRPO has divided by its group's deviation; REINFORCE++ is nothing without the batch's.
    if ppo.estimator == "reinforce_pp" or (ppo.normalize_advantages and ppo.estimator != "grpo"):
        batch = distributed.all_sum(advantage.moments([a for a, _ in found]))
        found = [(advantage.normalize(a, batch), targets) for a, targets in found]
    for e, (advantages, targets) in zip(episodes, found, strict=True):
        per_turn = len(advantages) == len(e.lengths)
        e.advantages = np.repeat(advantages, e.lengths) if per_turn else advantages
        e.targets = targets


def _gae(e: Episode, ppo: PPOConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Advantages of turns [K] (or tokens [A]) and targets of the episode's values."""
    if ppo.advantage_level == "token":
        rewards, discounts = advantage.token_steps(e.rewards, e.lengths, ppo.gamma)
        return advantage.gae(rewards, e.values, discounts, ppo.lam, e.bootstrap)
    if ppo.value_level == "turn":
        return advantage.gae(e.rewards, e.values, ppo.gamma, ppo.lam, e.bootstrap)
    first = np.cumsum(e.lengths) - e.lengths  # a turn's value is its first token's
    advantages, targets = advantage.gae(e.rewards, e.values[first], ppo.gamma, ppo.lam, e.bootstrap)
    return advantages, np.repeat(targets, e.lengths)


def _by_group(episodes: list[Episode], estimator: str) -> NDArray[np.float64]:
    """One advantage a trajectory [B] of this rank, from the groups of all ranks."""
    own = [(e.trajectory.group_id, e.trajectory.total_reward) for e in episodes]
    shares = distributed.all_gather(own)
    everyone = [pair for share in shares for pair in share]
    groups, returns = [g for g, _ in everyone], [r for _, r in everyone]
    if estimator == "grpo":
        advantages = advantage.grpo(returns, groups)
    elif estimator == "rloo":
        advantages = advantage.rloo(returns, groups)
    else:
        advantages = advantage.reinforce_pp(returns)
    start = sum(len(share) for share in shares[: distributed.rank()])
    return advantages[start : start + len(own)]


@dataclass(frozen=True)
class Size:
    """What one trajectory, or one minibatch, counts: action tokens, turns, values."""

    tokens: int
    turns: int
    values: int


def _sizes(episodes: list[Episode]) -> dict[str, Size]:
    """Sizes of all ranks' trajectories by id, in the order of their ids; collective."""
    own = [(e.trajectory.id, Size(e.tokens, len(e.lengths), len(e.values))) for e in episodes]
    pairs = sorted(
        (pair for share in distributed.all_gather(own) for pair in share), key=lambda p: p[0]
    )
    repeated = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    assert not repeated, f"trajectory id {repeated[0]} is there more than once"
    return dict(pairs)


def minibatches(ids: list[str], size: int, seed: tuple[int, ...]) -> list[list[str]]:
    """Cut a shuffled batch of ids into ceil(B / size) minibatches of about equal size."""
    shuffled = np.random.default_rng(seed).permutation(len(ids))
    return [[ids[i] for i in part] for part in np.array_split(shuffled, -(-len(ids) // size))]


def _learn(
    engine: TrainingEngine,
    episodes: list[Episode],
    sizes: dict[str, Size],
    cfg: RunConfig,
    update: int,
    warmup: bool,
) -> list[dict[str, float]]:
    """The optimizer steps of the update; each one's metrics."""
    ppo = cfg.ppo
    how = ForwardOptions(
        temperature=cfg.rollout.temperature,
        value_trunk_grad=ppo.value_trunk_grad,
        freeze_trunk=warmup,
        entropy_grad=ppo.entropy_coef > 0,
    )
    weigh = _weigher(engine, ppo)
    own = {e.trajectory.id: training_sequences(e, weigh(e)) for e in episodes}
    steps: list[dict[str, float]] = []
    for epoch in range(ppo.epochs):
        for ids in minibatches(list(sizes), ppo.minibatch, (cfg.seed, update, epoch)):
            sequences = [s for i in ids for s in own.get(i, ())]
            chosen = [sizes[i] for i in ids]
            size = Size(
                tokens=sum(s.tokens for s in chosen),
                turns=sum(s.turns for s in chosen),
                values=sum(s.values for s in chosen),
            )
            loss_fn = ppo_loss(ppo, size, warmup)
            steps.append(engine.step(engine.microbatches(sequences), loss_fn, how))
            if 0 < ppo.target_kl < steps[-1]["kl"]:
                break
        else:
            continue
        break
    engine.skip(max(0, steps_per_update(ppo) - len(steps)))
    return steps


def _weigher(engine: TrainingEngine, ppo: PPOConfig) -> Callable[[Episode], NDArray[np.float32]]:
    """From an episode to its tokens' weights float32 [A] (`thought_coef`)."""
    if ppo.thought_coef == 1.0:
        return lambda e: np.ones(e.tokens, np.float32)
    decode = engine.tokenizer.decode

    def weights(e: Episode) -> NDArray[np.float32]:
        parts = [
            reasoning_weights(s.token_ids[t.begin : t.end].tolist(), decode, ppo.thought_coef)
            for s in e.trajectory.segments
            for t in s.turns
        ]
        return np.concatenate(parts)

    return weights


def ppo_loss(ppo: PPOConfig, size: Size, warmup: bool) -> LossFn:
    """The loss of a global minibatch of the given size, as TrainingEngine.step wants it.

    policy + value_coef * value - entropy_coef * entropy + kl_coef * KL(current, reference);
    while warming up, the value's term alone. Means are over action tokens (policy at
    ratio_level=turn: over turns) and over values.
    """

    def loss_fn(scores: Scores, microbatch: MicroBatch) -> tuple[torch.Tensor, dict]:
        columns, values = microbatch.token_columns, microbatch.value_columns
        terms = policy_terms(
            scores.logprobs,
            columns["proximal"],
            columns["behavior"],
            columns["advantages"],
            columns["weights"],
            clip=ppo.clip,
            cap=ppo.correction_cap,
            turns=microbatch.turns if ppo.ratio_level == "turn" else None,
        )
        units = size.turns if ppo.ratio_level == "turn" else size.tokens
        policy = terms.loss.sum() / units
        entropy = scores.entropy.sum() / size.tokens
        value = policy.new_zeros(())
        if ppo.estimator == "gae":
            squares = value_terms(scores.values, values["old"], values["targets"], ppo.value_clip)
            value = squares.sum() / size.values
        kl_ref = policy.new_zeros(())
        if "reference" in columns:
            kl_ref = k3(scores.logprobs, columns["reference"]).sum() / size.tokens
        loss = ppo.value_coef * value
        if not warmup:
            loss = loss + policy - ppo.entropy_coef * entropy + ppo.kl_coef * kl_ref
        return loss, {
            "policy_loss": policy.detach(),
            "value_loss": value.detach(),
            "entropy": entropy.detach(),
            "kl": k3(columns["proximal"], scores.logprobs).detach().sum() / size.tokens,
            "kl_ref": kl_ref.detach(),
            "clip_fraction": terms.clipped.sum() / units,
        }

    return loss_fn


def _explained(episodes: list[Episode]) -> float:
    errors = advantage.moments([e.targets - e.values for e in episodes])
    targets = advantage.moments([e.targets for e in episodes])
    return advantage.explained_variance(*distributed.all_sum([*errors, *targets]).reshape(2, 3))


def _outcomes(trajectories: list[Trajectory], version: int) -> dict[str, float]:
    """What was played, over all ranks: means over trajectories that did not fail."""
    played = [t for t in trajectories if t.end != "failed"]
    sums = distributed.all_sum(
        [
            len(played),
            len(trajectories) - len(played),
            sum(t.tokens for t in played),
            sum(len(t.segments) for t in played),
            sum(t.total_reward for t in played),
            sum(t.metrics.get("success", 0.0) for t in played),
            sum(t.metrics.get("first_try", 0.0) for t in played),
        ]
    ).tolist()
    episodes, failed, tokens, segments, reward, success, first_try = sums
    ages = [version - t.oldest_version for t in played if t.action_tokens]
    return {
        "episodes": episodes,
        "failed": failed,
        "tokens": tokens,
        "segments": segments,
        "reward": reward / max(episodes, 1),
        "success": success / max(episodes, 1),
        "first_try": first_try / max(episodes, 1),
        "staleness_max": float(distributed.all_max(max(ages, default=0))[0]),
        **_measures(played),
    }


def _measures(played: list[Trajectory]) -> dict[str, float]:
    """metric_NAME: mean of each other measure of the environment (recognition, …), all ranks."""
    own: dict[str, tuple[float, int]] = {}
    for t in played:
        for name, value in t.metrics.items():
            total, count = own.get(name, (0.0, 0))
            own[name] = (total + value, count + 1)
    shares = distributed.all_gather(own)
    names = sorted({name for share in shares for name in share} - {"success", "first_try"})
    sums = {name: np.sum([share.get(name, (0, 0)) for share in shares], axis=0) for name in names}
    return {f"metric_{name}": float(total / count) for name, (total, count) in sums.items()}
