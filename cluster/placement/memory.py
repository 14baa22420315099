"""The memory account of a run: what its learner ranks, engines, hosts and pods need, in bytes.

Input: a configuration and the sizes of its model. `cardinal check`, the placement, the KubeRay
manifest and benchmarks/model_sizes.py all use this one; parts are in the files beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.placement import engine_memory, host_memory, learner_memory, transfer_memory
from cluster.placement.layout import weight_channel
from cluster.placement.rank import BYTES, GIB, MIB, Rank
from cluster.placement.types import Needs, Node
from configs.load import ConfigError
from configs.model_claims import too_few_positions
from configs.model_folder import ModelSize, Shape, size_of
from configs.schema import RunConfig
from rollout.environments import most_processes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROCESS_BYTES = 700 * MIB  # of a Python process with torch (and vLLM) imported, measured
ENVIRONMENT_BYTES = 32 * MIB  # of a process of environments; Cardinal's own of text take 18 MiB
GPU_PROCESS_BYTES = 6 * GIB  # of a process with CUDA's libraries
CONTROL_GROUP = Path("/sys/fs/cgroup")
TINY_VOCABULARY = 512  # at most, of a model that a run makes


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes of one process of each role, without what every Python process takes.

    engine_weights, kv_cache: of a rollout worker, over all GPUs of its engine.
    rank: of a learner rank at its peak, with its share of the reference policy.
    offloaded: of those, what learner.offload keeps in the host's memory.
    copied: of a learner rank on its host, while a checkpoint is written; without ZeRO rank 0's.
    weights: one copy of the policy.
    environments: of a rollout worker's processes of environments, on its host.
    """

    engine_weights: int
    kv_cache: int
    rank: int
    offloaded: int
    copied: int
    weights: int
    environments: int


def engine_weights(cfg: RunConfig, model: ModelSize) -> int:
    """One engine's copy of the policy: n·s, over its tensor-parallel GPUs."""
    return sum(model.parameters.values()) * BYTES[cfg.model.dtype]


def kv_cache(cfg: RunConfig) -> int:
    """One engine's cache on a CPU; on a GPU it is what rollout.gpu_memory leaves beside weights."""
    return int(cfg.rollout.kv_cache_gib * GIB)


def object_store(cfg: RunConfig) -> int:
    """A local Ray's, which lies in /dev/shm."""
    return int(cfg.cluster.object_store_gib * GIB)


def weight_bucket(cfg: RunConfig, model: ModelSize) -> int:
    """Of weights that an engine loads from /dev/shm; engines of a node load one after another."""
    return min(cfg.cluster.sync_bucket_mib * MIB, engine_weights(cfg, model))


def environments(cfg: RunConfig, each: int = ENVIRONMENT_BYTES) -> int:
    """A rollout worker's processes of environments; `each` is measured where they are others'."""
    return each * most_processes({cfg.env.id}, cfg.rollout.env_processes, cfg.rollout.in_flight)


def memory_bytes(
    cfg: RunConfig, model: ModelSize, environment: int = ENVIRONMENT_BYTES
) -> dict[str, int]:
    """Bytes by part over all processes, the learner's at the moment when a rank needs most.

    `environment` is what a process of environments takes.
    """
    ranks, workers = cfg.learner.ranks, cfg.rollout.workers
    run = Rank(cfg, model)
    writers = ranks if run.stage else 1
    return {
        **{part: size * ranks for part, size in learner_memory.peak(run).items()},
        "checkpoint copy": learner_memory.state_copy(run) * writers,
        "engine weights": engine_weights(cfg, model) * workers,
        "engine KV cache": kv_cache(cfg) * workers,
        **_processes(cfg, environment),
    }


def machine_bytes(
    cfg: RunConfig, model: ModelSize, gpu: bool, environment: int = ENVIRONMENT_BYTES
) -> dict[str, int]:
    """As `memory_bytes`, of what is in a machine's own memory, whether or not it has GPUs."""
    if not gpu:
        return memory_bytes(cfg, model, environment)
    ranks, run = cfg.learner.ranks, Rank(cfg, model)
    offloaded = host_memory.offloaded(run)
    return {
        "offloaded": offloaded * ranks,
        "weights and states on their way": (host_memory.on_host(run) - offloaded) * ranks,
        **_processes(cfg, environment),
    }


def _processes(cfg: RunConfig, environment: int) -> dict[str, int]:
    """What a run's processes take of their host, wherever they compute."""
    ranks, workers = cfg.learner.ranks, cfg.rollout.workers
    return {
        "object store": object_store(cfg),
        "environment processes": environments(cfg, environment) * workers,
        "processes": PROCESS_BYTES * (2 * workers + ranks + 3),
    }


