"""`cardinal check`: everything that can be known of a run before anything is started.

Comes in: a configuration; goes out: the resolved run (sizes, memory, processes), or one
sentence that says why it cannot be. Imports no vLLM or DeepSpeed, and Ray for an address only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from cluster.failures import PlacementError
from cluster.placement.layout import weight_channel
from cluster.placement.nodes import address_of, machine, plan_live
from cluster.placement.plan import Needs, Node, Plan, cpus, plan
from cluster.preflight.demonstrations import check_data
from configs.load import ConfigError
from configs.model_folder import (
    ModelSize,
    adapter_parameters,
    check_model,
    find_model,
    is_matrix,
    one_line,
    part_of,
)
from configs.schema import RunConfig
from envs.base import TextEnv, shows_pictures
from envs.registry import check_settings, make, with_preset
from rollout.pictures import Picture

BYTES = {"float32": 4, "bfloat16": 2}
SAMPLED_PROMPTS = 16  # first prompts rendered a variant
PROCESS_BYTES = 700 * 2**20  # of a Python process with torch (and vLLM) imported, measured


@dataclass(frozen=True)
class Resolved:
    """What a run would be.

    parameters: number by part of the model.
    memory: bytes by part, over all processes of this machine.
    available: bytes this machine has free.
    longest_prompt: tokens by variant, over a few first prompts.
    plan: where each of its processes goes.
    """

    cfg: RunConfig
    parameters: dict[str, int]
    memory: dict[str, int]
    available: int
    longest_prompt: dict[str, int]
    plan: Plan


def environments(cfg: RunConfig) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every environment that a run plays, by name: "rollout" for training, "eval/…"."""
    base = with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
    named = {f"eval/{name}": {**base, **extra} for name, extra in cfg.eval.variants.items()}
    return {name: (cfg.env.id, settings) for name, settings in {"rollout": base, **named}.items()}


def run_folder(cfg: RunConfig) -> Path:
    """The run's folder, absolute.

    Raises:
        ConfigError: it holds something already, or is a file.
    """
    folder = (Path(cfg.cluster.root) / cfg.name).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"name={cfg.name}: the run folder {folder} is taken; choose another name, "
            f"or go on with `cardinal resume {folder}`"
        )
    return folder


def check(cfg: RunConfig) -> Resolved:
    """Validate a run without starting anything.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
        PlacementError: it does not fit the cluster, or this machine.
    """
    run_folder(cfg)
    try:
        played = environments(cfg)
        for name, env in played.items():
            check_settings(*env, where=_where(name))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    known = check_model(cfg.model.path) if cfg.model.path else None
    renderer = _renderer(cfg)
    if cfg.sft.steps and cfg.sft.data:
        check_data(cfg.sft.data, cfg.sft.batch_size, renderer)
    size = model_size(cfg, known, renderer.tokenizer)
    prompts = {name: _longest_prompt(renderer, name, *env) for name, env in played.items()}
    for name, length in prompts.items():
        _check_context(cfg, name, length)
    memory = memory_bytes(cfg, size)
    available = available_bytes()
    address = address_of(cfg.cluster.address)
    here = [machine(cpus(cfg), available)]
    if address is None:
        weight_channel(cfg, gpu=here[0].total["GPU"] > 0)
        _check_memory(memory, available)
    needs = partial(process_needs, cfg, size)
    placed = plan_live(cfg, address, needs) if address else plan(cfg, here, needs(here))
    weight_channel(cfg, placed.gpu)
    check_root(cfg, placed)
    return Resolved(cfg, size.parameters, memory, available, prompts, placed)


def check_root(cfg: RunConfig, placed: Plan) -> None:
    """Refuse a run folder that other nodes would look for in a folder of their own.

    Raises:
        PlacementError: the plan spans nodes and cluster.root is relative.
    """
    hosts = placed.hosts()
    if len(hosts) > 1 and not Path(cfg.cluster.root).is_absolute():
        raise PlacementError(
            f"cluster.root={cfg.cluster.root}: the run spans {len(hosts)} nodes without shared "
            "storage, for a relative folder is each node's own; an absolute one that all nodes "
            "see would do"
        )


def show(resolved: Resolved) -> None:
    """Print the resolved run as tables."""
    from rich.console import Console
    from rich.table import Table

    console, cfg = Console(), resolved.cfg
    console.print(f"[bold]{cfg.name}[/bold]: {cfg.env.id}, preset {cfg.preset}, seed {cfg.seed}")
    console.print(
        f"SFT {cfg.sft.steps} steps of {cfg.sft.batch_size} demonstrations, then PPO "
        f"{cfg.ppo.updates} updates of {cfg.ppo.episodes} episodes ({cfg.ppo.estimator})"
    )
    for title, header, rows in (
        ("model", ("part", "parameters"), [(k, f"{v:,}") for k, v in resolved.parameters.items()]),
        ("memory on this machine", ("part", "MiB"), _mib(resolved)),
        ("first prompts", ("variant", "longest, tokens"),
         [(k, str(v)) for k, v in resolved.longest_prompt.items()]),
    ):  # fmt: skip
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    show_plan(resolved)
    console.print(f"run folder {Path(cfg.cluster.root) / cfg.name}")


