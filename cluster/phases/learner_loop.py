"""What Ray Train runs on every learner rank: the phases of a run, from the cursor on.

Rank 0 drives: it requests episodes, publishes, evaluates, writes metrics and moves the cursor;
the other ranks follow in lockstep through collectives. A group begins an epoch, and every entry
into a phase publishes first: a restarted one plays on no old weights and trains on no old episode.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ray
import ray.train
import torch

from cluster.checkpoints.cursor import Cursor
from cluster.deadlines import GRACE_S
from cluster.demonstrations.sft_data import Prefetched, batches, check_object_store
from cluster.failures import EpochOver, RunFailure, RunStopped, SourceLost, StateLost, WorkerLost
from cluster.job import Job
from cluster.phases.evaluation_phase import EvaluationPhase
from cluster.phases.learner_rank import LearnerRank
from cluster.phases.ppo_phase import PPOPhase
from cluster.phases.publisher import Publisher
from cluster.phases.sft_phase import SFTPhase
from cluster.phases.shared_gpus import own_gpus, share_gpus
from cluster.run.memory_failure import with_peak
from cluster.run.run_folder import take_loss, write_failure
from cluster.stream.collect import Collector
from cluster.stream.recorded_batches import RecordedCollector, RecordingCollector
from cluster.wait import is_dead, wait_for
from cluster.weights.open_channel import open_channel
from learner import distributed
from learner.batch import Sequence

AGAIN_S = 0.5  # between two calls to a buffer that restarts


def learner_loop(config: dict[str, Job]) -> None:
    """Ray Train's entry: called once per rank, and again at each restart."""
    job, rank = config["job"], ray.train.get_context().get_world_rank()
    torch.set_num_threads(job.cfg.learner.threads)
    if rank == 0:
        job = replace(job, token=job.token.of_next_group())
    try:
        run_phases(LearnerRank(job, rank))
    except RunStopped as stopped:
        write_failure(job.token, str(stopped))  # the driver waits for this, and ends the run
    except RunFailure as failure:
        if not _mended_by_a_restart(failure, job.channel):
            # Ray Train would restart the group; the file makes the driver end the run instead.
            write_failure(job.token, str(failure))
        raise
    except ImportError as error:  # what is not installed here is missing after a restart too
        write_failure(job.token, f"learner rank {rank} failed: {type(error).__name__}: {error}")
        raise
    except Exception as error:
        told = with_peak(error)
        if told is error:
            raise
        raise told from error


def _mended_by_a_restart(failure: RunFailure, channel: str) -> bool:
    """Whether the group is to start again: its next epoch is not touched by the failure.

    Its successor is at work already; a block is gone with its node, and is played again; a state
    is, and an older one is there; or the buffer is gone, the only actor that ranks ask over the
    object store, and Ray restarts it.
    """
    buffer_lost = channel == "object_store" and is_dead(failure)
    return isinstance(failure, EpochOver | SourceLost | StateLost) or buffer_lost


def run_phases(rank: LearnerRank) -> None:
    """SFT and PPO, as far as the cursor leaves them; a run that is to stop has its last state."""
    try:
        _run_phases(rank)
    except RunStopped:
        rank.settle()
        raise


def _run_phases(rank: LearnerRank) -> None:
    """Each phase once the engines have started."""
    demonstrations = _demonstrations(rank)
    _start_engines(rank)
    _begin_epoch(rank)
    job = rank.job
    collector = _collector(rank)
    channel = open_channel(job.channel, rank.cfg, job.workers, job.buffer, rank.rank)
    publisher, evaluation = Publisher(rank, channel), EvaluationPhase(rank, collector)
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
        return RecordedCollector(rank.job, rank.rank, rank.write)
    if rank.cfg.ppo.record:
        return RecordingCollector(rank.job, rank.rank, rank.write)
    return Collector(rank.job, rank.rank, rank.write)


def _begin_epoch(rank: LearnerRank) -> None:
    """All that this group requests and publishes is of a new epoch; the rest is foreign."""
    epoch = 0
    if rank.rank == 0:
        what, seconds = "begin an epoch", rank.cfg.cluster.block_deadline_s
        ref = rank.job.buffer.reset.remote()
        epoch = wait_for(ref, "the buffer", what, seconds, "block_deadline_s")
    epoch = max(distributed.all_gather(epoch))
    if epoch > 1:
        if rank.rank == 0 and (cause := take_loss(Path(rank.job.folder))):
            rank.write("failure", who="learner", cause=cause)
        cursor = rank.cursor
        place = f"{cursor.phase} {cursor.step or cursor.update}"
        rank.write("restart", who="learner", cause=f"goes on after {place}", epoch=epoch)
    rank.job = replace(rank.job, buffer=replace(rank.job.buffer, epoch=epoch))


def _demonstrations(rank: LearnerRank) -> Iterator[list[Sequence]]:
    """This rank's batches for the steps that are left; read ahead while engines start."""
    rendered, cursor = rank.job.demonstrations, rank.cursor
    if cursor.phase != "sft" or rendered is None:
        return iter(())
    check_object_store(rendered)
    return Prefetched(batches(rendered, rank.cfg, rank.rank, skip=cursor.step))


def _start_engines(rank: LearnerRank) -> None:
    """Rank 0 waits for all engines, and records on which nodes ranks and workers are.

    Colocated engines start only now, on the GPUs that Ray has given the ranks.
    """
    nodes = distributed.all_gather(ray.get_runtime_context().get_node_id())
    if rank.cfg.cluster.layout == "colocated":
        ranks = distributed.all_gather(own_gpus())
        if rank.rank == 0:
            share_gpus(rank.cfg, rank.job.workers, ranks)
    if rank.rank != 0:
        return
    rank.write("placement", ranks=nodes, workers=_engine_nodes(rank))


def _engine_nodes(rank: LearnerRank) -> list[str]:
    """The nodes of all engines, once they have started; a buffer that restarts is waited for."""
    what, key = "start all engines", "start_deadline_s"
    end = time.monotonic() + rank.cfg.cluster.start_deadline_s + GRACE_S
    while True:
        seconds, start = end - time.monotonic(), rank.job.buffer.start.remote()
        try:
            return wait_for(start, "the buffer", what, seconds, key)
        except WorkerLost as failure:
            if rank.job.channel != "object_store" or not is_dead(failure) or seconds < 0:
                raise
            time.sleep(AGAIN_S)
