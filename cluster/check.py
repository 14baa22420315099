"""`cardinal check`: everything that can be known of a run before anything is started.

Comes in: a configuration; goes out: the resolved run (sizes, memory, processes), or one
sentence that says why it cannot be. Imports neither vLLM nor DeepSpeed nor Ray.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.placement import Plan, plan
from configs.load import ConfigError
from configs.schema import RunConfig
from envs.registry import check_settings, make, with_preset

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
    plan: its processes.
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


def check(cfg: RunConfig) -> Resolved:
    """Validate a run without starting anything.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
    """
    try:
        played = environments(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name, (env_id, settings) in played.items():
        where = "env.settings" if name == "rollout" else name.replace("eval/", "eval.variants.")
        check_settings(env_id, settings, where)
    if cfg.sft.steps and cfg.sft.data:
        _check_data(cfg.sft.data)
    renderer = _renderer(cfg)
    prompts = {name: _longest_prompt(renderer, *env) for name, env in played.items()}
    for name, length in prompts.items():
        _check_context(cfg, name, length)
    parameters = count_parameters(cfg, len(renderer.tokenizer))
    memory = memory_bytes(cfg, parameters)
    available = available_bytes()
    if cfg.cluster.address is None and "RAY_ADDRESS" not in os.environ:
        _check_memory(memory, available)
    return Resolved(cfg, parameters, memory, available, prompts, plan(cfg, gpu=False))


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
        ("processes", ("role", "count", "CPUs each"),
         [(g.role, str(g.count), f"{g.cpus:g}") for g in resolved.plan.groups]),
    ):  # fmt: skip
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    where = cfg.cluster.address or os.environ.get("RAY_ADDRESS") or "a local Ray on this machine"
    console.print(f"they start on {where}; run folder {Path(cfg.cluster.root) / cfg.name}")


def count_parameters(cfg: RunConfig, vocabulary: int) -> dict[str, int]:
    """Parameters by part, from the configuration or the weight files' headers alone."""
    if cfg.model.path is None:
        m = cfg.model.init
        layer = 4 * m.hidden**2 + 3 * m.hidden * m.mlp + 2 * m.hidden
        embedding = vocabulary * m.hidden
        trunk = {"layers": m.layers * layer + m.hidden, "embedding and head": 2 * embedding}
        hidden = m.hidden
    else:
        folder = Path(cfg.model.path)
        total = sum(math.prod(shape) for shape in _shapes(folder))
        trunk = {"trunk": total}
        hidden = _json(folder / "config.json").get("hidden_size") or 0
    if cfg.ppo.updates and cfg.ppo.estimator == "gae":
        trunk["value head"] = hidden * hidden + 2 * hidden + 1
    return trunk


def memory_bytes(cfg: RunConfig, parameters: dict[str, int]) -> dict[str, int]:
    """Bytes by part over all processes; the ZeRO stage says what ranks share.

    Weights, gradients and AdamW's two moments as in Rajbhandari et al., "ZeRO", 2020; in
    bfloat16 a float32 master copy besides. Activations are an estimate: 16 values of the
    hidden width a layer and token of a microbatch.
    """
    n, ranks, stage = sum(parameters.values()), cfg.learner.ranks, cfg.learner.zero_stage
    size = BYTES[cfg.model.dtype]
    moments = 8 if cfg.model.dtype == "float32" else 12
    layers, hidden = _depth_and_width(cfg)
    kept = 2 if cfg.model.gradient_checkpointing else 16
    return {
        "learner weights": n * size * (1 if stage == 3 else ranks),
        "learner gradients": n * size * (1 if stage >= 2 else ranks),
        "learner optimizer": n * moments * (1 if stage >= 1 else ranks),
        "learner activations": kept * layers * hidden * cfg.learner.microbatch_tokens * 4 * ranks,
        "reference policy": n * size if cfg.ppo.kl_coef or cfg.sft.loss == "ce_kl" else 0,
        "engine weights": n * size * cfg.rollout.workers,
        "engine KV cache": int(cfg.rollout.kv_cache_gib * 2**30) * cfg.rollout.workers,
        "object store": int(cfg.cluster.object_store_gib * 2**30),
        "processes": PROCESS_BYTES * (2 * cfg.rollout.workers + ranks + 3),
    }


def available_bytes() -> int:
    """Memory that this machine has free, within the control group's limit."""
    free = psutil.virtual_memory().available
    for name, used in (("memory.max", "memory.current"),):
        limit, now = Path("/sys/fs/cgroup", name), Path("/sys/fs/cgroup", used)
        if limit.is_file() and now.is_file() and (text := limit.read_text().strip()) != "max":
            free = min(free, int(text) - int(now.read_text()))
    return free


