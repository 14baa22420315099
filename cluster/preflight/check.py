"""`cardinal check`: decides whether a run can start, before anything is started.

Input: a configuration. Output: the run's sizes, memory and plan, or one sentence that says why it
cannot start. Imports no vLLM or DeepSpeed, and Ray only if an address is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from cluster.environments import Environment, settings_key
from cluster.placement.layout import weight_channel, without_engines
from cluster.placement.memory import (
    ENVIRONMENT_BYTES,
    available_bytes,
    card_parts,
    machine_bytes,
    process_needs,
)
from cluster.placement.nodes import address_of, plan_live
from cluster.placement.types import Plan
from cluster.preflight.demonstrations import DataSample, check_data, check_expert_data
from cluster.preflight.early import refuse_new
from cluster.preflight.export import check_export
from cluster.preflight.machine import check_room, plan_here
from cluster.preflight.resolve import (
    ResolvedRun,
    cannot_be_played,
    make_environment,
    resolve,
)
from cluster.preflight.trainable import check_trainable
from cluster.run.run_folder import check_root
from configs.load import ConfigError
from configs.model_folder import ModelSize
from configs.schema import RunConfig
from envs import checked
from envs.base import EnvironmentFailure
from envs.registry import BUILT_IN
from rollout.environment_trial import trial_limits, tried
from rollout.environments import EnvironmentStep
from rollout.pictures import Picture

SAMPLED_PROMPTS = 16  # first prompts rendered for each variant


@dataclass(frozen=True)
class CheckedRun:
    """What a run would be.

    parameters: number by part of the model.
    memory: bytes by part, over all processes of this machine; with GPUs of what is beside them.
    card: bytes by part on a learner rank's GPU at the moment that needs most, which is named; None
        without GPUs.
    available: bytes this machine has free.
    longest_prompt: tokens by variant, over a few first prompts.
    plan: where each of its processes goes.
    ends: the tokens that end an answer, in a run and in the checkpoints' generation_config.json.
    data: what was seen of the demonstrations at sft.data; None where the expert writes them.
    """

    cfg: RunConfig
    parameters: Mapping[str, int]
    memory: Mapping[str, int]
    card: tuple[str, Mapping[str, int]] | None
    available: int
    longest_prompt: Mapping[str, int]
    plan: Plan
    ends: tuple[str, ...]
    data: DataSample | None = None


@dataclass(frozen=True)
class FirstPrompts:
    """What the first prompts of a variant take.

    longest: tokens of the longest.
    memory: bytes of a process of its environments.
    pictures: whether one shows any.
    """

    longest: int
    memory: int
    pictures: bool


def check(cfg: RunConfig) -> CheckedRun:
    """Validate a run without starting anything.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
        PlacementError: it does not fit the cluster, or this machine.
    """
    refuse_new(cfg)
    run = resolve(cfg)
    if cfg.model.path:
        check_export(cfg.model.path, run.renderer.stop_ids)
    prompts = _check_prompts(run)
    data = _check_demonstrations(run) if cfg.sft.steps else None
    address = address_of(cfg.cluster.address)
    if address is None or "://" not in address:  # not sent to another machine
        check_room(cfg, run.model, local=address is None)
    environment = max(first.memory for first in prompts.values())
    started = without_engines(cfg)
    available = available_bytes()
    placement = _check_placement(started, run.model, available, environment)
    pictures = any(first.pictures for first in prompts.values()) or bool(data and data.pictures)
    check_trainable(cfg, gpu=placement.gpu, packages=address is None, pictures=pictures)
    memory = machine_bytes(started, run.model, placement.gpu, environment)
    moments = card_parts(started, run.model) if placement.gpu else {}
    card = max(moments.items(), key=lambda moment: sum(moment[1].values()), default=None)
    longest = {name: first.longest for name, first in prompts.items()}
    ends = tuple(run.renderer.tokenizer.convert_ids_to_tokens(list(run.renderer.stop_ids)))
    parameters = run.model.parameters
    return CheckedRun(cfg, parameters, memory, card, available, longest, placement, ends, data)


def _check_demonstrations(run: ResolvedRun) -> DataSample | None:
    """What was seen at sft.data; None where the expert writes, whose first ones are rendered."""
    cfg, renderer, positions = run.cfg, run.renderer, run.model.positions
    if cfg.sft.data is not None:
        return check_data(cfg.sft, renderer, positions)
    check_expert_data(run.demonstrations, cfg.sft, renderer, positions)
    return None


def _check_placement(cfg: RunConfig, model: ModelSize, available: int, environment: int) -> Plan:
    """The plan for the cluster at the address, or for this machine and its free memory."""
    address = address_of(cfg.cluster.address)
    if address is None:
        placement = plan_here(cfg, model, available, environment=environment)
    else:
        needs = partial(process_needs, cfg, model, environment=environment)
        placement = plan_live(cfg, address, needs)
    weight_channel(cfg, placement.gpu)
    check_root(cfg, len(placement.hosts()))
    return placement


def _check_prompts(run: ResolvedRun) -> dict[str, FirstPrompts]:
    """By variant; each prompt leaves space for an answer."""
    rollout = run.cfg.rollout
    first = {
        name: _try_prompts(run, name, environment) for name, environment in run.environments.items()
    }
    for name, prompts in first.items():
        tokens = prompts.longest
        need = tokens + rollout.answer_tokens
        if need > rollout.context_tokens:
            raise ConfigError(
                f"rollout.context_tokens={rollout.context_tokens}: too short for variant {name}, "
                f"whose first prompts have up to {tokens} tokens and answers "
                f"rollout.answer_tokens={rollout.answer_tokens}; it must be at least {need}"
            )
    return first


def _try_prompts(run: ResolvedRun, name: str, environment: Environment) -> FirstPrompts:
    try:
        prompts, memory = _first_prompts(run.cfg, name, environment)
    except EnvironmentFailure as failure:
        raise cannot_be_played(name, environment, failure) from failure
    try:
        longest = max(len(run.renderer.prompt(*prompt).token_ids) for prompt in prompts)
    except ValueError as error:
        raise ConfigError(f"{settings_key(name)}: {environment[0]}: {error}") from error
    return FirstPrompts(longest, memory, any(pictures for _, pictures in prompts))


def _first_prompts(
    cfg: RunConfig, name: str, environment: Environment
) -> tuple[list[tuple[str, list[Picture]]], int]:
    """Messages with their pictures, and the memory of the environment's process.

    An environment of others, which may hang, is played in a process.
    """
    if environment[0] in BUILT_IN:
        env = make_environment(name, environment)
        shown = [checked.reset(env, seed).observation for seed in range(SAMPLED_PROMPTS)]
        prompts = [(o["message"], [Picture.of(o["image"])] if "image" in o else []) for o in shown]
        return prompts, ENVIRONMENT_BYTES
    steps, memory = asyncio.run(_play_apart(cfg, environment))
    return [(step.message, [step.picture] if step.picture else []) for step in steps], memory


async def _play_apart(
    cfg: RunConfig, environment: Environment
) -> tuple[list[EnvironmentStep], int]:
    async with tried(*environment, trial_limits(cfg)) as env:
        first = await env.first_steps(SAMPLED_PROMPTS)
        await env.play(episodes=1, max_turns=1)  # one answer, of no use
        return first, await env.memory()