def shared_memory(cfg: RunConfig, model: ModelSize, store: bool) -> dict[str, int]:
    """Bytes by part in /dev/shm; `store`: whether a local Ray's object store is there."""
    parts = {"weight bucket": weight_bucket(cfg, model)}
    return parts | {"object store": object_store(cfg)} if store else parts


def disk_bytes(cfg: RunConfig, model: ModelSize) -> dict[str, int]:
    """Bytes by part that a run writes into its folder, as far as they depend on the model.

    A state holds weights and optimizer; a new one is complete before the oldest is removed. A
    checkpoint is a model: one a phase, and those of sft.keep.
    """
    learner, due = cfg.learner, 0
    if learner.checkpoint_minutes:
        due = cfg.sft.steps + cfg.ppo.updates
    elif learner.checkpoint_every:
        every = learner.checkpoint_every
        due = cfg.sft.steps // every + cfg.ppo.updates // every
    states = 0 if learner.checkpoint_root else min(learner.keep_checkpoints + 1, due)
    models = 2 * (learner.keep_best is not None)  # the new one is complete before the old one goes
    models += bool(cfg.sft.steps) + bool(cfg.ppo.updates) + len(cfg.sft.keep)
    models += cfg.model.path is None
    state = memory_bytes(cfg, model)["checkpoint copy"]
    return {
        f"{states} resumable states": states * state,
        f"{models} models": models * engine_weights(cfg, model),
    }


def process_memory(
    cfg: RunConfig, model: ModelSize, environment: int = ENVIRONMENT_BYTES
) -> ProcessMemory:
    """The share of one process in `memory_bytes`."""
    run = Rank(cfg, model)
    return ProcessMemory(
        engine_weights=engine_weights(cfg, model),
        kv_cache=kv_cache(cfg),
        rank=sum(learner_memory.peak(run).values()),
        offloaded=host_memory.offloaded(run),
        copied=learner_memory.state_copy(run),
        weights=engine_weights(cfg, model),
        environments=environments(cfg, environment),
    )


def card_parts(cfg: RunConfig, model: ModelSize) -> dict[str, dict[str, int]]:
    """By moment, the parts on the GPU of a learner rank; where an engine shares it, with its own.

    A colocated engine sleeps while the rank learns, and wakes with its weights for a publish. Then
    it takes rollout.gpu_memory of the GPU, in which it must find room, beside which the rank scores
    what it samples, for the proof and in evaluations; ipc's buffer is still there by then.
    """
    run, channel = Rank(cfg, model), weight_channel(cfg, gpu=True)
    moments = learner_memory.on_gpu(run)
    if channel != "object_store":
        moments["sync"]["weight sync"] = transfer_memory.sender(run, channel)
    if cfg.cluster.layout != "colocated":
        return moments
    beside = {"sleeping engine": engine_memory.CUDA_BYTES}
    shared = {moment: parts | beside for moment, parts in moments.items()}
    engine, rank = engine_memory.on_gpu(run), moments["score"]
    shared["sync"]["engine weights"] = engine["weights"]
    if channel == "ipc":
        shared["sync"]["engine's copies"] = transfer_memory.receiver(run, channel)
        rank["weight sync"] = transfer_memory.buffer(run)
    share = min(0.99, cfg.rollout.gpu_memory)
    taken = max(sum(engine.values()), int(sum(rank.values()) * share / (1 - share)))
    return shared | {"play": rank | {"rollout.gpu_memory": taken}}


def card_bytes(cfg: RunConfig, model: ModelSize) -> dict[str, int]:
    """The sums of `card_parts`."""
    return {moment: sum(parts.values()) for moment, parts in card_parts(cfg, model).items()}


def received(cfg: RunConfig, model: ModelSize) -> int:
    """On each GPU of an engine that has them for itself, what arrives over nccl."""
    apart = weight_channel(cfg, gpu=True) == "nccl"
    return transfer_memory.receiver(Rank(cfg, model), "nccl") if apart else 0


def stored_weights(cfg: RunConfig, model: ModelSize, gpus: bool) -> int:
    """One version of the policy, where it passes through object stores."""
    return engine_weights(cfg, model) if weight_channel(cfg, gpus) == "object_store" else 0


