"""Every variant evaluated at one point of a run, with parity and the KL to the start.

Rank 0 has the episodes run and writes the records; all ranks score samples. An evaluation on the
way is played beside learning where the engines keep its weights until the next publish.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from opentelemetry import trace

from cluster.checkpoints.cursor import Cursor
from cluster.failures import RunStopped
from cluster.phases.evaluate import Evaluation, evaluate
from cluster.phases.learner_rank import LearnerRank
from cluster.phases.start_kl import StartKL
from cluster.phases.weight_proof import check_parity, proof_requests
from cluster.stream.collect import Collector
from configs.schema import RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.parity import parity
from rollout.trajectory import Trajectory

T = TypeVar("T")
TRACER = trace.get_tracer("cardinal")


@dataclass(frozen=True)
class _UnderWay:
    """An evaluation that rank 0 plays while the learner trains on.

    cursor: of the state that is evaluated.
    played: of all variants; None on other ranks.
    """

    cursor: Cursor
    check: dict[str, float]
    kl_start: float | None
    played: Future[list[Evaluation]] | None


class EvaluationPhase:
    """The evaluations of a run on one rank."""

    def __init__(self, rank: LearnerRank, collector: Collector) -> None:
        self._rank, self._collector = rank, collector
        start = Path(rank.cfg.eval.start or rank.job.folder)
        self._start_kl = StartKL(start, rank.cfg, rank.rank)
        self._thread = ThreadPoolExecutor(1, "evaluation")
        self._under_way: _UnderWay | None = None
        self._waited = 0.0

    def run(self, engine: TrainingEngine, stage: str, cursor: Cursor) -> None:
        """Play every variant at an end of a phase; a collective call.

        Args:
            engine: holds the weights that were published last.
            stage: start, sft or ppo.
            cursor: of the engine's state.

        Raises:
            RunStopped: the run was asked to end; the state is saved, unless it was.
        """
        with self._saved(engine, cursor):
            self._play_and_record(engine, stage, {"update": 0, "step": 0})

    @contextmanager
    def _saved(self, engine: TrainingEngine, cursor: Cursor) -> Iterator[None]:
        """A run that is to stop inside has its state saved; all ranks find it together."""
        try:
            yield
        except RunStopped:
            self._rank.save_and_stop(engine, cursor)

    def _play_and_record(self, engine: TrainingEngine, stage: str, at: dict[str, int]) -> None:
        rank = self._rank
        if rank.cfg.ppo.blocks is not None:
            return  # no engine plays
        with rank.phase(f"eval {stage}"):
            kl_start: float | None = None
            for i, variant in enumerate(rank.cfg.eval.variants):

                def play(name: str = variant) -> Evaluation | None:
                    return self._play(stage, name) if rank.log is not None else None

                evaluation = self._agreed(play)
                check: dict[str, float] = {}
                if i == 0 and _scored(rank.cfg):
                    trajectories = self._collector.fetch()
                    check = self._compare(engine, trajectories, stage)
                    if stage == "start" and not rank.cfg.eval.start:
                        rank.job.token.check()
                        self._start_kl.keep(trajectories)
                    kl_start = self._start_kl.kl(engine)
                self._write(at, evaluation, check, kl_start)
            self._collector.release()

    def begin(self, engine: TrainingEngine, cursor: Cursor) -> bool:
        """As `run`, on the way, and the learner trains on meanwhile where its engines can play.

        Nothing may be published before `finish`. Parity is measured on a few episodes first:
        when the samples are there, the learner has other weights.

        Returns:
            Whether it is under way.
        """
        assert self._under_way is None, "an evaluation before the end of another"
        cfg, stage = self._rank.cfg, cursor.phase
        synchronous = stage == "ppo" and cfg.ppo.max_staleness == 0
        weights_stay = cfg.cluster.layout != "colocated" and cfg.learner.keep_best is None
        with self._saved(engine, replace(cursor, unevaluated=True)):
            if synchronous or not weights_stay or cfg.ppo.blocks is not None:
                self._play_and_record(engine, stage, _at(cursor))
            else:
                self._under_way = self._start(engine, cursor)
        return self._under_way is not None

    def _start(self, engine: TrainingEngine, cursor: Cursor) -> _UnderWay:
        rank, stage = self._rank, cursor.phase
        check: dict[str, float] = {}
        kl_start: float | None = None
        if _scored(rank.cfg):
            requests = proof_requests(rank.cfg, f"{stage} {cursor.update or cursor.step}")
            with self._waiting("wait for the proof"):
                self._agreed(lambda: self._collector.collect(requests))
            check = self._compare(engine, self._collector.fetch(), stage)
            kl_start = self._start_kl.kl(engine)
        played = self._thread.submit(self._play_all, stage) if rank.log is not None else None
        return _UnderWay(cursor, check, kl_start, played)

    def playing(self) -> bool:
        """Whether `finish` would wait; a collective call."""
        if self._under_way is None:
            return False
        played = self._under_way.played
        return bool(distributed.all_max([played is not None and not played.done()])[0])

    def finish(self, cursor: Cursor) -> Cursor:
        """Wait for an evaluation that is under way, and write its records; a collective call.

        One is cut short where the run is to stop. What was learned since is worth more: the state
        is saved there, and the records say that the evaluation is not played.

        Args:
            cursor: of the engine's state.

        Returns:
            The same, its evaluation due no more if it was that one, unless it was cut short.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return cursor
        with self._waiting("wait for the evaluation"):
            played = under_way.played  # each of its waits has a deadline
            try:
                evaluations = self._agreed(lambda: played.result() if played is not None else [])
            except RunStopped:
                return self._cut_short(under_way.cursor, cursor)
            for i, evaluation in enumerate(evaluations):
                check = under_way.check if i == 0 else {}
                self._write(_at(under_way.cursor), evaluation, check, under_way.kl_start)
            distributed.barrier()
        played_here = under_way.cursor.place == cursor.place
        return replace(cursor, unevaluated=False) if played_here else cursor

    def _cut_short(self, evaluated: Cursor, cursor: Cursor) -> Cursor:
        if evaluated.place == cursor.place:
            return replace(cursor, unevaluated=True)
        cause = (
            f"that of {evaluated.place} was cut short: the run was asked to stop, and a resume "
            f"after {cursor.place} does not play it"
        )
        self._rank.write("failure", who="evaluation", cause=cause)
        return cursor

    @contextmanager
    def _waiting(self, span: str) -> Iterator[None]:
        """What is inside is a wait of the learner's, for an evaluation beside learning."""
        begin = time.monotonic()
        with TRACER.start_as_current_span(span):
            yield
        self._waited += time.monotonic() - begin

    def pop_waited(self) -> float:
        """Seconds of such waits since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _agreed(self, work: Callable[[], T]) -> T:
        """What rank 0 waits for; all ranks stop where the run is to stop before it has come.

        Raises:
            RunStopped: on every rank, so that they complete the last checkpoint together.
        """
        result: list[T] = []
        with suppress(RunStopped):
            result.append(work())
        if distributed.all_max([not result])[0]:
            raise RunStopped("the run was asked to stop")
        return result[0]

    def _compare(
        self, engine: TrainingEngine, trajectories: list[Trajectory], stage: str
    ) -> dict[str, float]:
        check = parity(engine, trajectories, self._rank.cfg, self._rank.version)
        check_parity(self._rank.cfg, check, f"evaluation {stage}")
        return check

    @TRACER.start_as_current_span("evaluate", attributes={"track": "evaluation"})
    def _play_all(self, stage: str) -> list[Evaluation]:
        played = [self._play(stage, variant) for variant in self._rank.cfg.eval.variants]
        self._collector.release()
        return played

    def _play(self, stage: str, variant: str) -> Evaluation:
        rank = self._rank
        return evaluate(rank.cfg, rank.job.buffer, rank.renderer, stage, variant)

    def _write(
        self,
        at: dict[str, int],
        evaluation: Evaluation | None,
        check: dict[str, float],
        kl_start: float | None,
    ) -> None:
        """Rank 0 writes a variant's episodes and its record."""
        rank = self._rank
        if rank.log is None or evaluation is None:
            return
        for sample in evaluation.samples:
            rank.log.episode(sample | at)
        rank.log.outcomes([at | row for row in evaluation.outcomes])
        rank.write("eval", **at, **evaluation.record, **check, kl_start=kl_start)


def _at(cursor: Cursor) -> dict[str, int]:
    """Where its records say that an evaluation on the way is; at the ends of phases all are 0."""
    return {"update": cursor.update, "step": cursor.step}


def _scored(cfg: RunConfig) -> bool:
    """Whether an evaluation ends with samples whose log-probabilities the learner can compare."""
    return cfg.eval.sampled_questions > 0 and cfg.eval.temperature == cfg.rollout.temperature