def show_plan(resolved: Resolved) -> None:
    """Print where each process would go, as one table."""
    from rich.console import Console
    from rich.table import Table

    where = address_of(resolved.cfg.cluster.address) or "a local Ray on this machine"
    table = Table("node", "CPU", "GPU", "work", title=f"placement on {where}", title_justify="left")
    for row in resolved.plan.rows():
        table.add_row(*row)
    Console().print(table)


def model_size(cfg: RunConfig, known: ModelSize | None, tokenizer: Any) -> ModelSize:
    """Sizes of the run's policy, the value head included.

    Args:
        cfg: the run.
        known: of the folder at model.path; None for a tiny model.
        tokenizer: its own.

    Raises:
        ConfigError: the model is too small for the context or for its tokenizer.
    """
    if known is None:
        known = _tiny_size(cfg, tokenizer)
    tokens = len(tokenizer)
    if known.positions and cfg.rollout.context_tokens > known.positions:
        raise ConfigError(
            f"rollout.context_tokens={cfg.rollout.context_tokens}: the model at {cfg.model.path} "
            f"knows {known.positions} positions"
        )
    if tokens > known.vocabulary:
        raise ConfigError(
            f"model.path={cfg.model.path}: its tokenizer has {tokens} tokens, more than the "
            f"{known.vocabulary} that the model knows"
        )
    if cfg.ppo.updates and cfg.ppo.estimator == "gae":
        head = {"value head": known.hidden * known.hidden + 2 * known.hidden + 1}
        known = replace(known, parameters=known.parameters | head)
    return known


def _tiny_size(cfg: RunConfig, tokenizer: Any) -> ModelSize:
    """Of the model that the run would make: made without its weights."""
    import torch

    from learner.init_model import tiny_model

    try:
        with torch.device("meta"):
            model = tiny_model(cfg, tokenizer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts[part_of(name)] += parameter.numel()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    init, positions = cfg.model.init, cfg.rollout.context_tokens
    matrices = {name: shape for name, shape in shapes.items() if is_matrix(name, shape)}
    return ModelSize(dict(parts), init.layers, init.hidden, len(tokenizer), positions, matrices)


def memory_bytes(cfg: RunConfig, model: ModelSize) -> dict[str, int]:
    """Bytes by part over all processes; the ZeRO stage says what ranks share.

    Weights, gradients and AdamW's two moments as in Rajbhandari et al., "ZeRO", 2020; in
    bfloat16 a float32 master copy besides. Activations are an estimate: 16 values of the
    hidden width a layer and token of a microbatch.
    """
    ranks, stage = cfg.learner.ranks, cfg.learner.zero_stage
    n, size = sum(model.parameters.values()), BYTES[cfg.model.dtype]
    moments = 8 if cfg.model.dtype == "float32" else 12
    trained = n
    if cfg.model.lora_rank:
        trained = adapter_parameters(cfg.model, model) + model.parameters.get("value head", 0)
    kept = (2 if cfg.model.gradient_checkpointing else 16) * model.layers * model.hidden
    return {
        "learner weights": n * size * (1 if stage == 3 else ranks),
        "learner gradients": trained * size * (1 if stage >= 2 else ranks),
        "learner optimizer": trained * moments * (1 if stage >= 1 else ranks),
        "learner activations": kept * cfg.learner.microbatch_tokens * 4 * ranks,
        "reference policy": n * size if cfg.ppo.kl_coef or cfg.sft.loss == "ce_kl" else 0,
        "engine weights": n * size * cfg.rollout.workers,
        "engine KV cache": int(cfg.rollout.kv_cache_gib * 2**30) * cfg.rollout.workers,
        "object store": int(cfg.cluster.object_store_gib * 2**30),
        "processes": PROCESS_BYTES * (2 * cfg.rollout.workers + ranks + 3),
    }


def process_needs(cfg: RunConfig, model: ModelSize, nodes: Sequence[Node]) -> Needs:
    """Bytes of each process, for the plan: on its host, and on each of its GPUs if there are any.

    On a GPU the host keeps the processes themselves, and what `learner.offload` moves there.
    """
    memory = memory_bytes(cfg, model)
    moved = memory["learner optimizer"] // cfg.learner.ranks if cfg.learner.offload else 0
    engine = memory["engine weights"] // cfg.rollout.workers
    cache = memory["engine KV cache"] // cfg.rollout.workers
    learner = sum(v for k, v in memory.items() if k.startswith("learner"))
    rank = (learner + memory["reference policy"]) // cfg.learner.ranks
    weights = sum(model.parameters.values()) * BYTES[cfg.model.dtype]
    if not any(node.total.get("GPU", 0) for node in nodes):
        return Needs(engine + cache + 2 * PROCESS_BYTES, rank + PROCESS_BYTES, weights=weights)
    return Needs(
        2 * PROCESS_BYTES,
        PROCESS_BYTES + moved,
        engine // cfg.rollout.tensor_parallel,
        rank - moved,
        weights,
    )


def available_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this machine has free, within the control group's limit."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").open())
    except (OSError, ValueError):  # no such control group, or "max": no limit
        return free
    # The cache of files that were read counts as used, and goes when memory is wanted.
    return min(free, limit - used + int(counts.get("inactive_file", 0)))


def _check_memory(memory: dict[str, int], available: int) -> None:
    need = sum(memory.values())
    if need > available:
        parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in memory.items() if size)
        raise ConfigError(
            f"too little memory: the run needs {need / 2**30:.1f} GiB ({parts}), this machine "
            f"has {available / 2**30:.1f} GiB free; lower rollout.kv_cache_gib, "
            "cluster.object_store_gib, learner.microbatch_tokens or the model"
        )


