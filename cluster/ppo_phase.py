"""The PPO phase: updates from the SFT checkpoint, or from the initial model without one.

Input: episodes that the rollout workers run under the weights published last. Output: new
weights after each update, checkpoints/ppo, evaluated, and the cursor at the end.
"""

from __future__ import annotations

import time

from cluster.collect import Collector
from cluster.cursor import Cursor
from cluster.evaluation_phase import EvaluationPhase
from cluster.learner_rank import LearnerRank
from cluster.publisher import Publisher
from cluster.weight_proof import check_parity
from configs.schema import RunConfig
from configs.seeds import update_seeds
from learner.engine import ReferencePolicy, TrainingEngine
from learner.ppo import ppo_steps, ppo_update
from rollout.episode import EpisodeRequest


class PPOPhase:
    """PPO on one rank."""

    def __init__(
        self,
        rank: LearnerRank,
        publisher: Publisher,
        collector: Collector,
        evaluation: EvaluationPhase,
    ) -> None:
        self._rank, self._publisher = rank, publisher
        self._collector, self._evaluation = collector, evaluation

    def run(self) -> None:
        """From the cursor to the end of the run; a collective call."""
        rank, cfg = self._rank, self._rank.cfg
        sft = rank.checkpoints / "sft"
        start = str(sft) if sft.is_dir() else rank.job.model
        self._publisher.sleep_engines()
        engine = rank.open_engine(
            start, cfg.ppo.optimizer, ppo_steps(cfg.ppo), value=cfg.ppo.estimator == "gae"
        )
        reference = rank.open_reference(start) if cfg.ppo.kl_coef else None
        self._publisher.publish(engine)
        with rank.phase("ppo"):
            for update in range(rank.cursor.update + 1, cfg.ppo.updates + 1):
                self._update(engine, update, reference)
        with rank.phase("export"):
            rank.export(engine, "ppo")
        self._evaluation.run(engine, "ppo")
        engine.close()
        rank.move(Cursor("done", update=cfg.ppo.updates))

    def _update(
        self, engine: TrainingEngine, update: int, reference: ReferencePolicy | None
    ) -> None:
        """Collect, learn, publish; then an evaluation and a checkpoint where they are due.

        In this order: the cursor moves past an evaluation only once its records are written.
        """
        rank, cfg, begin = self._rank, self._rank.cfg, time.monotonic()
        collected = self._collector.collect(training_requests(cfg, update), rank.version)
        trajectories = self._collector.fetch()
        rollout_s = time.monotonic() - begin

        begin = time.monotonic()
        self._publisher.sleep_engines()
        metrics = ppo_update(engine, trajectories, cfg, update - 1, reference, version=rank.version)
        check_parity(cfg, metrics, f"PPO update {update}")
        learn_s = time.monotonic() - begin
        rank.version = update
        sync_s = self._publisher.publish(engine)
        rank.write(
            "ppo",
            update=update,
            updates=cfg.ppo.updates,
            version=rank.version,
            **(metrics | collected),
            rollout_seconds=rollout_s,
            learn_seconds=learn_s,
            sync_seconds=sync_s,
            rollout_tokens_per_second=metrics["action_tokens"] / rollout_s,
            learner_tokens_per_second=metrics["tokens"] / learn_s,
        )
        last, every = update == cfg.ppo.updates, cfg.learner.checkpoint_every
        if cfg.eval.every and update % cfg.eval.every == 0 and not last:
            self._evaluation.run(engine, "ppo", update)
        if every and update % every == 0 and not last:
            rank.checkpoint(engine, Cursor("ppo", update=update))


def training_requests(cfg: RunConfig, update: int) -> list[EpisodeRequest]:
    """The episodes of one update: new seeds for each, and group_size episodes per seed."""
    group = cfg.ppo.group_size
    seeds = update_seeds(cfg, update)
    return [
        EpisodeRequest(
            id=f"ppo/{update:06d}/{i:06d}",
            variant="rollout",
            seed=seeds[i // group],
            group_id=seeds[i // group],
            sample_index=i % group,
            temperature=cfg.rollout.temperature,
            sampling_seed=cfg.seed,
            bootstrap=cfg.ppo.trunc_bootstrap,
        )
        for i in range(cfg.ppo.episodes)
    ]
