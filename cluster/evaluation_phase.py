"""Every variant evaluated at one point of a run, with parity and the KL to the start.

Rank 0 has the episodes run and writes the records; all ranks score the first variant's
samples.
"""

from __future__ import annotations

from pathlib import Path

from cluster.collect import Collector
from cluster.evaluate import evaluate
from cluster.learner_rank import LearnerRank
from cluster.start_kl import StartKL
from cluster.weight_proof import check_parity
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from learner.parity import parity
from report.metrics import Record


class EvaluationPhase:
    """The evaluations of a run on one rank."""

    def __init__(self, rank: LearnerRank, collector: Collector) -> None:
        self._rank, self._collector = rank, collector
        start = Path(rank.cfg.eval.start or rank.job.folder)
        self._start_kl = StartKL(start, rank.cfg, rank.rank)

    def run(self, engine: TrainingEngine, stage: str, update: int = 0, step: int = 0) -> None:
        """Play every variant; a collective call.

        Args:
            engine: holds the weights that were published last.
            stage: start, sft or ppo.
            update: PPO update after which this is; 0 at the ends of phases.
            step: SFT step after which this is; 0 at the ends of phases.
        """
        rank, at = self._rank, {"update": update, "step": step}
        if rank.cfg.ppo.blocks is not None:
            return  # no engine plays
        with rank.phase(f"eval {stage}"):
            kl_start: float | None = None
            for i, variant in enumerate(rank.cfg.eval.variants):
                record = self._play(stage, variant, at)
                check: dict[str, float] = {}
                if i == 0 and _scored(rank.cfg):
                    trajectories = self._collector.fetch()
                    check = parity(engine, trajectories, rank.cfg, rank.version)
                    check_parity(rank.cfg, check, f"evaluation {stage}")
                    if stage == "start" and not rank.cfg.eval.start:
                        rank.job.token.check()
                        self._start_kl.keep(trajectories)
                    kl_start = self._start_kl.kl(engine)
                rank.write("eval", **at, **record, **check, kl_start=kl_start)

    def _play(self, stage: str, variant: str, at: dict[str, int]) -> Record:
        """Rank 0 evaluates a variant and writes its episodes; its record."""
        rank = self._rank
        if rank.log is None:
            return {}
        evaluation = evaluate(rank.cfg, rank.job.buffer, rank.renderer, stage, variant)
        for sample in evaluation.samples:
            rank.log.episode(sample | at)
        rank.log.outcomes([at | row for row in evaluation.outcomes])
        return evaluation.record


def _scored(cfg: RunConfig) -> bool:
    """Whether an evaluation ends with samples whose log-probabilities the learner can compare."""
    return cfg.eval.sampled_questions > 0 and cfg.eval.temperature == cfg.rollout.temperature
