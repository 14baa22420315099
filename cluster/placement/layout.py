"""What cluster.layout and cluster.channel mean on given hardware: how weights travel.

Input: a configuration, and whether there are GPUs. Output: the weight channel, or one sentence
that names what needs GPUs.
"""

from __future__ import annotations

from dataclasses import replace

from configs.load import ConfigError
from configs.schema import RunConfig


def weight_channel(cfg: RunConfig, gpu: bool) -> str:
    """The channel of a run: object_store, nccl or ipc.

    Args:
        cfg: the run's configuration.
        gpu: whether rollout workers and learner ranks have GPUs.

    Raises:
        ConfigError: layout or channel ask for GPUs, and there are none.
    """
    cluster = cfg.cluster
    for key, value in (("layout", "colocated"), ("channel", "nccl"), ("channel", "ipc")):
        if not gpu and getattr(cluster, key) == value:
            raise ConfigError(f"cluster.{key}={value} needs GPUs, and there are none here")
    if cluster.channel != "auto":
        return cluster.channel
    if not gpu or cluster.lora_sync == "adapters":
        return "object_store"
    return "ipc" if cluster.layout == "colocated" else "nccl"


def loss_ends_run(cfg: RunConfig, gpu: bool) -> str:
    """Why a lost rollout worker ends the run; nothing where a new one takes its place.

    gpu: as of `weight_channel`.
    """
    channel, then = weight_channel(cfg, gpu), "ends the run, and `cardinal resume` goes on"
    if channel == "nccl":
        return (
            "weights travel over nccl, whose members are fixed: a lost rollout worker or buffer "
            f"{then} (cluster.channel=object_store replaces it, and is slower)"
        )
    if channel == "ipc" or (gpu and cfg.cluster.layout == "colocated"):
        return f"engines share the GPUs of learner ranks: a lost rollout worker {then}"
    return ""


def without_engines(cfg: RunConfig) -> RunConfig:
    """What a run starts: no rollout workers where it trains on recorded blocks (`ppo.blocks`)."""
    if cfg.ppo.blocks is None:
        return cfg
    cluster = replace(cfg.cluster, layout="disaggregated")
    rollout = replace(cfg.rollout, workers=0, tensor_parallel=1)
    return replace(cfg, rollout=rollout, cluster=cluster)


def without_learner(cfg: RunConfig) -> RunConfig:
    """The configuration for evaluation alone: no learner shares GPUs or publishes weights."""
    cluster = replace(cfg.cluster, layout="disaggregated", channel="object_store")
    return replace(cfg, cluster=cluster, rollout=replace(cfg.rollout, read_weights=True))
