"""What Ray Train runs on every learner rank: start, SFT, PPO, with evaluations between them.

Rank 0 drives: it asks for episodes, publishes, evaluates, writes metrics and moves the
cursor; the other ranks follow in lockstep through the engine's collectives. Every entry into
a phase publishes first, so that a restarted group never plays on old weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from cluster import evaluate as evaluation
from cluster.cursor import Cursor
from cluster.failures import ParityError, RunFailure
from cluster.sft_data import Prefetched, batches
from cluster.start_kl import Drift
from cluster.wait import answer, answers
from cluster.weights.channels import open_channel
from configs.schema import RunConfig
from learner import distributed
from learner.engine import ReferencePolicy, TrainingEngine
from learner.model import WEIGHT_KINDS
from learner.parity import parity
from learner.ppo import ppo_steps, ppo_update
from learner.sft import sft_step
from report.metrics import RunLog
from rollout.episode import EpisodeRequest
from rollout.renderer import Renderer
from rollout.trajectory import Trajectory

PROOF_EPISODES = 64  # at most, and at most one flight: played after each perturbation
PARITY_MEAN_ABS = 1e-4  # in float32; bfloat16 engines and learners differ by rounding
PARITY_MEAN_ABS_BF16 = 5e-2


@dataclass(frozen=True)
class Job:
    """What a rank needs to know.

    folder: absolute run folder, seen by all nodes.
    model: folder of the initial model.
    workers, buffer: actor handles.
    channel: how weights reach the workers.
    """

    cfg: RunConfig
    folder: str
    model: str
    workers: list[Any]
    buffer: Any
    channel: str = "object_store"


def learner_loop(config: dict[str, Job]) -> None:
    """Ray Train's entry: one call a rank and restart."""
    job = config["job"]
    torch.set_num_threads(job.cfg.learner.threads)
    try:
        LearnerLoop(job, ray.train.get_context().get_world_rank()).run()
    except RunFailure as failure:
        # Ray Train would start the group again; what ends a run is told to the driver.
        Path(job.folder, "failure.json").write_text(json.dumps({"cause": str(failure)}))
        raise


