"""One PPO update: scores this rank's trajectories, computes advantages, takes optimizer steps.

Input: trajectories. Output: metrics. `ppo_steps(cfg)` and `critic_steps(cfg)` are what the
TrainingEngine's schedule needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from opentelemetry import trace

from configs.schema import PPOConfig, RunConfig
from learner import advantage, distributed
from learner.adaptive_rate import adapt_rate
from learner.batch import MicroBatch
from learner.engine import LossFn, Means, ReferencePolicy, TrainingEngine
from learner.loss import Counts, k2, k3, policy_terms, token_shares, value_terms
from learner.minibatches import update_minibatches
from learner.model import ForwardOptions, Scores
from learner.packed_update import PackedUpdate, pack
from learner.parity import correction_metrics, parity_metrics
from learner.reasoning_weights import reasoning_weights
from learner.scoring_step import ScoringStep, leave_unscored, scored_by_its_step
from learner.training_trajectory import TrainingTrajectory, prepare, score, training_columns
from learner.trajectory_metrics import group_metrics, trajectory_metrics
from rollout.trajectory import Trajectory

TRACER = trace.get_tracer("cardinal")


def steps_per_update(cfg: PPOConfig) -> int:
    """Optimizer steps of one update, when none of its trajectories failed."""
    return cfg.epochs * -(-cfg.episodes // cfg.minibatch)


def ppo_steps(cfg: PPOConfig) -> int:
    """Optimizer steps of the whole phase: `steps` of its TrainingEngine."""
    return cfg.updates * steps_per_update(cfg)


def critic_steps(cfg: PPOConfig) -> int:
    """The first of them, which train the value head alone: its `frozen_steps`."""
    return cfg.critic_warmup * steps_per_update(cfg) if cfg.estimator == "gae" else 0


@TRACER.start_as_current_span("learn")
def ppo_update(
    engine: TrainingEngine,
    trajectories: list[Trajectory],
    cfg: RunConfig,
    update: int,
    reference: ReferencePolicy | None = None,
    version: int | None = None,
    packed: PackedUpdate | None = None,
) -> dict[str, float]:
    """All epochs and minibatches over one batch of trajectories; a collective call.

    Args:
        engine: of the PPO phase; with a value head for estimator=gae.
        trajectories: this rank's own, in any order; failed ones are counted, not trained on.
        cfg: the run's configuration (ppo, rollout.temperature, seed).
        update: 0, 1, …; seeds the minibatches and ends critic_warmup.
        reference: the SFT policy; needed when ppo.kl_coef is above 0.
        version: policy version of the engine's weights now; `update` when None.
        packed: the trajectories, where they were packed ahead of the update.

    Returns:
        of all ranks: reward, success, first_try, metric_NAME, episodes, failed, tokens, segments,
        action_tokens, turns, steps, staleness_max; loss, policy_loss, value_loss, kl (proximal to
        current, k3), kl_ref, clip_fraction, grad_norm (means over the steps), lr (the last step's),
        entropy (proximal, a token), explained_variance (by V_old), group_, parity_ and correction_.

    Raises:
        ValueError: no value head or no reference where one is needed, or nothing to learn from.
    """
    _check_policies(cfg.ppo, engine, reference)
    prepared = packed.trajectories if packed else prepare(trajectories, cfg.ppo.value_level)
    counts = _counts(prepared)
    if not counts:
        raise ValueError(f"update {update} has no trajectory with an action token to learn from")
    minibatches = update_minibatches(counts, cfg.ppo, cfg.seed, update)
    packed = packed or pack(engine, cfg.ppo, prepared, minibatches)
    _score(engine, packed, cfg, reference)
    _set_token_weights(prepared, engine, cfg.ppo)
    _set_advantages(prepared, cfg.ppo)
    steps = _take_steps(engine, packed, counts, minibatches, cfg, update)
    at = update if version is None else version
    return {
        **_means(steps, _sum(counts.values())),
        "entropy": _entropy(prepared),
        "explained_variance": _explained_variance(prepared),
        **trajectory_metrics(trajectories, at),
        **group_metrics(trajectories, cfg.ppo),
        **parity_metrics(prepared, at, cfg.rollout.workers),
        **correction_metrics(prepared, cfg.ppo, cfg.rollout.workers),
    }


def _means(steps: list[dict[str, float]], total: Counts) -> dict[str, float]:
    return {
        **{name: float(np.mean([step[name] for step in steps])) for name in steps[0]},
        "lr": steps[-1]["lr"],
        "steps": float(len(steps)),
        "turns": float(total.turns),
        "action_tokens": float(total.tokens),
    }


def _check_policies(
    ppo: PPOConfig, engine: TrainingEngine, reference: ReferencePolicy | None
) -> None:
    if ppo.estimator == "gae":
        # configuration-is-typed: configs.load refuses advantages of tokens on values of turns.
        assert ppo.value_level == "token" or ppo.advantage_level == "turn"
        if engine.model.value_head is None:
            raise ValueError(
                "ppo.estimator is 'gae'; its TrainingEngine must be made with value=True"
            )
    if ppo.kl_coef > 0 and reference is None:
        raise ValueError(f"ppo.kl_coef is {ppo.kl_coef}; it needs the SFT policy as reference")


def _score(
    engine: TrainingEngine,
    packed: PackedUpdate,
    cfg: RunConfig,
    reference: ReferencePolicy | None,
) -> None:
    """Score them; with kl_in=reward, take the KL to the SFT policy from the rewards; collective.

    Each turn's reward less kl_coef * log(proximal / reference) of its tokens (Ziegler et al.
    2019, eq. 2).
    """
    if scored_by_its_step(cfg.ppo):
        leave_unscored(packed.trajectories)
        return
    norms, temperature = cfg.ppo.baseline == "optimal", cfg.rollout.temperature
    score(engine, packed.trajectories, temperature, reference, norms, packed.scored)
    if cfg.ppo.kl_in == "loss":
        return
    for t in packed.trajectories:
        log_ratio = t.proximal_logprobs.astype(np.float64) - t.reference_logprobs
        first = np.cumsum(t.turn_lengths) - t.turn_lengths
        t.rewards = t.rewards - cfg.ppo.kl_coef * np.add.reduceat(log_ratio, first)


def _set_advantages(trajectories: list[TrainingTrajectory], ppo: PPOConfig) -> None:
    """Advantages and value targets, normalised over the batch of all ranks; collective."""
    if ppo.estimator == "gae":
        pairs = [_gae(t, ppo) for t in trajectories]
        advantages, targets = [a for a, _ in pairs], [v for _, v in pairs]
    else:
        by_trajectory = _compare_returns(trajectories, ppo)
        advantages = [
            np.full(len(t.rewards), a) for t, a in zip(trajectories, by_trajectory, strict=True)
        ]
        targets = [np.zeros(len(t.values)) for t in trajectories]
    # GRPO has divided by its group's deviation; REINFORCE++ needs the batch's as its baseline.
    if ppo.estimator == "reinforce_pp" or (ppo.normalize_advantages and ppo.estimator != "grpo"):
        advantages = _normalize(trajectories, advantages, ppo)
    for t, own, own_targets in zip(trajectories, advantages, targets, strict=True):
        per_turn = len(own) == len(t.turn_lengths)
        t.advantages = np.repeat(own, t.turn_lengths) if per_turn else own
        t.value_targets = own_targets


def _gae(t: TrainingTrajectory, ppo: PPOConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Advantages of turns [K] (or tokens [A]) and targets of the trajectory's values."""
    if ppo.advantage_level == "token":
        rewards, discounts = advantage.token_rewards(t.rewards, t.turn_lengths, ppo.gamma)
        return advantage.gae(rewards, t.values, discounts, ppo.lam, t.bootstrap_value)
    if ppo.value_level == "turn":
        return advantage.gae(t.rewards, t.values, ppo.gamma, ppo.lam, t.bootstrap_value)
    first = np.cumsum(t.turn_lengths) - t.turn_lengths  # a turn's value is its first token's
    values = t.values[first]
    advantages, targets = advantage.gae(t.rewards, values, ppo.gamma, ppo.lam, t.bootstrap_value)
    return advantages, np.repeat(targets, t.turn_lengths)