def _check_memory(memory: dict[str, int], available: int) -> None:
    need = sum(memory.values())
    if need > available:
        parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in memory.items() if size)
        raise ConfigError(
            f"too little memory: the run needs {need / 2**30:.1f} GiB ({parts}), this machine "
            f"has {available / 2**30:.1f} GiB free; lower rollout.kv_cache_gib, "
            "cluster.object_store_gib, learner.microbatch_tokens or the model"
        )


def _check_data(data: str) -> None:
    path = Path(data)
    if path.is_file() and path.suffix == ".json":
        from cluster.demonstrations import read_released

        next(read_released(path), None)
    elif not list(path.glob("*.parquet")):
        raise ConfigError(
            f"sft.data={data}: must be a folder with *.parquet files or a released JSON file"
        )


def _renderer(cfg: RunConfig) -> Any:
    """The run's renderer; a tiny model's tokenizer is trained here as the run would train it."""
    from learner.init_model import train_tokenizer
    from rollout.renderer import Renderer

    if cfg.model.path is None:
        settings = with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
        tokenizer = train_tokenizer(make(cfg.env.id, settings).corpus())
        return Renderer(tokenizer, [tokenizer.eos_token_id])
    _check_model(cfg)
    try:
        return Renderer.load(cfg.model.path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"model.path={cfg.model.path}: {error}") from error


def _check_model(cfg: RunConfig) -> None:
    assert cfg.model.path is not None
    folder, key = Path(cfg.model.path), f"model.path={cfg.model.path}"
    if not folder.is_dir():
        raise ConfigError(f"{key}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: holds no config.json, so it is no Hugging Face model folder")
    config = _json(folder / "config.json")
    kinds = config.get("architectures") or []
    if not any("ForCausalLM" in kind or "ForConditionalGeneration" in kind for kind in kinds):
        raise ConfigError(f"{key}: is {', '.join(kinds) or 'of no named kind'}, no causal LM")
    limit = config.get("max_position_embeddings")
    if limit and cfg.rollout.context_tokens > limit:
        raise ConfigError(
            f"rollout.context_tokens={cfg.rollout.context_tokens}: the model at {folder} knows "
            f"{limit} positions"
        )
    if not list(_weight_files(folder)):
        raise ConfigError(f"{key}: holds no *.safetensors weights")


def _longest_prompt(renderer: Any, env_id: str, settings: dict[str, Any]) -> int:
    try:
        env = make(env_id, settings)
        messages = [env.reset(seed=seed)[0]["message"] for seed in range(SAMPLED_PROMPTS)]
    except ConfigError:
        raise
    except Exception as error:  # the boundary to environments, third-party ones too
        raise ConfigError(f"env.id={env_id}: it cannot be played: {error}") from error
    return max(len(renderer.prompt(message)) for message in messages)


def _check_context(cfg: RunConfig, name: str, prompt: int) -> None:
    need = prompt + cfg.rollout.answer_tokens
    if need > cfg.rollout.context_tokens:
        raise ConfigError(
            f"rollout.context_tokens={cfg.rollout.context_tokens}: too short for variant {name}, "
            f"whose first prompts have up to {prompt} tokens and answers "
            f"rollout.answer_tokens={cfg.rollout.answer_tokens}; it must be at least {need}"
        )


def _depth_and_width(cfg: RunConfig) -> tuple[int, int]:
    if cfg.model.path is None:
        return cfg.model.init.layers, cfg.model.init.hidden
    config = _json(Path(cfg.model.path) / "config.json")
    config = config.get("text_config", config)
    return config.get("num_hidden_layers", 0), config.get("hidden_size", 0)


def _weight_files(folder: Path) -> Iterator[Path]:
    return (f for f in folder.glob("*.safetensors") if f.name != "value_head.safetensors")


def _shapes(folder: Path) -> Iterator[tuple[int, ...]]:
    """Shapes of all tensors, from the files' headers."""
    from safetensors import safe_open

    for file in _weight_files(folder):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                yield tuple(tensors.get_slice(name).get_shape())


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON: {error}") from error


def _mib(resolved: Resolved) -> list[tuple[str, str]]:
    rows = [(name, f"{size / 2**20:,.0f}") for name, size in resolved.memory.items() if size]
    total = sum(resolved.memory.values())
    return [
        *rows,
        ("all", f"{total / 2**20:,.0f}"),
        ("free here", f"{resolved.available / 2**20:,.0f}"),
    ]
