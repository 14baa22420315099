"""What Ray Train runs on every learner rank: the phases of a run, from the cursor on.

Rank 0 drives: it requests episodes, publishes, evaluates, writes metrics and moves the cursor;
the other ranks follow in lockstep through collectives. Every entry into a phase publishes
first, so that a restarted group never plays on old weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import ray
import ray.train
import torch

from cluster.collect import Collector
from cluster.cursor import Cursor
from cluster.evaluation_phase import EvaluationPhase
from cluster.failures import RunFailure, RunStopped
from cluster.job import Job
from cluster.learner_rank import LearnerRank
from cluster.ppo_phase import PPOPhase
from cluster.publisher import Publisher
from cluster.recorded_batches import RecordedCollector, RecordingCollector
from cluster.run_folder import write_failure
from cluster.sft_data import Prefetched, batches, check_object_store
from cluster.sft_phase import SFTPhase
from cluster.wait import wait_for_all
from cluster.weights.open_channel import open_channel
from learner import distributed
from learner.batch import Sequence


def learner_loop(config: dict[str, Job]) -> None:
    """Ray Train's entry: called once per rank, and again at each restart."""
    job = config["job"]
    torch.set_num_threads(job.cfg.learner.threads)
    try:
        run_phases(LearnerRank(job, ray.train.get_context().get_world_rank()))
    except RunStopped as stopped:
        write_failure(job.token, str(stopped))  # the driver waits for this, and ends the run
    except RunFailure as failure:
        # Ray Train would restart the group; the file makes the driver end the run instead.
        write_failure(job.token, str(failure))
        raise


def run_phases(rank: LearnerRank) -> None:
    """SFT and PPO, as far as the cursor leaves them, once the engines have started."""
    demonstrations = _demonstrations(rank)
    job = rank.job
    collector = _collector(rank)
    channel = open_channel(job.channel, rank.cfg, job.workers, job.buffer, rank.rank)
    publisher, evaluation = Publisher(rank, channel), EvaluationPhase(rank, collector)
    _start_engines(rank)
    collector.reset()
    if rank.cursor.phase == "sft" and rank.cfg.ppo.blocks is not None:
        rank.move(Cursor("ppo"))
    if rank.cursor.phase == "sft":
        SFTPhase(rank, publisher, collector, evaluation, demonstrations).run()
    del demonstrations  # PPO needs the space in the object store
    if rank.cursor.phase == "ppo":
        PPOPhase(rank, publisher, collector, evaluation).run()


def _collector(rank: LearnerRank) -> Collector:
    """Where the rank's batches come from: engines, recorded or not, or what was recorded."""
    if rank.cfg.ppo.blocks is not None:
        return RecordedCollector(rank.job, rank.rank)
    if rank.cfg.ppo.record:
        return RecordingCollector(rank.job, rank.rank)
    return Collector(rank.job, rank.rank)


def _demonstrations(rank: LearnerRank) -> Iterator[list[Sequence]]:
    """This rank's batches for the steps that are left; read ahead while engines start."""
    rendered, cursor = rank.job.demonstrations, rank.cursor
    if cursor.phase != "sft" or rendered is None:
        return iter(())
    check_object_store(rendered)
    return Prefetched(batches(rendered, rank.cfg, rank.rank, skip=cursor.step))


def _start_engines(rank: LearnerRank) -> None:
    """Rank 0 waits for all engines, and records on which nodes ranks and workers are."""
    nodes = distributed.all_gather(ray.get_runtime_context().get_node_id())
    if rank.rank != 0:
        return
    seconds, key, workers = rank.cfg.cluster.start_deadline_s, "start_deadline_s", rank.job.workers
    who, begin = "rollout worker", time.monotonic()
    starts = [worker.start.remote() for worker in workers]
    wait_for_all(starts, who, "start its engine", seconds, key, begin)
    nodes_of = [worker.node.remote() for worker in workers]
    places = wait_for_all(nodes_of, who, "name its node", seconds, key, time.monotonic())
    rank.write("placement", ranks=nodes, workers=places)