def _renderer(cfg: RunConfig) -> Any:
    """The run's renderer; a tiny model's tokenizer is trained here as the run would train it."""
    from learner.init_model import tiny_processor, train_tokenizer
    from rollout.processor import PictureProcessor
    from rollout.renderer import Renderer

    if cfg.model.path is None:
        settings = with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
        env = _environment("rollout", cfg.env.id, settings)
        if not isinstance(env, TextEnv):
            raise ConfigError(
                f"env.id={cfg.env.id}: is no envs.base.TextEnv, so it has no text to make a tiny "
                "model of; set model.path"
            )
        sees = shows_pictures(env)
        tokenizer = train_tokenizer(env.corpus(), sees)
        eyes = tiny_processor(tokenizer, cfg.model.init.vision) if sees else None
        processor = PictureProcessor(eyes) if eyes else None
        return Renderer(tokenizer, [tokenizer.eos_token_id], processor)
    try:
        return Renderer.load(str(find_model(cfg.model.path)))
    except Exception as error:  # the boundary to tokenizers, which raise all kinds
        raise ConfigError(f"model.path={cfg.model.path}: {one_line(error)}") from error


def _where(name: str) -> str:
    """The key under which an environment of `environments` has its settings."""
    return "env.settings" if name == "rollout" else name.replace("eval/", "eval.variants.", 1)


def _environment(name: str, env_id: str, settings: dict[str, Any]) -> Any:
    try:
        return make(env_id, settings)
    except Exception as error:  # the boundary to environments, third-party ones too
        raise ConfigError(f"{_where(name)}: {env_id} cannot be made: {one_line(error)}") from error


def _longest_prompt(renderer: Any, name: str, env_id: str, settings: dict[str, Any]) -> int:
    env = _environment(name, env_id, settings)
    longest = 0
    for seed in range(SAMPLED_PROMPTS):
        try:
            observation, _ = env.reset(seed=seed)
            message = observation["message"]
        except Exception as error:  # the boundary to environments, third-party ones too
            raise ConfigError(
                f"{_where(name)}: {env_id} cannot be played: {one_line(error)}"
            ) from error
        try:
            seen = [Picture.of(observation["image"])] if "image" in observation else []
            longest = max(longest, len(renderer.prompt(message, seen).token_ids))
        except ValueError as error:
            raise ConfigError(f"{_where(name)}: {env_id}: {error}") from error
    return longest


def _check_context(cfg: RunConfig, name: str, prompt: int) -> None:
    need = prompt + cfg.rollout.answer_tokens
    if need > cfg.rollout.context_tokens:
        raise ConfigError(
            f"rollout.context_tokens={cfg.rollout.context_tokens}: too short for variant {name}, "
            f"whose first prompts have up to {prompt} tokens and answers "
            f"rollout.answer_tokens={cfg.rollout.answer_tokens}; it must be at least {need}"
        )


def _mib(resolved: Resolved) -> list[tuple[str, str]]:
    rows = [(name, f"{size / 2**20:,.0f}") for name, size in resolved.memory.items() if size]
    total = sum(resolved.memory.values())
    return [
        *rows,
        ("all", f"{total / 2**20:,.0f}"),
        ("free here", f"{resolved.available / 2**20:,.0f}"),
    ]
