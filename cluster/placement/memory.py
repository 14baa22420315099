"""The memory estimate of a run: what its model, learner ranks, engines and pods need, in bytes.

Input: a configuration and the sizes of its model. `cardinal check`, the placement, the KubeRay
manifest and benchmarks/model_sizes.py all use this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.placement.types import Needs, Node
from configs.load import ConfigError
from configs.model_claims import too_few_positions
from configs.model_folder import ModelSize, Shape, adapter_parameters, size_of
from configs.schema import RunConfig
from rollout.environments import most_processes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS = {"float32": 8, "bfloat16": 12}  # of AdamW, with a float32 copy of bfloat16 weights
PROCESS_BYTES = 700 * 2**20  # of a Python process with torch (and vLLM) imported, measured
ENVIRONMENT_BYTES = 32 * 2**20  # of a process of environments; Cardinal's own of text take 18 MiB
GPU_PROCESS_BYTES = 6 * GIB  # of a process with CUDA's libraries
TINY_VOCABULARY = 512  # at most, of a model that a run makes


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes of one process of each role, without what every Python process takes.

    engine_weights, kv_cache: of a rollout worker, over all GPUs of its engine.
    rank: of a learner rank, with its share of the reference policy.
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


def memory_bytes(
    cfg: RunConfig, model: ModelSize, environment: int = ENVIRONMENT_BYTES
) -> dict[str, int]:
    """Bytes by part over all processes; what ranks share depends on the ZeRO stage.

    Weights, gradients and AdamW's two moments as in Rajbhandari et al., "ZeRO", 2020; in
    bfloat16 also a float32 master copy. Activations are an estimate: 16 values of the hidden
    width a layer and token of a microbatch, 2 with gradient checkpointing. `environment` is what a
    process of environments takes; of others' it has to be measured.
    """
    ranks, stage = cfg.learner.ranks, cfg.learner.zero_stage
    n, size = sum(model.parameters.values()), BYTES[cfg.model.dtype]
    moments, trained = MOMENTS[cfg.model.dtype], _trained(cfg, model)
    processes = most_processes({cfg.env.id}, cfg.rollout.env_processes, cfg.rollout.in_flight)
    kept = (2 if cfg.model.gradient_checkpointing else 16) * model.layers * model.hidden
    return {
        "learner weights": n * size * (1 if stage == 3 else ranks),
        "learner gradients": trained * size * (1 if stage >= 2 else ranks),
        "learner optimizer": trained * moments * (1 if stage >= 1 else ranks),
        "checkpoint copy": _copied_bytes(cfg, trained * (size + moments)),
        "learner activations": kept * cfg.learner.microbatch_tokens * 4 * ranks,
        "reference policy": n * size if cfg.ppo.kl_coef or cfg.sft.loss == "ce_kl" else 0,
        "engine weights": n * size * cfg.rollout.workers,
        "engine KV cache": int(cfg.rollout.kv_cache_gib * GIB) * cfg.rollout.workers,
        "object store": int(cfg.cluster.object_store_gib * GIB),
        "environment processes": environment * processes * cfg.rollout.workers,
        "processes": PROCESS_BYTES * (2 * cfg.rollout.workers + ranks + 3),
    }


def _trained(cfg: RunConfig, model: ModelSize) -> int:
    """Number of parameters that learn."""
    if cfg.model.lora_rank:
        return adapter_parameters(cfg.model, model) + model.parameters.get("value head", 0)
    return sum(model.parameters.values())


def _copied_bytes(cfg: RunConfig, state: int) -> int:
    """Of the state's copy in the host's memory, from which a checkpoint is written."""
    return state if cfg.learner.checkpoint_minutes or cfg.learner.checkpoint_every else 0


def disk_bytes(cfg: RunConfig, model: ModelSize) -> dict[str, int]:
    """Bytes by part that a run writes into its folder, as far as they depend on the model.

    A state holds weights and optimizer; a new one is complete before the oldest is removed. A
    checkpoint is a model: one a phase, and those of sft.keep.
    """
    size, trained = BYTES[cfg.model.dtype], _trained(cfg, model)
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
    return {
        f"{states} resumable states": states * trained * (size + MOMENTS[cfg.model.dtype]),
        f"{models} models": models * sum(model.parameters.values()) * size,
    }


def process_memory(
    cfg: RunConfig, model: ModelSize, environment: int = ENVIRONMENT_BYTES
) -> ProcessMemory:
    """The share of one process in `memory_bytes`."""
    memory, ranks = memory_bytes(cfg, model, environment), cfg.learner.ranks
    workers = cfg.rollout.workers or 1  # none where recorded blocks are trained on
    learner = sum(size for part, size in memory.items() if part.startswith("learner"))
    return ProcessMemory(
        engine_weights=memory["engine weights"] // workers,
        kv_cache=memory["engine KV cache"] // workers,
        rank=(learner + memory["reference policy"]) // ranks,
        offloaded=memory["learner optimizer"] // ranks if cfg.learner.offload else 0,
        copied=memory["checkpoint copy"] // (ranks if cfg.learner.zero_stage else 1),
        weights=sum(model.parameters.values()) * BYTES[cfg.model.dtype],
        environments=memory["environment processes"] // workers,
    )


def process_needs(
    cfg: RunConfig, model: ModelSize, nodes: Sequence[Node], environment: int = ENVIRONMENT_BYTES
) -> Needs:
    """What a plan must find for each process: on its host, and on its GPUs if there are any.

    On a GPU the host keeps the processes themselves, and what learner.offload moves there.
    """
    each = process_memory(cfg, model, environment)
    host = 2 * PROCESS_BYTES + each.environments
    if not any(node.total.get("GPU", 0) for node in nodes):
        worker = each.engine_weights + each.kv_cache + host
        rank = each.rank + each.copied + PROCESS_BYTES
        return Needs(worker=worker, rank=rank, weights=each.weights)
    return Needs(
        worker=host,
        rank=PROCESS_BYTES + each.offloaded + each.copied,
        worker_gpu=each.engine_weights // cfg.rollout.tensor_parallel,
        rank_gpu=each.rank - each.offloaded,
        weights=each.weights,
    )


def pod_needs(cfg: RunConfig, model: ModelSize, gpus: bool) -> tuple[Needs, int]:
    """What a pod must hold for each process, and its object store; roomier than `process_needs`.

    A pod that outgrows its limit is killed, so peaks count too: a rank gathers all weights to
    publish and to save, and two versions of them pass through the object store.
    """
    each = process_memory(cfg, model)
    store = int(cfg.cluster.object_store_gib * GIB) + 2 * each.weights
    if gpus:
        rank = GPU_PROCESS_BYTES + 2 * each.weights + each.offloaded + each.copied
        worker = GPU_PROCESS_BYTES + each.weights + each.environments
        return Needs(worker=worker, rank=rank), store
    worker = each.engine_weights + each.kv_cache + each.environments + 2 * PROCESS_BYTES
    rank = each.rank + each.copied + each.weights + 2 * PROCESS_BYTES
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


def available_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this machine has free, within the control group's limit."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").open())
    except (OSError, ValueError):  # no such control group, or "max": no limit
        return free
    # The cache of files that were read counts as used, but is freed when memory is needed.
    return min(free, limit - used + int(counts.get("inactive_file", 0)))
