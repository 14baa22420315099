"""From 1 to 512 GPUs, 1.5B to 72B: the best division of the GPUs, simulated on the real ledger.

A row has throughput, idle shares, seconds and bytes of a sync, memory by the account, and what is
in the way: the part of an update that alone takes longest, or the memory that is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

from benchmarks.scaling.gpu import CHANNELS, GpuRun, Model
from benchmarks.scaling.hardware import Hardware
from benchmarks.scaling.parts import HostCosts
from benchmarks.scaling.workload import Workload
from benchmarks.simulation.virtual import VirtualCluster
from cluster.placement import engine_memory
from cluster.placement.memory import card_bytes, received
from cluster.placement.rank import GIB
from cluster.placement.types import RESERVE
from cluster.stream.ledger import Ledger
from configs.schema import (
    ClusterConfig,
    LearnerConfig,
    ModelConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
)
from report.metrics import Record

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MODELS = ("1.5B", "7B", "32B", "72B")
UPDATES = 3  # simulated, after the warm-up
PARALLEL = (1, 2, 4, 8)
MOST_SEQUENCES = 256  # of an engine: vLLM's default max_num_seqs
OBJECT_STORE = 0.3  # of a host's memory: Ray's default
STALENESS = 2


def configuration(
    ranks: int, workers: int, parallel: int, *, colocated: bool, offload: bool, episodes: int
) -> RunConfig:
    """GRPO on one pass over an update's episodes, in four steps."""
    ppo = PPOConfig(
        updates=10**6,
        episodes=episodes,
        minibatch=episodes // 4,
        epochs=1,
        estimator="grpo",
        group_size=8,
        max_staleness=0 if colocated else STALENESS,
    )
    return RunConfig(
        model=ModelConfig(dtype="bfloat16", gradient_checkpointing=True),
        ppo=ppo,
        rollout=RolloutConfig(
            workers=workers,
            tensor_parallel=parallel,
            in_flight=MOST_SEQUENCES,
            answer_tokens=2048,
            context_tokens=8192,
            gpu_memory=0.5 if colocated else 0.85,
        ),
        learner=LearnerConfig(
            ranks=ranks, zero_stage=3, offload=offload, packing="flat", microbatch_tokens=8192
        ),
        cluster=ClusterConfig(layout="colocated" if colocated else "disaggregated"),
    )


def divisions(gpus: int) -> Iterator[tuple[int, int, int, bool]]:
    """Ranks, engines, GPUs of an engine, and whether they share them: all that are tried."""
    ranks = {2**k for k in range(10)} | {3 * 2**k for k in range(8)}
    for parallel in PARALLEL:
        if gpus % parallel == 0:
            yield gpus, gpus // parallel, parallel, True
        for own in sorted(ranks):
            engines = (gpus - own) // parallel
            if engines > 0 and own + engines * parallel == gpus:
                yield own, engines, parallel, False


def short_of(run: GpuRun) -> str:
    """Which memory is short, and by how much; empty where all fits."""
    gib = run.hardware.gpu("memory")
    moments = card_bytes(run.cfg, run.model.size)
    moment, most = max(moments.items(), key=lambda item: item[1])
    if most > RESERVE * gib * GIB:
        return f"a rank's GPU: {most / GIB:.0f} GiB at the moment '{moment}'"
    rollout = run.cfg.rollout
    own = sum(engine_memory.on_gpu(run.rank).values())
    if own > rollout.gpu_memory * gib * GIB:
        return f"an engine's GPU: {own / GIB:.0f} GiB of weights, activations and cache"
    arriving, left = received(run.cfg, run.model.size), (1 - rollout.gpu_memory) * gib
    if arriving > left * GIB:
        return f"an engine's GPU: {arriving / GIB:.1f} GiB of arriving weights, {left:.1f} left"
    host = run.host_bytes() / GIB
    if host > (1 - OBJECT_STORE) * run.hardware.node("host_memory"):
        return f"a host: {host:.0f} GiB offloaded"
    return ""