class LearnerLoop:
    """The phases of a run on one rank."""

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.cfg, self.rank = job, job.cfg, rank
        self.folder = Path(job.folder)
        self.checkpoints = self.folder / "checkpoints"
        self.cursor = Cursor.load(self.checkpoints)
        self.renderer = Renderer.load(job.model)
        self.log = RunLog(self.folder, keep=self.cursor.covers) if rank == 0 else None
        self.version = self.cursor.update
        self.channel = open_channel(job.channel, job.cfg, job.workers, rank)
        self.drift = Drift(Path(self.cfg.eval.start or job.folder), self.cfg, rank)

    def run(self) -> None:
        """All phases from the cursor on, once the engines are up."""
        if self.cursor.phase == "sft" and self.cfg.sft.steps:
            share = self.cfg.sft.batch_size // self.cfg.learner.ranks
            self.demonstrations = Prefetched(
                batches(ray.train.get_dataset_shard("sft"), share, skip=self.cursor.step)
            )
        ranks = distributed.all_gather(ray.get_runtime_context().get_node_id())
        if self.rank == 0:
            self._await_engines()
            workers = ray.get([w.node.remote() for w in self.job.workers], timeout=60)
            self._write("placement", ranks=ranks, workers=workers)
        if self.cursor.phase == "sft":
            self.sft()
        if self.cursor.phase == "ppo":
            self.ppo()

    def _await_engines(self) -> None:
        deadline = self.cfg.cluster.start_deadline_s
        for index, worker in enumerate(self.job.workers):
            who = f"rollout worker {index}"
            answer(worker.start.remote(), who, "start its engine", deadline, "start_deadline_s")

    # --- SFT -----------------------------------------------------------------------------

    def sft(self) -> None:
        """Start evaluation, then the warm-up on demonstrations."""
        cfg, first = self.cfg, self.cursor.step
        self.take_gpus()
        engine = self._engine(self.job.model, cfg.sft.optimizer, max(cfg.sft.steps, 1), False)
        beside = self._reference(self.job.model) if cfg.sft.loss == "ce_kl" else None
        self.publish(engine)
        if first == 0:
            if cfg.cluster.weight_proof:
                self.prove(engine)
            self.evaluate(engine, "start")
        if cfg.sft.steps:
            with self._phase("sft"):
                self.take_gpus()
                self._sft_steps(engine, beside, first)
            self.publish(engine)
            with self._phase("export"):
                engine.export(str(self.checkpoints / "sft"))
            self.evaluate(engine, "sft")
        engine.close()
        self._move(Cursor("ppo" if cfg.ppo.updates else "done"))

    def _sft_steps(
        self, engine: TrainingEngine, reference: ReferencePolicy | None, first: int
    ) -> None:
        cfg, every = self.cfg, self.cfg.learner.checkpoint_every
        begin, tokens = time.monotonic(), 0
        for step in range(first + 1, cfg.sft.steps + 1):
            metrics = sft_step(engine, next(self.demonstrations), cfg.sft, reference)
            tokens += int(metrics["tokens"])
            if self._log_due(step):
                rate = tokens / (time.monotonic() - begin)
                self._write("sft", step=step, steps=cfg.sft.steps,
                            tokens_trained=tokens,
                            **metrics | {"tokens_per_second": rate})  # fmt: skip
                begin, tokens = time.monotonic(), 0
            away = time.monotonic()
            self._sft_milestone(engine, step)
            begin += time.monotonic() - away
            if every and step % every == 0:
                self._checkpoint(engine, Cursor("sft", step=step))

    def _log_due(self, step: int) -> bool:
        """Whether a line of metrics is due: no count of tokens goes on over a model that is kept
        or evaluated, so that a resume loses none and every evaluation has its own.
        """
        sft, every = self.cfg.sft, self.cfg.learner.checkpoint_every
        periods = (sft.log_every, sft.eval_every, every)
        return step in (sft.steps, *sft.keep) or any(p and step % p == 0 for p in periods)

    def _sft_milestone(self, engine: TrainingEngine, step: int) -> None:
        """Export and evaluate along the way; before the checkpoint, so that none is lost."""
        sft = self.cfg.sft
        if step in sft.keep:
            engine.export(str(self.checkpoints / f"sft-{step}"))
        if sft.eval_every and step % sft.eval_every == 0 and step < sft.steps:
            self.publish(engine)
            self.evaluate(engine, "sft", step=step)
            self.take_gpus()

    # --- PPO -----------------------------------------------------------------------------

    def ppo(self) -> None:
        """Updates from the SFT checkpoint (or the initial model), then the last evaluation."""
        cfg = self.cfg
        sft = self.checkpoints / "sft"
        start = str(sft) if sft.is_dir() else self.job.model
        value = cfg.ppo.estimator == "gae"
        self.take_gpus()
        engine = self._engine(start, cfg.ppo.optimizer, ppo_steps(cfg.ppo), value)
        reference = self._reference(start) if cfg.ppo.kl_coef else None
        self.publish(engine)
        with self._phase("ppo"):
            for update in range(self.cursor.update + 1, cfg.ppo.updates + 1):
                self._update(engine, update, reference)
        with self._phase("export"):
            engine.export(str(self.checkpoints / "ppo"))
        self.evaluate(engine, "ppo")
        engine.close()
        self._move(Cursor("done", update=cfg.ppo.updates))

    def _update(self, engine: TrainingEngine, update: int, reference: Any) -> None:
        cfg, begin = self.cfg, time.monotonic()
        collected = self._collect(training_requests(cfg, update))
        mine = self._take()
        rollout_s = time.monotonic() - begin

        begin = time.monotonic()
        self.take_gpus()
        metrics = ppo_update(engine, mine, cfg, update - 1, reference, version=self.version)
        self._check_parity(metrics, f"PPO update {update}")
        learn_s = time.monotonic() - begin
        self.version = update
        sync_s = self.publish(engine)
        self._write(
            "ppo", update=update, updates=cfg.ppo.updates, version=self.version,
            **(metrics | collected), rollout_seconds=rollout_s, learn_seconds=learn_s,
            sync_seconds=sync_s, **_rates(metrics, rollout_s, learn_s),
        )  # fmt: skip
        every = cfg.learner.checkpoint_every
        if every and update % every == 0 and update < cfg.ppo.updates:
            self._checkpoint(engine, Cursor("ppo", update=update))
        if cfg.eval.every and update % cfg.eval.every == 0 and update < cfg.ppo.updates:
            self.evaluate(engine, "ppo", update)

    def _collect(self, requests: list[EpisodeRequest]) -> dict[str, Any]:
        """Rank 0 has the episodes played; returns what the learner cannot see of them."""
        if self.rank != 0:
            return {}
        cfg = self.cfg
        numbers = evaluation.collect(
            cfg, self.job.buffer, requests, self.version, cfg.ppo.max_staleness
        )
        loads = ray.get([w.take_load.remote() for w in self.job.workers], timeout=60)
        return {
            "failed": sum(n.end == "failed" for n in numbers),
            "running": sum(mean for mean, _ in loads) / len(loads),
        }

    def _take(self) -> list[Trajectory]:
        """This rank's trajectories of what the buffer holds, once rank 0 has collected."""
        distributed.barrier()
        share = ray.get(self.job.buffer.assignments.remote(self.cfg.learner.ranks), timeout=60)
        return evaluation.trajectories(share[self.rank])

    # --- weights -------------------------------------------------------------------------

    def publish(self, engine: TrainingEngine) -> float:
        """Collective: all workers get the weights, and play; returns seconds."""
        if self._colocated:
            torch.cuda.empty_cache()  # what learning held, for the engines that wake
        done = self.channel.publish(self.version, engine)
        if done is None:  # on ranks other than 0
            return 0.0
        self._write("sync", **asdict(done), check=None)
        return done.seconds

    def take_gpus(self) -> None:
        """Collective; colocated engines sleep while the learner works, until the next publish."""
        if not self._colocated:
            return
        if self.rank == 0:
            seconds, begin = self.cfg.cluster.sync_deadline_s, time.monotonic()
            calls = [worker.sleep.remote() for worker in self.job.workers]
            answers(calls, "rollout worker", "go to sleep", seconds, "sync_deadline_s", begin)
        distributed.barrier()  # no rank begins while an engine holds its GPU

    @property
    def _colocated(self) -> bool:
        return self.cfg.cluster.layout == "colocated"

    def prove(self, engine: TrainingEngine) -> None:
        """Law 6: perturb each kind of weight, publish, and compare log-probabilities."""
        with self._phase("proof"):
            checks = {}
            for kind in WEIGHT_KINDS:
                if not engine.perturb(kind, self.cfg.seed):
                    continue  # a tied head, say
                self.publish(engine)
                self._collect(proof_requests(self.cfg, kind))
                checks[kind] = parity(engine, self._take(), self.cfg, self.version)
                engine.restore()
                self._check_parity(checks[kind], f"the proof of {kind} weights")
            self.publish(engine)
            self._write("sync", version=self.version, seconds=0.0, bytes=0, buckets=0,
                        check=checks)  # fmt: skip

    def _check_parity(self, metrics: dict[str, Any], what: str) -> None:
        limit = PARITY_MEAN_ABS if self.cfg.model.dtype == "float32" else PARITY_MEAN_ABS_BF16
        found = metrics.get("parity_mean_abs", 0.0)
        if self.cfg.cluster.weight_proof and found > limit:
            raise ParityError(
                f"{what}: log-probabilities of engine and learner differ by {found:.2g} on "
                f"average, more than {limit:g}: the engine plays with other weights "
                "(cluster.weight_proof=false turns this check off)"
            )

    # --- evaluation, cursor, records -----------------------------------------------------

    def evaluate(self, engine: TrainingEngine, stage: str, update: int = 0, step: int = 0) -> None:
        """Play every variant; parity is measured on the first one's trajectories.

        update, step: where in PPO or SFT this is; 0 at the ends of phases.
        """
        at = {"update": update, "step": step}
        with self._phase(f"eval {stage}"):
            drift: float | None = None
            for i, variant in enumerate(self.cfg.eval.variants):
                record: dict[str, Any] = {}
                if self.rank == 0:
                    record, samples, rows = evaluation.evaluate(
                        self.cfg, self.job.buffer, self.renderer, stage, variant
                    )
                    assert self.log is not None
                    for sample in samples:
                        self.log.episode(sample | at)
                    self.log.outcomes([at | row for row in rows])
                check = {}
                if i == 0 and self.cfg.eval.temperature == self.cfg.rollout.temperature:
                    played = self._take()
                    check = parity(engine, played, self.cfg, self.version)
                    self._check_parity(check, f"evaluation {stage}")
                    if stage == "start" and not self.cfg.eval.start:
                        self.drift.remember(played)
                    drift = self.drift.kl(engine)
                self._write("eval", **at, **record, **check, kl_start=drift)

    def _engine(self, folder: str, optimizer: Any, steps: int, value: bool) -> TrainingEngine:
        """The phase's engine, at the cursor."""
        forbidden = self.renderer.forbidden
        engine = TrainingEngine(folder, self.cfg, optimizer, steps, value, forbidden=forbidden)
        if self.cursor.state:
            engine.load(str(self.checkpoints / "state" / self.cursor.state))
        return engine

    def _reference(self, folder: str) -> ReferencePolicy:
        return ReferencePolicy(folder, self.cfg, self.renderer.forbidden)

    def _checkpoint(self, engine: TrainingEngine, cursor: Cursor) -> None:
        """Save the engine's state, then move the cursor to it: a crash between loses nothing."""
        name = f"{cursor.phase}-{cursor.step or cursor.update:06d}"
        engine.save(str(self.checkpoints / "state" / name))
        self._move(cursor.at(name))

    def _move(self, cursor: Cursor) -> None:
        distributed.barrier()
        if self.rank == 0:
            cursor.save(self.checkpoints, keep=self.cfg.learner.keep_checkpoints)
        self.cursor = cursor

    def _write(self, kind: str, **numbers: Any) -> None:
        if self.log is not None:
            self.log.write(kind, **numbers)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        self._write("phase", phase=name, event="begin")
        yield
        self._write("phase", phase=name, event="end", seconds=time.monotonic() - begin)


