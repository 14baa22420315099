"""`cardinal check`: decides whether a run can start, before anything is started.

Input: a configuration. Output: the run's sizes, memory and plan, or one sentence that says why it
cannot start. Imports no vLLM or DeepSpeed, and Ray only if an address is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from cluster.environments import TRAINING, Environment, settings_key
from cluster.placement.layout import weight_channel
from cluster.placement.memory import available_bytes, memory_bytes, process_needs
from cluster.placement.nodes import address_of, plan_live
from cluster.placement.types import Plan
from cluster.preflight.demonstrations import DataSample, check_data, check_expert_data
from cluster.preflight.early import refuse_new
from cluster.preflight.export import check_export
from cluster.preflight.machine import check_room, plan_here
from cluster.preflight.resolve import ResolvedRun, make_environment, resolve
from cluster.preflight.trainable import check_trainable
from cluster.run_folder import check_root
from configs.load import ConfigError
from configs.model_folder import ModelSize, one_line
from configs.schema import RunConfig
from envs import checked
from envs.base import EnvironmentFailure
from envs.registry import BUILT_IN
from rollout.environment_trial import first_steps
from rollout.environments import ProcessLimits
from rollout.pictures import Picture

SAMPLED_PROMPTS = 16  # first prompts rendered for each variant


@dataclass(frozen=True)
class CheckedRun:
    """What a run would be.

    parameters: number by part of the model.
    memory: bytes by part, over all processes of this machine.
    available: bytes this machine has free.
    longest_prompt: tokens by variant, over a few first prompts.
    plan: where each of its processes goes.
    data: what was seen of the demonstrations at sft.data; None where the expert writes them.
    """

    cfg: RunConfig
    parameters: Mapping[str, int]
    memory: Mapping[str, int]
    available: int
    longest_prompt: Mapping[str, int]
    plan: Plan
    data: DataSample | None = None


def check(cfg: RunConfig) -> CheckedRun:
    """Validate a run without starting anything.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
        PlacementError: it does not fit the cluster, or this machine.
    """
    refuse_new(cfg)
    run = resolve(cfg)
    if cfg.model.path:
        check_export(cfg.model.path)
    prompts = _check_prompts(run)
    data = _check_demonstrations(run) if cfg.sft.steps else None
    address = address_of(cfg.cluster.address)
    if address is None or "://" not in address:  # not sent to another machine
        check_room(cfg, run.model, local=address is None)
    memory, available = memory_bytes(cfg, run.model), available_bytes()
    placement = _check_placement(cfg, run.model, available)
    check_trainable(cfg, gpu=placement.gpu, packages=address is None)
    return CheckedRun(cfg, run.model.parameters, memory, available, prompts, placement, data)


def _check_demonstrations(run: ResolvedRun) -> DataSample | None:
    """What was seen at sft.data; None where the expert writes, whose first ones are rendered."""
    cfg, renderer, positions = run.cfg, run.renderer, run.model.positions
    if cfg.sft.data is not None:
        return check_data(cfg.sft, renderer, positions)
    env = make_environment(TRAINING, run.environments[TRAINING])
    check_expert_data(env, cfg.seed, cfg.sft, renderer, positions)
    return None


def _check_placement(cfg: RunConfig, model: ModelSize, available: int) -> Plan:
    """The plan for the cluster at the address, or for this machine and its free memory."""
    address = address_of(cfg.cluster.address)
    if address is None:
        placement = plan_here(cfg, model, available)
    else:
        placement = plan_live(cfg, address, partial(process_needs, cfg, model))
    weight_channel(cfg, placement.gpu)
    check_root(cfg, len(placement.hosts()))
    return placement


def _check_prompts(run: ResolvedRun) -> dict[str, int]:
    """Tokens of the longest prompt by variant; each leaves space for an answer."""
    rollout = run.cfg.rollout
    longest = {
        name: _longest_prompt(run, name, environment)
        for name, environment in run.environments.items()
    }
    for name, tokens in longest.items():
        need = tokens + rollout.answer_tokens
        if need > rollout.context_tokens:
            raise ConfigError(
                f"rollout.context_tokens={rollout.context_tokens}: too short for variant {name}, "
                f"whose first prompts have up to {tokens} tokens and answers "
                f"rollout.answer_tokens={rollout.answer_tokens}; it must be at least {need}"
            )
    return longest


def _longest_prompt(run: ResolvedRun, name: str, environment: Environment) -> int:
    where = f"{settings_key(name)}: {environment[0]}"
    try:
        prompts = _first_prompts(run.cfg, name, environment)
    except EnvironmentFailure as failure:
        raise ConfigError(f"{where} cannot be played: {one_line(failure)}") from failure
    try:
        return max(len(run.renderer.prompt(*prompt).token_ids) for prompt in prompts)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _first_prompts(
    cfg: RunConfig, name: str, environment: Environment
) -> list[tuple[str, list[Picture]]]:
    """Messages with their pictures; of an environment of others, which may hang, by a process."""
    env_id, settings = environment
    if env_id in BUILT_IN:
        env = make_environment(name, environment)
        shown = [checked.reset(env, seed).observation for seed in range(SAMPLED_PROMPTS)]
        return [(o["message"], [Picture.of(o["image"])] if "image" in o else []) for o in shown]
    cluster = cfg.cluster
    limits = ProcessLimits(1, cluster.env_deadline_s, cluster.start_deadline_s, cfg.env.memory_gib)
    steps = asyncio.run(first_steps(env_id, settings, SAMPLED_PROMPTS, limits))
    return [(step.message, [step.picture] if step.picture else []) for step in steps]
