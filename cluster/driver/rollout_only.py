"""`cardinal rollout`: engines play a run's training episodes, without a learner.

Input: a configuration. Output: FOLDER with the recorded blocks of its first updates, all played by
the initial model, and a few conversations of each; a line for each update.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.driver.buffer_watch import watched
from cluster.driver.rollout_pool import RolloutPool
from cluster.driver.train import prepare_model
from cluster.job import Job
from cluster.phases.conversation import conversation
from cluster.placement.layout import without_learner
from cluster.run.lease import Token
from cluster.run.stop_signals import StopSignals
from cluster.stream.collect import Collector
from cluster.stream.recorded_blocks import metadata_of, write_blocks
from cluster.wait import wait_for
from configs.recorded import turned_off
from configs.schema import RunConfig
from report.metrics import EPISODES, Record, append, plain
from rollout.renderer import Renderer
from rollout.trajectory import Trajectory

CONVERSATIONS = 4  # kept an update
VERSION = 0  # of the initial model


def record_rollouts(cfg: RunConfig, out: Path, updates: int) -> None:
    """Play and record the episodes of the first updates.

    Raises:
        RunFailure: an engine was lost, or too many episodes failed.
    """
    model = prepare_model(cfg, out)
    renderer, metadata = Renderer.load(model), metadata_of(cfg, model, parts=1)
    learn = _learner_keys(cfg, out, model)
    ahead = replace(cfg.ppo, updates=updates, max_staleness=updates - 1)  # one model plays all
    learner = replace(cfg.learner, ranks=1)
    cfg = replace(without_learner(cfg), ppo=ahead, learner=learner)
    with StopSignals() as signals, RolloutPool() as pool:
        with signals.ending():
            _, workers, buffer = pool.acquire(cfg, model, learn=False)
            job = Job(cfg, Token(str(out), 0, ""), model, workers, buffer)
            collector = _started(job)
            for update in range(1, updates + 1):
                begin = time.monotonic()
                with watched(buffer, cfg.cluster):
                    played, record = _taken(collector, update)
                write_blocks(out, update, 0, played, metadata)
                told = [conversation(t, renderer) for t in played[:CONVERSATIONS]]
                append(out / EPISODES, *(plain({"update": update} | one) for one in told))
                print(summary(update, played, record, time.monotonic() - begin), flush=True)
        pool.release()
    blocks = f"{out}: blocks of {updates} update{'s' * (updates > 1)}"
    print(f"{blocks}; a learner trains on them with {learn}", file=sys.stderr)


def _learner_keys(cfg: RunConfig, out: Path, model: str) -> str:
    """What is added to the configuration so that a learner trains on its blocks."""
    return " ".join([f"ppo.blocks={out}", f"model.path={model}", *turned_off(cfg)])


def _started(job: Job) -> Collector:
    """Batches of engines that have started, and play with the model that they were started with."""
    seconds, key = job.cfg.cluster.start_deadline_s, "start_deadline_s"
    wait_for(job.buffer.start.remote(), "the buffer", "start all engines", seconds, key)
    collector = Collector(job, 0, write=_nowhere)
    collector.begin(1, 0)
    seconds, key = job.cfg.cluster.block_deadline_s, "block_deadline_s"
    wait_for(job.buffer.published.remote(VERSION), "the buffer", "begin to play", seconds, key)
    return collector


def _taken(collector: Collector, update: int) -> tuple[list[Trajectory], Record]:
    """The episodes of an update, and what is known of how they were played."""
    batch = collector.take(update)
    played = [_of_version(trajectory) for trajectory in batch.trajectories]
    return played, batch.record | collector.loads()


def _nowhere(kind: str, **fields: object) -> None:
    """There is no metrics file; a lost engine that comes again changes no block."""


def _of_version(trajectory: Trajectory) -> Trajectory:
    """As sampled by the initial model: an engine without a publish names no version."""
    segments = (
        replace(s, policy_versions=np.where(s.action_mask, VERSION, -1).astype(np.int32))
        for s in trajectory.segments
    )
    return replace(trajectory, segments=tuple(segments))


def summary(update: int, played: list[Trajectory], record: Record, seconds: float) -> str:
    """One line on the episodes of an update."""
    ends = Counter(trajectory.end for trajectory in played)
    success = np.mean([trajectory.metrics.get("success", 0.0) for trajectory in played])
    reward = np.mean([trajectory.total_reward for trajectory in played])
    tokens = sum(trajectory.action_tokens for trajectory in played)
    known = [idle for idle in record["engine_idle"] if idle is not None]
    idle = f", engines idle {np.mean(known):.0%}" if known else ""
    shown = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    return (
        f"update {update}: {len(played)} episodes ({shown}, {record['failed']} failed) in "
        f"{seconds:.1f} s; success {success:.1%}, reward {reward:.2f}, {tokens:,} sampled tokens"
        f"{idle}"
    )