def process_needs(
    cfg: RunConfig, model: ModelSize, nodes: Sequence[Node], environment: int = ENVIRONMENT_BYTES
) -> Needs:
    """What a plan must find for each process: on its host, and on its GPUs if there are any.

    On a GPU the host keeps the processes themselves, what learner.offload moves there, and weights
    on their way to and from files.
    """
    each = process_memory(cfg, model, environment)
    host = 2 * PROCESS_BYTES + each.environments
    if not any(node.total.get("GPU", 0) for node in nodes):
        worker = each.engine_weights + each.kv_cache + host
        rank = each.rank + each.copied + PROCESS_BYTES
        return Needs(worker=worker, rank=rank, weights=each.weights)
    return Needs(
        worker=host,
        rank=PROCESS_BYTES + host_memory.on_host(Rank(cfg, model)),
        engine_gpu=engine_memory.on_gpu(Rank(cfg, model)),
        worker_beside=received(cfg, model),
        rank_gpu=max(card_bytes(cfg, model).values()),
        weights=stored_weights(cfg, model, gpus=True),
    )


def pod_needs(cfg: RunConfig, model: ModelSize, gpus: bool) -> tuple[Needs, int]:
    """What a pod must hold for each process, and its object store; roomier than `process_needs`.

    A pod that outgrows its limit is killed: a Python process counts twice, and so do the weights
    that pass through the object store; an engine has a process for each of its GPUs.
    """
    each, stored = process_memory(cfg, model), stored_weights(cfg, model, gpus)
    store = object_store(cfg) + 2 * stored
    if gpus:
        rank = GPU_PROCESS_BYTES + host_memory.on_host(Rank(cfg, model))
        processes = GPU_PROCESS_BYTES * cfg.rollout.tensor_parallel
        worker = processes + stored + each.environments
        return Needs(worker=worker, rank=rank), store
    worker = each.engine_weights + each.kv_cache + each.environments + 2 * PROCESS_BYTES
    rank = each.rank + each.copied + 2 * PROCESS_BYTES
    return Needs(worker=worker, rank=rank), store


def policy_size(cfg: RunConfig, model: ModelSize, tokens: int) -> ModelSize:
    """Sizes of the run's policy, the value head included.

    Args:
        cfg: the run.
        model: of the folder at model.path, or of the tiny model.
        tokens: token ids that its tokenizer needs (`Renderer.vocabulary`).

    Raises:
        ConfigError: the model is too small for the context or for its tokenizer.
    """
    if model.positions and cfg.rollout.context_tokens > model.positions:
        raise ConfigError(
            too_few_positions(cfg.rollout.context_tokens, cfg.model.path, model.positions)
        )
    if tokens > model.vocabulary:
        raise ConfigError(
            f"model.path={cfg.model.path}: its tokenizer has {tokens} tokens, more than the "
            f"{model.vocabulary} that the model knows"
        )
    if cfg.ppo.updates and cfg.ppo.estimator == "gae":
        head = {"value head": model.hidden * model.hidden + 2 * model.hidden + 1}
        model = replace(model, parameters=model.parameters | head)
    return model


def tiny_size(cfg: RunConfig, vocabulary: int = TINY_VOCABULARY) -> ModelSize:
    """Sizes of the Llama that a run without model.path makes for text; by hand, without torch.

    vocabulary: tokens of its tokenizer, where that is known.
    """
    init, hidden = cfg.model.init, cfg.model.init.hidden
    layer: dict[str, Shape] = {
        **{f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"},
        **{f"mlp.{name}_proj.weight": (init.mlp, hidden) for name in ("gate", "up")},
        "mlp.down_proj.weight": (hidden, init.mlp),
        **{f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")},
    }
    tensors: dict[str, Shape] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{f"model.layers.{n}.{name}": layer[name] for n in range(init.layers) for name in layer},
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    return size_of(
        tensors.items(), init.layers, hidden, vocabulary, positions=cfg.rollout.context_tokens
    )


def tiny_vision_size(cfg: RunConfig, tokenizer: PreTrainedTokenizerBase) -> ModelSize:
    """Sizes of the Idefics3 that a run without model.path makes; made without its weights.

    Raises:
        ConfigError: sizes that contradict each other.
    """
    import torch

    from learner.init_model import tiny_model

    try:
        with torch.device("meta"):
            model = tiny_model(cfg, tokenizer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    tensors = ((name, tuple(weight.shape)) for name, weight in model.named_parameters())
    init, positions = cfg.model.init, cfg.rollout.context_tokens
    return size_of(tensors, init.layers, init.hidden, len(tokenizer), positions)


def total_bytes(group: Path = CONTROL_GROUP) -> int:
    """Memory of this machine, within the control group's limit."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # no such control group, or "max": no limit
        total = min(total, int((group / "memory.max").read_text()))
    return total


def available_bytes(group: Path = CONTROL_GROUP) -> int:
    """Memory that this machine has free, within the control group's limit."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").open())
    except (OSError, ValueError):  # no such control group, or "max": no limit
        return free
    # The cache of files that were read counts as used, but is freed when memory is needed.
    return min(free, limit - used + int(counts.get("inactive_file", 0)))