def _normalize(
    trajectories: list[TrainingTrajectory], advantages: list[NDArray[np.float64]], ppo: PPOConfig
) -> list[NDArray[np.float64]]:
    """Over the batch of all ranks, around its mean or its optimal baseline; collective."""
    around = None
    if ppo.baseline == "optimal":
        norms = [
            _score_norms(t, ppo, len(a)) for t, a in zip(trajectories, advantages, strict=True)
        ]
        around = distributed.all_sum(advantage.weighted_sums(advantages, norms))
    batch = advantage.spread(advantages, distributed.all_sum)
    return [advantage.normalize(a, batch, around) for a in advantages]


def _score_norms(t: TrainingTrajectory, ppo: PPOConfig, units: int) -> NDArray[np.float64]:
    """Squared norms of the score functions of a trajectory's tokens [A] or turns [K], by `units`.

    Each token's by the square of its weight and of its share of the loss, as far as shares differ
    within a batch. The gradients of tokens count as orthogonal: their squared norms add up. Where
    the whole trajectory has one advantage, so has each of its turns; a whole answer's ratio has the
    mean of its tokens' advantages, so that each of them has as much of the answer's.
    """
    lengths = np.repeat(t.turn_lengths, t.turn_lengths).astype(np.float64)
    means = ppo.aggregation == "turn" or ppo.ratio_level == "turn_mean"
    shares = (t.weights / lengths if means else t.weights).astype(np.float64)
    norms = t.score_norms * shares**2
    if units == len(norms) and ppo.ratio_level == "token":
        return norms
    sums = np.add.reduceat(norms, np.cumsum(t.turn_lengths) - t.turn_lengths)
    return sums if units == len(sums) else np.repeat(sums, t.turn_lengths) / lengths