def alone_s(run: GpuRun) -> dict[str, float]:
    """Seconds that each part of an update takes alone.

    learner: steps and scoring. gathers: the same, if computing took no time.
    engines: all sequences, evenly spread. longest episode: by the updates that it may last. It is
        admitted once engines have weights that are not too old, and taken `max_staleness` later.
    sync: the learner stands still. buffer: its process.
    """
    cfg, costs = run.cfg, run.costs()
    ppo, engines, answers = cfg.ppo, cfg.rollout.workers, run.workload.answers()
    tokens = run.workload.tokens()
    ahead = max(1, ppo.max_staleness)
    sequences = min(cfg.rollout.in_flight, max(1, ahead * ppo.episodes // engines))
    step_s = costs.engine.decode_s(sequences, sequences * tokens)
    decode_s = ppo.episodes * fmean(answers) / engines / sequences * step_s
    read = tokens - fmean(answers)
    prefill_s = ppo.episodes / engines * read * costs.engine.prompt_token_s
    learner = costs.learner.update_s(cfg, round(tokens * ppo.episodes))
    gathers = run.network(1.0)["gathers"] / run.hardware.collective_bandwidth(cfg.learner.ranks)
    block = min(cfg.rollout.block, max(1, ppo.episodes // engines))
    return {
        "learner": learner,
        "gathers": gathers,
        "engines": decode_s + prefill_s,
        "longest episode": max(answers) * step_s / ahead,
        "sync": costs.sync.sent_s,
        "buffer": ppo.episodes * (costs.buffer.trajectory_s + costs.buffer.block_s / block),
    }


def least_s(run: GpuRun) -> float:
    """An update takes at least so long: at staleness 0 rollouts and learner go by turns."""
    parts = alone_s(run)
    if run.cfg.ppo.max_staleness:
        return max(parts.values())
    play = max(parts["engines"], parts["longest episode"], parts["buffer"])
    return play + max(parts["learner"], parts["gathers"]) + parts["sync"]


def in_the_way(parts: dict[str, float]) -> str:
    """The part that alone takes longest; gathers where they are longer than what they go beside."""
    if parts["gathers"] > 0.9 * parts["learner"]:
        parts = {name: seconds for name, seconds in parts.items() if name != "learner"}
    return max(parts, key=lambda name: parts[name])


def best(
    hardware: Hardware, model: Model, gpus: int, host: HostCosts, episodes: int
) -> tuple[GpuRun | None, str]:
    """The division with the shortest update by `least_s`; where none fits, what is short."""
    chosen, least, why = None, float("inf"), ""
    for ranks, engines, parallel, colocated in divisions(gpus):
        for offload in (False, True):
            cfg = configuration(
                ranks, engines, parallel, colocated=colocated, offload=offload, episodes=episodes
            )
            run = GpuRun(hardware, model, cfg, host, Workload())
            short = short_of(run)
            why = short or why
            if short:
                continue
            run = with_cache(run)
            if least_s(run) < least:
                chosen, least = run, least_s(run)
            break  # offloading makes nothing faster
    return chosen, why


def with_cache(run: GpuRun) -> GpuRun:
    """The run with as many sequences in an engine as its cache holds, of twice the mean length."""
    room = max(1, int(run.cache_tokens() / (2 * run.workload.tokens())))
    rollout = replace(run.cfg.rollout, in_flight=min(MOST_SEQUENCES, room))
    return replace(run, cfg=replace(run.cfg, rollout=rollout))


def row(
    hardware: Hardware,
    model: Model,
    gpus: int,
    host: HostCosts,
    episodes: int,
    updates: int = UPDATES,
) -> Record:
    """What so many GPUs do with a model."""
    run, why = best(hardware, model, gpus, host, episodes)
    head: Record = {"name": "scaling", "model": model.name, "gpu": hardware.name, "gpus": gpus}
    if run is None:
        return head | {"fits": False, "in_the_way": f"memory of {why}"}
    found = VirtualCluster(run.cfg, run.costs(), Ledger()).run(updates)
    parts = alone_s(run)
    rollout, learner = run.cfg.rollout, run.cfg.learner
    return head | {
        "fits": True,
        "layout": run.cfg.cluster.layout,
        "ranks": learner.ranks,
        "engines": rollout.workers,
        "tensor_parallel": rollout.tensor_parallel,
        "offload": learner.offload,
        "in_flight": rollout.in_flight,
        "staleness": run.cfg.ppo.max_staleness,
        "episodes": episodes,
        "update_s": found.update_s,
        "episodes_per_s": found.episodes_per_s,
        "tokens_per_s": found.tokens_per_s,
        "learner_idle": found.learner_idle,
        "engine_idle": found.engine_idle,
        "rollout_idle": found.rollout_idle,
        "buffer_busy": found.buffer_busy,
        "sync_s": _sync(run),
        "network_bytes_per_s": dict(run.network(found.update_s)),
        "memory_gib": memory(run),
        "alone_s": parts,
        "in_the_way": in_the_way(parts),
    }


def _sync(run: GpuRun) -> dict[str, float]:
    """Until the last engine has the weights, by channel."""
    shared = run.cfg.cluster.layout == "colocated"
    per_node = max(1, int(run.hardware.node("gpus")) // run.cfg.rollout.tensor_parallel)
    serial = min(run.cfg.rollout.workers, per_node)
    seconds = {}
    for channel in CHANNELS[:1] if shared else CHANNELS[1:]:
        sync = run.sync(channel)
        seconds[channel] = sync.sent_s + sync.travel_s + serial * sync.load_s
    return seconds


def memory(run: GpuRun) -> dict[str, float]:
    """GiB of a GPU by the account: of a rank at its peak, of an engine's weights; of a node's host.

    object store: two versions of the weights, where that channel is taken, and the trajectories.
    """
    moments, rollout = card_bytes(run.cfg, run.model.size), run.cfg.rollout
    ahead = (run.cfg.ppo.max_staleness + 1) * run.cfg.ppo.episodes
    return {
        "rank": max(moments.values()) / GIB,
        "engine weights": run.weights / rollout.tensor_parallel / GIB,
        "offloaded": run.host_bytes() / GIB,
        "object store": (2 * run.weights + 13 * ahead * run.workload.tokens()) / GIB,
    }
