"""Deadlines that follow from others, and from the size of the model.

Large weights take longer to read and send; who waits for several things has the time of all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.schema import ClusterConfig, RunConfig

SECONDS_A_GIB = 4.0  # a shared file system or a network of 2 Gbit/s at its worst
# Of who waits for one that waits as long itself, and whose error, which names the cause, is to come
# first: the other may be held up meanwhile, which is no time of its own (rollout/awake.py).
GRACE_S = 30.0
STOP_S = 60.0  # that a stopped job has to end by itself, after cluster.grace_s
# An actor that hangs has this to end by itself, until its node ends it by force; Ray's own is 5 s.
KILL = {"kill_worker_timeout_milliseconds": 1000}
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # Ray's own variable of a job, for `stop_wait_s`


def stop_wait_s(cluster: ClusterConfig) -> int:
    """Seconds from a job's stop to its end by force."""
    return round(cluster.grace_s + STOP_S)


def for_model(cfg: RunConfig, model: str) -> RunConfig:
    """The run with the time that its weights may take added to the deadlines that wait for them.

    Args:
        cfg: with the deadlines of a small model.
        model: folder of the weights, model*.safetensors.
    """
    size = sum(file.stat().st_size for file in Path(model).glob("model*.safetensors"))
    # Whole seconds: checkpoints of one model differ by bytes, and share their engines all the same.
    longer, cluster = round(SECONDS_A_GIB * size / 2**30), cfg.cluster
    deadlines = replace(
        cluster,
        start_deadline_s=cluster.start_deadline_s + longer,
        sync_deadline_s=cluster.sync_deadline_s + longer,
        block_deadline_s=cluster.block_deadline_s + longer,  # it holds start_deadline_s
    )
    return replace(cfg, cluster=deadlines)


def play_deadline_s(cfg: RunConfig, episodes: int) -> float:
    """Until episodes have been played: that of their blocks, one after another, and of one more.

    Where no worker serves, they wait until one does again, or until one is given up.
    """
    blocks = -(-episodes // cfg.rollout.block) + 1
    restarts = cfg.rollout.max_restarts * cfg.cluster.start_deadline_s
    return cfg.cluster.block_deadline_s * blocks + restarts


def take_deadline_s(cfg: RunConfig) -> float:
    """Until the batch of an update is complete."""
    seconds = play_deadline_s(cfg, cfg.ppo.episodes * max(1, cfg.ppo.dynamic_sampling))
    if cfg.ppo.max_staleness and cfg.eval.every:  # it may begin before an evaluation
        seconds += evaluation_deadline_s(cfg)
    return seconds


def evaluation_deadline_s(cfg: RunConfig) -> float:
    """Until an evaluation has been played: each variant greedily, then its samples."""
    evaluation = cfg.eval
    parts = [evaluation.episodes, evaluation.sampled_questions * evaluation.samples]
    seconds = sum(play_deadline_s(cfg, episodes) for episodes in parts if episodes)
    return seconds * len(evaluation.variants)


def group_deadline_s(cfg: RunConfig) -> float:
    """Until all ranks have come to a collective: longer than any of them may wait for others.

    One rank alone waits for an evaluation, for engines that start and for a publish; each waits
    for its batch, and writes its own part of a checkpoint.
    """
    cluster = cfg.cluster
    longest = max(
        take_deadline_s(cfg),
        evaluation_deadline_s(cfg),
        cluster.start_deadline_s,
        cluster.sync_deadline_s,
        cluster.checkpoint_deadline_s,
    )
    return longest + cluster.block_deadline_s