def _compare_returns(trajectories: list[TrainingTrajectory], ppo: PPOConfig) -> NDArray[np.float64]:
    """One advantage for each trajectory [B] of this rank, from the groups of all ranks."""
    optimal = ppo.baseline == "optimal"
    own = [
        (
            t.trajectory.group_id,
            t.trajectory.total_reward if ppo.kl_in == "loss" else float(t.rewards.sum()),
            float(_score_norms(t, ppo, len(t.turn_lengths)).sum()) if optimal else 1.0,
        )
        for t in trajectories
    ]
    shares = distributed.all_gather(own)
    everyone = [row for share in shares for row in share]
    groups, returns, weights = ([row[i] for row in everyone] for i in range(3))
    if ppo.estimator == "grpo":
        advantages = advantage.grpo(returns, groups, weights, ppo.group_deviation)
    elif ppo.estimator == "rloo":
        advantages = advantage.rloo(returns, groups, weights)
    else:
        assert ppo.estimator == "reinforce_pp", ppo.estimator
        advantages = advantage.reinforce_pp(returns)
    start = sum(len(share) for share in shares[: distributed.rank()])
    return advantages[start : start + len(own)]


def _sum(counts: Iterable[Counts]) -> Counts:
    tokens, turns, values = np.sum([(c.tokens, c.turns, c.values) for c in counts], 0).tolist()
    return Counts(tokens, turns, values)


def _counts(trajectories: list[TrainingTrajectory]) -> dict[str, Counts]:
    """Counts of all ranks' trajectories by id, in the order of their ids; collective."""
    own = [
        (t.trajectory.id, Counts(t.action_tokens, len(t.turn_lengths), t.states))
        for t in trajectories
    ]
    pairs = [pair for share in distributed.all_gather(own) for pair in share]
    repeated = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    assert not repeated, f"trajectory id {repeated[0]} is there more than once"
    return dict(sorted(pairs, key=lambda pair: pair[0]))