def training_requests(cfg: RunConfig, update: int) -> list[EpisodeRequest]:
    """The episodes of one update: new seeds for each, G plays of a seed for groups."""
    group = cfg.ppo.group_size
    first = cfg.seed * 1_000_000_000 + 10_000_000 + (update - 1) * (cfg.ppo.episodes // group)
    return [
        EpisodeRequest(
            id=f"ppo/{update:06d}/{i:06d}",
            variant="rollout",
            seed=first + i // group,
            group_id=first + i // group,
            sample_index=i % group,
            temperature=cfg.rollout.temperature,
            sampling_seed=cfg.seed,
            bootstrap=cfg.ppo.trunc_bootstrap,
        )
        for i in range(cfg.ppo.episodes)
    ]


def proof_requests(cfg: RunConfig, kind: str) -> list[EpisodeRequest]:
    """A few training episodes for the weight proof."""
    return [
        EpisodeRequest(f"proof/{kind}/{i:06d}", "rollout", i, i,
                       temperature=cfg.rollout.temperature, sampling_seed=cfg.seed)
        for i in range(min(PROOF_EPISODES, cfg.rollout.in_flight))
    ]  # fmt: skip


def _rates(metrics: dict[str, Any], rollout_s: float, learn_s: float) -> dict[str, float]:
    """Sampled tokens a second of playing, trained tokens a second of learning."""
    return {
        "rollout_tokens_per_second": metrics["action_tokens"] / rollout_s,
        "learner_tokens_per_second": metrics["tokens"] / learn_s,
    }
