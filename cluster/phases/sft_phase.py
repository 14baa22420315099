"""The SFT phase: evaluation of the start, then the warm-up on demonstrations.

Input: the initial model and a stream of demonstrations. Output: checkpoints/sft, published
and evaluated, and the cursor at the next phase.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cluster.checkpoints.cursor import Cursor
from cluster.phases.evaluation_phase import EvaluationPhase
from cluster.phases.learner_rank import LearnerRank
from cluster.phases.publisher import Publisher
from cluster.phases.weight_proof import prove
from cluster.stream.collect import Collector
from configs.schema import RunConfig
from learner.batch import Sequence
from learner.engine import ReferencePolicy, TrainingEngine
from learner.sft import sft_step


class SFTPhase:
    """SFT on one rank; demonstrations are this rank's batches from the cursor on."""

    def __init__(
        self,
        rank: LearnerRank,
        publisher: Publisher,
        collector: Collector,
        evaluation: EvaluationPhase,
        demonstrations: Iterator[list[Sequence]],
    ) -> None:
        self._rank, self._publisher, self._collector = rank, publisher, collector
        self._evaluation, self._demonstrations = evaluation, demonstrations

    def run(self) -> None:
        """From the cursor to the end of the phase; a collective call."""
        rank, cfg, first = self._rank, self._rank.cfg, self._rank.cursor.step
        self._publisher.sleep_engines()
        model, steps = rank.job.model, cfg.sft.steps
        engine = rank.open_engine(model, cfg.sft.optimizer, max(steps, 1), False)
        reference = rank.open_reference(model) if cfg.sft.loss == "ce_kl" else None
        self._publisher.publish(engine)
        if first == 0:
            if cfg.cluster.weight_proof:
                prove(rank, self._publisher, self._collector, engine)
            self._evaluation.run(engine, "start", rank.cursor)
        if steps:
            trained = Cursor("sft", step=steps) if first < steps else rank.cursor
            with rank.phase("sft"):
                if rank.cursor.unevaluated:
                    self._evaluate(engine, rank.cursor)
                self._publisher.sleep_engines()
                self._train(engine, reference, first)
                trained = self._evaluation.finish(trained)
                rank.save(engine, trained)
            self._publisher.publish(engine)
            with rank.phase("export"):
                rank.export(engine, "sft")
            self._evaluation.run(engine, "sft", trained)
            rank.keep_best(engine)
        engine.close(reference)
        rank.move(Cursor("ppo" if cfg.ppo.updates else "done"))

    def _train(self, engine: TrainingEngine, reference: ReferencePolicy | None, first: int) -> None:
        """The optimizer steps after `first`."""
        rank, cfg = self._rank, self._rank.cfg
        begin, tokens = time.monotonic(), 0
        for step in range(first + 1, cfg.sft.steps + 1):
            metrics = sft_step(engine, next(self._demonstrations), cfg.sft, reference)
            tokens += int(metrics["tokens"])
            # Nobody waits for an evaluation: the state before it is the one to go back to.
            checkpoint = rank.checkpoint_due(step) and (
                rank.stopping or not self._evaluation.playing()
            )
            if checkpoint or log_due(cfg, step):
                rate = {"tokens_per_second": tokens / (time.monotonic() - begin)}
                counts = {"step": step, "steps": cfg.sft.steps, "tokens_trained": tokens}
                rank.write("sft", **counts, **self._seen(step), **metrics | rate)
                begin, tokens = time.monotonic(), 0
            away = time.monotonic()
            under_way = self._milestone(engine, step)
            cursor = Cursor("sft", step=step)
            if saves := checkpoint and (rank.stopping or not under_way):
                cursor = self._evaluation.finish(cursor)
            begin += time.monotonic() - away
            if saves:
                rank.checkpoint(engine, cursor)

    def _seen(self, step: int) -> dict[str, float]:
        """How many demonstrations there are, how many more were too long, how often each was seen.

        Those of an earlier run that this one continues (sft.skip) count.
        """
        demonstrations, sft = self._rank.job.demonstrations, self._rank.cfg.sft
        assert demonstrations is not None, "steps without demonstrations"
        used = sft.skip + step * sft.batch_size
        return {
            "demonstrations": demonstrations.rows,
            "dropped": demonstrations.dropped,
            "epoch": used / demonstrations.rows,
        }

    def _milestone(self, engine: TrainingEngine, step: int) -> bool:
        """Export and evaluate along the way; before the checkpoint, so that none is lost.

        Returns:
            Whether an evaluation of this step is under way; its state is being saved.
        """
        sft, under_way = self._rank.cfg.sft, False
        if step in sft.keep:
            self._rank.export(engine, f"sft-{step}")
        if sft.eval_every and step % sft.eval_every == 0 and step < sft.steps:
            cursor = self._evaluation.finish(Cursor("sft", step=step))
            self._rank.checkpoint_before_evaluation(engine, cursor)
            self._publisher.publish(engine)
            under_way = self._evaluate(engine, cursor)
            self._publisher.sleep_engines()
        return under_way

    def _evaluate(self, engine: TrainingEngine, cursor: Cursor) -> bool:
        """Evaluate the published weights; whether that is under way."""
        under_way = self._evaluation.begin(engine, cursor)
        self._rank.keep_best(engine)
        return under_way


def log_due(cfg: RunConfig, step: int) -> bool:
    """Whether a record is due after a step.

    A record counts the tokens since the last one. None spans a model that is kept or evaluated
    (nor a checkpoint): so every evaluation has its own count, and a resume loses none.
    """
    sft = cfg.sft
    periods = (sft.log_every, sft.eval_every)
    return step in (sft.steps, *sft.keep) or any(p and step % p == 0 for p in periods)
