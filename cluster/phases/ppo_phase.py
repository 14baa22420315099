"""The PPO phase: updates from the SFT checkpoint, or from the initial model without one.

Input: episodes that the rollout workers play, ahead of the learner by as much as
`ppo.max_staleness` allows. Output: new weights after each update, checkpoints/ppo, evaluated,
and the cursor at the end.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from opentelemetry import trace

from cluster.checkpoints.cursor import Cursor
from cluster.failures import RunStopped
from cluster.phases.evaluation_phase import EvaluationPhase
from cluster.phases.learner_rank import LearnerRank
from cluster.phases.publisher import Publisher
from cluster.phases.weight_proof import check_update, prove_joined
from cluster.run.run_folder import ppo_start
from cluster.run.tracing import pop_seconds
from cluster.stream.collect import Batch, Collector
from learner.engine import ReferencePolicy, TrainingEngine
from learner.packed_update import pack_ahead
from learner.ppo import critic_steps, ppo_steps, ppo_update
from learner.scoring_step import scoring_passes
from report.metrics import Record

TRACER = trace.get_tracer("cardinal")


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
        start = ppo_start(rank.checkpoints, rank.job.model)
        self._publisher.sleep_engines()
        engine = rank.open_engine(
            start,
            cfg.ppo.optimizer,
            ppo_steps(cfg.ppo),
            value=cfg.ppo.estimator == "gae",
            frozen_steps=critic_steps(cfg.ppo),
        )
        reference = rank.open_reference(start) if cfg.ppo.kl_coef else None
        self._publisher.publish(engine)
        first, self._cursor = rank.cursor.update + 1, rank.cursor
        with rank.phase("ppo"):
            pack = partial(pack_ahead, engine, cfg.ppo)
            self._collector.begin(first, rank.cursor.next_group(cfg.ppo), pack)
            pop_seconds()  # of what was before
            self._evaluation.pop_waited()
            if rank.cursor.unevaluated and not self._evaluate(engine):
                self._cursor = replace(self._cursor, unevaluated=False)
            for update in self._collector.updates(first):
                with TRACER.start_as_current_span("update", attributes={"update": update}):
                    self._update(engine, update, reference)
            self._publisher.finish()
            rank.save(engine, self._cursor)
        with rank.phase("export"):
            rank.export(engine, "ppo")
        self._evaluation.run(engine, "ppo", self._cursor)
        rank.keep_best(engine)
        engine.close(reference)
        rank.move(Cursor("done", update=cfg.ppo.updates))

    def _update(
        self, engine: TrainingEngine, update: int, reference: ReferencePolicy | None
    ) -> None:
        """Take a batch, learn, publish; then an evaluation and a checkpoint where they are due.

        In this order: the cursor moves past an evaluation only once its records are written.
        """
        rank, cfg, begin = self._rank, self._rank.cfg, time.monotonic()
        before = self._evaluation.pop_waited()
        batch = self._take(engine, update)
        self._publisher.sleep_engines()
        taken = time.monotonic()
        self._collector.write_batch(update, batch)
        learning = time.monotonic()
        metrics = ppo_update(
            engine, batch.trajectories, cfg, update - 1, reference, rank.version, batch.packed
        )
        check_update(cfg, metrics, update)
        learned = time.monotonic()
        rank.version = update
        self._cursor = Cursor("ppo", update=update, group=batch.next_group)
        sync = self._publish(engine)
        proof_waited = prove_joined(rank, self._collector, engine)
        loads, waited = self._collector.loads(), sync["sync_waited_seconds"]
        seconds = before + time.monotonic() - begin
        evaluation_waited = before + self._evaluation.pop_waited()
        rank.write(
            "ppo",
            update=update,
            updates=cfg.ppo.updates,
            version=rank.version,
            **(metrics | batch.record | loads | sync),
            tokens_scored=scoring_passes(cfg.ppo) * metrics["tokens"],
            learn_seconds=learned - learning,
            seconds=seconds,
            evaluation_waited_seconds=evaluation_waited,
            proof_waited_seconds=proof_waited,
            learner_idle=(taken - begin + waited + evaluation_waited + proof_waited) / seconds,
            phase_seconds=pop_seconds(),
            learner_tokens_per_second=metrics["tokens"] / (learned - learning),
            **_rollout_rate(loads),
        )
        under_way = False
        if cfg.eval.every and update % cfg.eval.every == 0 and update < cfg.ppo.updates:
            rank.checkpoint_before_evaluation(engine, self._cursor)
            under_way = self._evaluate(engine)
        # The state before an evaluation that is under way is that after it: nobody waits for it.
        if rank.checkpoint_due(update) and (rank.stopping or not under_way):
            rank.checkpoint(engine, self._evaluation.finish(self._cursor))

    def _evaluate(self, engine: TrainingEngine) -> bool:
        """Evaluate the last update's weights; whether that is under way."""
        self._publisher.finish()
        under_way = self._evaluation.begin(engine, self._cursor)
        self._rank.keep_best(engine)
        if not under_way:  # else engines go on to play for the next update
            self._collector.forget_loads()
        return under_way

    def _take(self, engine: TrainingEngine, update: int) -> Batch:
        """The batch of an update; a run that is to stop does not wait for it."""
        try:
            return self._collector.take(update)
        except RunStopped:
            self._rank.save_and_stop(engine, self._evaluation.finish(self._cursor))

    def _publish(self, engine: TrainingEngine) -> dict[str, float]:
        """Send the weights, and wait for the engines only where they do not play ahead.

        Returns:
            sync_seconds, for which learning stood still; sync_waited_seconds of it without work.
        """
        self._evaluation.finish(self._cursor)  # it is of the weights before these
        begin = time.monotonic()
        self._publisher.finish()
        sending = time.monotonic()
        self._publisher.begin(engine)
        sent = time.monotonic()
        if self._rank.cfg.ppo.max_staleness == 0:  # nothing is played until they have arrived
            self._publisher.finish()
        end = time.monotonic()
        waited = (sending - begin) + (end - sent)
        return {"sync_seconds": end - begin, "sync_waited_seconds": waited}


def _rollout_rate(load: Record) -> Record:
    """Sampled tokens by the seconds in which engines were busy, on rank 0, which knows them."""
    if not load.get("busy_seconds"):
        return {}
    return {"rollout_tokens_per_second": load["sampled_tokens"] / load["busy_seconds"]}
