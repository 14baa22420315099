"""Proof that the engines sample from the learner's weights (weights-are-proven).

Each kind of weight is perturbed and published; what the engines then sample must have the
log-probabilities that the learner computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from cluster.failures import ParityError
from cluster.phases.learner_rank import LearnerRank
from cluster.phases.publisher import Publisher
from cluster.stream.collect import Collector
from cluster.workers.parity_limit import parity_limit
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from learner.model import WEIGHT_KINDS
from learner.parity import parity
from learner.slack import slack
from rollout.episode import EpisodeRequest

PROOF_EPISODES = 64  # at most, and at most one flight: run after each perturbation
JOINED_EPISODES = 4  # of each engine that joined unproven
MIN_EFFECTIVE_SAMPLES = 0.2  # of a batch's tokens


def prove(
    rank: LearnerRank, publisher: Publisher, collector: Collector, engine: TrainingEngine
) -> None:
    """Perturb each kind of weight, publish, and compare log-probabilities; a collective call.

    Raises:
        ParityError: the engines sample from other weights; names the kind.
    """
    with rank.phase("proof"):
        checks = {}
        for kind in WEIGHT_KINDS:
            if not engine.perturb(kind, rank.cfg.seed):
                continue  # a tied head, say
            publisher.publish(engine)
            collector.collect(proof_requests(rank.cfg, kind))
            checks[kind] = parity(engine, collector.fetch(), rank.cfg, rank.version)
            engine.restore()
            check_parity(rank.cfg, checks[kind], f"the proof of {kind} weights")
        collector.release()
        publisher.publish(engine)
        rank.write("sync", version=rank.version, seconds=0.0, bytes=0, buckets=0, check=checks)


def prove_joined(rank: LearnerRank, collector: Collector, engine: TrainingEngine) -> float:
    """Compare what engines play that took the places of lost ones unproven; a collective call.

    Where engines play ahead, a batch may have no token of the learner's own version: they are
    asked for a few episodes between a publish and the next step. All else goes on meanwhile.

    Returns:
        Seconds for which they were waited for.

    Raises:
        ParityError: one samples from other weights; names its worker.
    """
    cfg = rank.cfg
    compared = cfg.ppo.max_staleness == 0 or cfg.ppo.blocks is not None  # each batch; no engine
    if compared or not cfg.cluster.weight_proof:
        return 0.0
    begin = time.monotonic()
    first = rank.version * JOINED_EPISODES  # one that cannot play some may be able to play others
    requests = proof_requests(cfg, f"joined {rank.version}", first)[:JOINED_EPISODES]
    workers = collector.play_unproven(rank.version, requests)
    waited = time.monotonic() - begin
    if not workers:
        return waited
    played, checks = collector.fetch(), {}
    for worker in workers:
        who = f"rollout worker {worker}"
        own = [trajectory for trajectory in played if trajectory.worker == worker]
        checks[who] = parity(engine, own, cfg, rank.version)
        check_parity(cfg, checks[who], f"{who}, unproven until now", few=True)
        if checks[who]["parity_tokens"]:  # else it was lost meanwhile, or could play none
            collector.proven(worker)
    collector.release()
    rank.write("sync", version=rank.version, check=checks)
    return waited


def check_update(cfg: RunConfig, metrics: Mapping[str, float], update: int) -> None:
    """Refuse an update's batch whose engines did not play with the learner's weights, or hardly.

    Recorded ones were played with those of the run that recorded: another learner parts from
    it at its first update.

    Raises:
        ParityError: as `check_parity` and `check_correction`.
    """
    if cfg.ppo.blocks is None or update == 1:
        check_parity(cfg, metrics, f"PPO update {update}")
    check_correction(cfg, metrics, f"PPO update {update}")


def check_parity(
    cfg: RunConfig, metrics: Mapping[str, float], what: str, few: bool = False
) -> None:
    """Refuse log-probabilities that differ by more than rounding, of the worst engine or of all.

    few: they are one engine's, whose mean may pass the limit by `slack`.

    Raises:
        ParityError: cluster.weight_proof is on, and they do; names the worst engine.
    """
    if not cfg.cluster.weight_proof or metrics.get("parity_tokens") == 0:
        return
    alone = metrics["parity_tokens"] if few else math.inf
    limits = {"engine": ("parity_mean_abs", parity_limit(cfg, alone))}
    if worst := _worst(metrics, "parity_worst"):
        who, tokens = worst
        limits = {who: ("parity_worst_mean_abs", parity_limit(cfg, tokens))} | limits
    for who, (name, limit) in limits.items():
        difference = metrics.get(name, 0.0)
        if not difference <= limit:  # nor NaN
            named = who != "engine"
            most = math.nan if named else metrics.get("parity_most_engine", math.nan)
            whose = "" if math.isnan(most) else f", those of rollout worker {most:.0f} most"
            raise ParityError(
                f"{what}: log-probabilities of {who} and learner differ by {difference:.2g} on "
                f"average, more than {limit:.2g}{whose}: the engine plays with other weights "
                "(cluster.weight_proof=false turns this check off)"
            )


def _worst(metrics: Mapping[str, float], name: str) -> tuple[str, float] | None:
    """The worst engine's name, and its tokens; None where no engine was looked at alone."""
    index = metrics.get(f"{name}_engine", math.nan)
    return None if math.isnan(index) else (f"rollout worker {index:.0f}", metrics[f"{name}_tokens"])


def check_correction(cfg: RunConfig, metrics: Mapping[str, float], what: str) -> None:
    """Refuse a batch whose policies have parted from the learner's: its gradient would be noise.

    Without a correction nothing is weighed, and nothing is refused.

    Raises:
        ParityError: an effective sample size is below MIN_EFFECTIVE_SAMPLES, or that of one
            engine's tokens by more than chance; names it.
    """
    if cfg.ppo.correction == "none":
        return
    share = np.min([metrics.get(f"correction_{name}", 1.0) for name in ("ess", "overlap")])
    if not share >= MIN_EFFECTIVE_SAMPLES:  # nor NaN
        bound = "ppo.max_staleness or " if cfg.ppo.blocks is None else ""
        raise ParityError(
            f"{what}: the policies that sampled the batch have parted from the learner's: the "
            f"effective sample size is {share:.1%} of its tokens, less than "
            f"{MIN_EFFECTIVE_SAMPLES:.0%}; a smaller {bound}ppo.optimizer.lr keeps "
            "them together"
        )
    if worst := _worst(metrics, "correction_worst"):
        who, tokens = worst
        own, least = metrics["correction_worst_overlap"], MIN_EFFECTIVE_SAMPLES / slack(tokens)
        if not own >= least:
            raise ParityError(
                f"{what}: the policy that {who} sampled with has parted from the learner's: the "
                f"effective sample size is {own:.1%} of its {tokens:.0f} tokens, less than "
                f"{least:.1%} ({share:.1%} of all engines' tokens): it plays with other weights, "
                "or with older ones than the others do"
            )


def proof_requests(cfg: RunConfig, kind: str, first: int = 0) -> list[EpisodeRequest]:
    """A few training episodes for the proof, from a seed on; one for each engine at least."""
    return [
        EpisodeRequest(
            id=f"proof/{kind}/{i:06d}",
            variant="rollout",
            seed=first + i,
            group_id=first + i,
            temperature=cfg.rollout.temperature,
            sampling_seed=cfg.seed,
        )
        for i in range(max(min(PROOF_EPISODES, cfg.rollout.in_flight), cfg.rollout.workers))
    ]
