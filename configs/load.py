"""YAML and `key=value` overrides in, a frozen RunConfig out, or one sentence that says why not.

Precedence: schema defaults, preset, file, overrides. Settings of environments are free here;
`envs.registry.check_settings` builds them with the same `build`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.presets import PRESET_KEYS
from configs.schema import OptimizerConfig, PPOConfig, RunConfig

T = TypeVar("T")
FOLDER = Path(__file__).parent


class ConfigError(ValueError):
    """What was asked for cannot be; one sentence with the key, the value and the rule."""


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """An instance of a dataclass made of `configs.schema.leaf`.

    Args:
        cls: the dataclass.
        values: nested plain values by key.
        where: dotted prefix for errors; "" at the root.

    Raises:
        ConfigError: unknown key (with the nearest valid name), wrong type, or a value that the
            leaf's choices or range exclude, or what the dataclass itself refuses.
    """
    _refuse_unknown(cls, values, where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(values))
        built = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = _join(where, getattr(error, "full_key", None) or "")
        first = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {first}") from error
    except ValueError as error:  # of the dataclass's own __post_init__
        prefix = "" if str(error).startswith(where) else f"{where}: "
        raise ConfigError(f"{prefix}{error}") from error
    _refuse_values(built, where)
    return typing.cast(T, built)


def load(path: str | Path, overrides: Sequence[str] = (), idle: bool = False) -> RunConfig:
    """Read a run's configuration.

    Args:
        path: a YAML file, or the bare name of one in configs/ (with or without .yaml).
        overrides: `dotted.key=value`, the value in YAML.
        idle: whether it may train nothing, as a study's arm that only evaluates its start.

    Raises:
        ConfigError: as `build`, or the file is not there, not YAML, or contradicts itself.
    """
    file = find(path)
    values = _read(file)
    given = _merge(values, parse(overrides))
    given.setdefault("name", file.stem)
    preset = str(given.get("preset", RunConfig.preset))  # `build` refuses what is no preset
    cfg = build(RunConfig, _merge(_nest(PRESET_KEYS.get(preset, {})), given), "")
    for name in [name for name, settings in cfg.eval.variants.items() if settings is None]:
        del cfg.eval.variants[name]
    found = contradictions(cfg)
    if not idle and cfg.sft.steps == cfg.ppo.updates == 0:
        found.append("sft.steps=0 and ppo.updates=0 leave nothing to train")
    if found:
        raise ConfigError(found[0])
    return cfg


def dump(cfg: RunConfig) -> str:
    """The resolved configuration as YAML; `load` reads it back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def contradictions(cfg: RunConfig) -> list[str]:
    """Every pair of keys that cannot both hold, a sentence each."""
    ppo, sft, rollout, model = cfg.ppo, cfg.sft, cfg.rollout, cfg.model
    checks = {
        f"model.init.heads={model.init.heads} does not divide model.init.hidden="
        f"{model.init.hidden}": model.path is None and model.init.hidden % model.init.heads != 0,
        f"model.init.hidden={model.init.hidden} over model.init.heads={model.init.heads} must "
        "make heads of a multiple of 32, the sizes that the engine's CPU attention has": (
            model.path is None and model.init.hidden % (32 * model.init.heads) != 0
        ),
        f"ppo.minibatch={ppo.minibatch} is more than ppo.episodes={ppo.episodes}": ppo.minibatch
        > ppo.episodes,
        f"ppo.episodes={ppo.episodes} is no multiple of ppo.group_size={ppo.group_size}": (
            ppo.episodes % ppo.group_size != 0
        ),
        f"ppo.estimator={ppo.estimator} compares plays of one seed: ppo.group_size must be at "
        "least 2": ppo.estimator in ("grpo", "rloo") and ppo.group_size < 2,
        **_no_critic(ppo),
        "ppo.advantage_level=token needs ppo.value_level=token": ppo.estimator == "gae"
        and ppo.advantage_level == "token"
        and ppo.value_level == "turn",
        f"rollout.answer_tokens={rollout.answer_tokens} leaves no room for a prompt in "
        f"rollout.context_tokens={rollout.context_tokens}": rollout.answer_tokens
        >= rollout.context_tokens,
        f"sft.batch_size={sft.batch_size} is no multiple of learner.ranks={cfg.learner.ranks}": (
            sft.steps > 0 and sft.batch_size % cfg.learner.ranks != 0
        ),
        f"sft.batch_size={sft.batch_size} is more than the sft.demonstrations="
        f"{sft.demonstrations} to be written": sft.steps > 0
        and sft.data is None
        and sft.demonstrations < sft.batch_size,
        "sft.loss=ce_kl with sft.kl_coef=0 has no KL; set a weight or sft.loss=ce": sft.steps > 0
        and sft.loss == "ce_kl"
        and sft.kl_coef == 0,
        f"sft.keep={sft.keep}: must hold steps from 1 to sft.steps={sft.steps}": any(
            not 1 <= step <= sft.steps for step in sft.keep
        ),
        **_rising("sft", sft.optimizer, sft.steps),
        **_rising("ppo", ppo.optimizer, ppo.updates),
        "rollout.temperature=0 samples nothing to learn from with ppo.updates above 0": (
            ppo.updates > 0 and rollout.temperature == 0
        ),
        "eval.variants is empty; at least one variant says what is measured": not cfg.eval.variants,
        "learner.offload=true needs learner.zero_stage of 1 to 3: DeepSpeed moves no optimizer "
        "state to the host without ZeRO": cfg.learner.offload and cfg.learner.zero_stage == 0,
        "model.lora_targets names layers for adapters; model.lora_rank=0 makes none": bool(
            model.lora_targets
        )
        and model.lora_rank == 0,
        **_gpu_layout(cfg),
        **_misshapen(cfg),
    }  # fmt: skip
    return [sentence for sentence, holds in checks.items() if holds]