def _take_steps(
    engine: TrainingEngine,
    packed: PackedUpdate,
    counts: dict[str, Counts],
    minibatches: list[list[str]],
    cfg: RunConfig,
    update: int,
) -> list[dict[str, float]]:
    """The optimizer steps of the update; the metrics of each."""
    ppo = cfg.ppo
    warmup = ppo.estimator == "gae" and update < ppo.critic_warmup
    options = ForwardOptions(
        temperature=cfg.rollout.temperature,
        value_trunk_grad=ppo.value_trunk_grad,
        freeze_trunk=warmup,
        entropy=ppo.entropy_coef > 0 or scored_by_its_step(ppo),
    )
    own = {t.trajectory.id: t for t in packed.trajectories}
    columns = training_columns(packed.trajectories)
    steps: list[dict[str, float]] = []
    for ids, step in zip(minibatches, packed.steps, strict=True):
        assert step.ids == [i for i in ids if i in own], "packed for other minibatches"
        minibatch = _sum(counts[i] for i in ids)
        loss_fn = ppo_loss(ppo, minibatch, warmup, cfg.rollout.answer_tokens)
        microbatches = step.with_columns(*columns)
        if scored_by_its_step(ppo):
            scoring = ScoringStep(loss_fn, ppo)
            steps.append(engine.step(microbatches, scoring, options))
            scoring.keep(microbatches, [own[i] for i in step.ids])
        else:
            steps.append(engine.step(microbatches, loss_fn, options))
        if 0 < ppo.target_kl < steps[-1]["kl"]:
            break
    engine.skip_steps(max(0, steps_per_update(ppo) - len(steps)))
    if ppo.desired_kl and not warmup and _signal(packed.trajectories):
        epoch = -(-len(counts) // ppo.minibatch)  # steps of the last one
        kl = float(np.mean([step["kl"] for step in steps[-epoch:]]))
        adapt_rate(engine.counters, kl, ppo.desired_kl)
    return steps


def _signal(trajectories: list[TrainingTrajectory]) -> bool:
    """Whether any advantage of all ranks is not 0, of whatever scale they are; collective."""
    largest = max((float(np.abs(t.advantages).max()) for t in trajectories), default=0.0)
    return bool(distributed.all_max([largest])[0] > 0)


def _set_token_weights(
    trajectories: list[TrainingTrajectory], engine: TrainingEngine, ppo: PPOConfig
) -> None:
    """Factors on the tokens' policy terms (`ppo.thought_coef`)."""
    if ppo.thought_coef == 1.0:
        return

    def decode(token_ids: Sequence[int]) -> str:
        return str(engine.tokenizer.decode(list(token_ids)))

    for t in trajectories:
        answers = [
            segment.token_ids[turn.begin : turn.end].tolist()
            for segment in t.trajectory.segments
            for turn in segment.turns
        ]
        weights = [reasoning_weights(answer, decode, ppo.thought_coef) for answer in answers]
        t.weights = np.concatenate(weights)


def ppo_loss(ppo: PPOConfig, counts: Counts, warmup: bool, answer_tokens: int) -> LossFn:
    """The loss function, for TrainingEngine.step, of a global minibatch with these counts.

    policy + value_coef * value - entropy_coef * entropy + kl_coef * KL(current, reference), the
    last unless it is in the reward; during critic warm-up, the value's term alone. Tokens count as
    by `token_shares` in all three, whole answers by their turns; metrics are means over tokens.
    """

    def loss_fn(scores: Scores, microbatch: MicroBatch) -> tuple[torch.Tensor, Means]:
        columns, values = microbatch.token_columns, microbatch.value_columns
        terms = policy_terms(
            scores.logprobs,
            columns["proximal"],
            columns["behavior"],
            columns["advantages"],
            columns["weights"],
            microbatch.turns,
            ppo,
        )
        shares = token_shares(microbatch.turns, ppo, counts, answer_tokens)
        if ppo.ratio_level == "token":
            policy, clipped = (terms.loss * shares).sum(), terms.clipped.sum() / counts.tokens
        else:
            policy, clipped = terms.loss.sum() / counts.turns, terms.clipped.sum() / counts.turns
        value = policy.new_zeros(())
        if ppo.estimator == "gae":
            squares = value_terms(
                scores.values, values["old_values"], values["targets"], ppo.value_clip
            )
            value = squares.sum() / counts.values
        kl_ref = torch.zeros_like(scores.logprobs)
        if "reference" in columns:
            kl = {"k2": k2, "k3": k3}[ppo.kl_estimator]
            kl_ref = kl(scores.logprobs, columns["reference"])
        loss = ppo.value_coef * value
        if not warmup:
            kl_coef = ppo.kl_coef if ppo.kl_in == "loss" else 0.0
            tokens = kl_coef * kl_ref - ppo.entropy_coef * scores.entropy
            loss = loss + policy + (tokens * shares).sum()
        return loss, {
            "policy_loss": policy.detach(),
            "value_loss": value.detach(),
            "kl": k3(columns["proximal"], scores.logprobs).detach().sum() / counts.tokens,
            "kl_ref": kl_ref.detach().sum() / counts.tokens,
            "clip_fraction": clipped,
        }

    return loss_fn


def _entropy(trajectories: list[TrainingTrajectory]) -> float:
    """Mean over the action tokens of all ranks, nats; collective."""
    own = np.concatenate([np.zeros(0), *(t.entropies for t in trajectories)])
    tokens, total = distributed.all_sum([float(len(own)), float(own.sum())])
    return float(total / tokens)


def _explained_variance(trajectories: list[TrainingTrajectory]) -> float:
    all_sum = distributed.all_sum
    errors = advantage.spread([t.value_targets - t.values for t in trajectories], all_sum)
    targets = advantage.spread([t.value_targets for t in trajectories], all_sum)
    return advantage.explained_variance(errors, targets)