def _gpu_layout(cfg: RunConfig) -> dict[str, bool]:
    """Contradictions between cluster.layout, cluster.channel and what shares GPUs."""
    cluster, engines = cfg.cluster, cfg.rollout.workers * cfg.rollout.tensor_parallel
    colocated = cluster.layout == "colocated"
    return {
        "cluster.channel=ipc shares memory within a GPU; it needs cluster.layout=colocated": (
            cluster.channel == "ipc" and not colocated
        ),
        "cluster.channel=nccl joins GPUs that differ; cluster.layout=colocated has engine and "
        "learner on the same ones and needs ipc": cluster.channel == "nccl" and colocated,
        "cluster.layout=colocated plays and learns by turns; ppo.max_staleness="
        f"{cfg.ppo.max_staleness} needs both at once": colocated and cfg.ppo.max_staleness > 0,
        f"cluster.layout=colocated puts a rank on each engine's GPU: learner.ranks="
        f"{cfg.learner.ranks} must be rollout.workers x rollout.tensor_parallel={engines}": (
            colocated and cfg.learner.ranks != engines
        ),
    }


def _misshapen(cfg: RunConfig) -> dict[str, bool]:
    return {
        f"name={cfg.name!r} must be a plain folder name": cfg.name in ("", ".", "..")
        or Path(cfg.name).name != cfg.name,
        **{
            f"eval.variants.{name}={settings!r}: must hold environment settings, {{}} for none":
            not isinstance(settings, dict) for name, settings in cfg.eval.variants.items()
        },
    }  # fmt: skip


def _no_critic(ppo: PPOConfig) -> dict[str, bool]:
    """Keys of the critic that an estimator without one would pass over in silence."""
    default = PPOConfig()
    return {
        f"ppo.{key}={getattr(ppo, key)} has no use for ppo.estimator={ppo.estimator}, "
        "which has no critic": ppo.estimator != "gae" and getattr(ppo, key) != getattr(default, key)
        for key in ("value_level", "advantage_level", "value_clip", "trunc_bootstrap")
    }


def _rising(phase: str, optimizer: OptimizerConfig, steps: int) -> dict[str, bool]:
    return {
        f"{phase}.optimizer.lr_end={optimizer.lr_end:g} is above {phase}.optimizer.lr="
        f"{optimizer.lr:g}, its peak": steps > 0
        and optimizer.schedule != "constant"
        and optimizer.lr_end > optimizer.lr
    }


def find(path: str | Path) -> Path:
    """The file that `load` reads.

    Raises:
        ConfigError: there is none; with the nearest name in configs/.
    """
    file = Path(path)
    shipped = (FOLDER / file.name, FOLDER / f"{file.name}.yaml") if str(file) == file.name else ()
    for candidate in (file, *shipped):
        if candidate.is_file():
            return candidate
    names = sorted(p.stem for p in FOLDER.glob("*.yaml"))
    near = difflib.get_close_matches(file.stem, names, 1, 0.0)
    hint = f"; the nearest name in configs/ is {near[0]}" if near else ""
    raise ConfigError(f"{path}: there is no such configuration file{hint}")


def _read(file: Path) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(file))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: holds a {type(values).__name__}; it must hold keys and values")
    return typing.cast(dict[str, Any], values)


def parse(pairs: Sequence[str]) -> dict[str, Any]:
    """Nested values of `dotted.key=value` pairs, the values in YAML."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {pair!r} must have the form key=value")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"override {key}: the value {text!r} is not YAML") from error
        values = _merge(values, _nest({key: typing.cast(dict, value)["value"]}))
    return values


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return nested


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(typing.cast(dict, old), value) if both else value
    return merged


def _refuse_unknown(cls: type, values: dict[str, Any], where: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1, 0.5)
            hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(fields)}"
            raise ConfigError(f"{_join(where, key)}: there is no such key; {hint}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"{_join(where, key)}={value!r}: must hold keys and values")
            _refuse_unknown(typing.cast(type, kind), value, _join(where, key))
        elif isinstance(value, float) and _wants_int(kind):
            raise ConfigError(f"{_join(where, key)}={value!r}: must be a whole number")


def _wants_int(kind: Any) -> bool:
    return kind is int or (isinstance(kind, types.UnionType) and float not in kind.__args__
                           and int in kind.__args__)  # fmt: skip


def _refuse_values(built: Any, where: str) -> None:
    for field in dataclasses.fields(built):
        key, value = _join(where, field.name), getattr(built, field.name)
        if dataclasses.is_dataclass(value):
            _refuse_values(value, key)
            continue
        rule = field.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number")
        if rule.get("choices") and value not in rule["choices"]:
            allowed = ", ".join("null" if c is None else str(c) for c in rule["choices"])
            near = difflib.get_close_matches(str(value), map(str, rule["choices"]), 1, 0.5)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ConfigError(f"{key}={value}: must be one of {allowed}{hint}")
        for name, sign, broken in (
            ("low", "at least", lambda limit, v=value: v < limit),
            ("high", "at most", lambda limit, v=value: v > limit),
        ):
            limit = rule.get(name)
            if limit is not None and value is not None and broken(limit):
                raise ConfigError(f"{key}={value}: must be {sign} {limit:g}")


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where and key else f"{where}{key}"
