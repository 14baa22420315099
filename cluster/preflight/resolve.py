"""What a configuration names, found or created once: its environments, its renderer, its policy.

Input: a configuration. Output: a `ResolvedRun` for the checks, or one sentence that says which
part is missing or invalid. A tiny model's tokenizer is trained as the run would train it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.environments import TRAINING, Environment, checked_environments, settings_key
from cluster.placement.memory import policy_size, tiny_size, tiny_vision_size
from cluster.preflight.demonstrations import EXPERTS
from configs.load import ConfigError
from configs.model_folder import (
    ModelSize,
    check_model,
    check_tokenizer,
    find_model,
    one_line,
    reason,
)
from configs.schema import RunConfig
from envs.base import Demonstration, EnvironmentFailure, TextEnv
from envs.registry import BUILT_IN, make
from rollout.environment_inspection import Inspection, inspect
from rollout.environment_trial import trial_limits, tried
from rollout.processor import PictureProcessor
from rollout.renderer import Renderer


@dataclass(frozen=True)
class ResolvedRun:
    """A run without its processes.

    environments: by name, as `cluster.environments.environments`.
    renderer: of its model.
    model: sizes of its policy.
    demonstrations: the first of the environment's own, where SFT trains on these.
    """

    cfg: RunConfig
    environments: dict[str, Environment]
    renderer: Renderer
    model: ModelSize
    demonstrations: Sequence[Demonstration] = ()


def resolve(cfg: RunConfig) -> ResolvedRun:
    """Find the parts of a run.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
    """
    environments = checked_environments(cfg)
    seen = _inspect(cfg, environments[TRAINING])
    folder_size = check_model(cfg.model.path) if cfg.model.path else None
    if cfg.model.path:
        check_tokenizer(cfg.model.path)
        renderer = _load_renderer(cfg.model.path)
    else:
        renderer = _tiny_renderer(cfg, seen)
    size = folder_size or _tiny_size(cfg, renderer)
    policy = policy_size(cfg, size, renderer.vocabulary)
    return ResolvedRun(cfg, environments, renderer, policy, seen.demonstrations)


def cannot_be_played(
    name: str, environment: Environment, failure: EnvironmentFailure
) -> ConfigError:
    """The refusal of a run whose environment of this name fails."""
    where = f"{settings_key(name)}: {environment[0]}"
    return ConfigError(f"{where} cannot be played: {one_line(failure)}")


def _tiny_size(cfg: RunConfig, renderer: Renderer) -> ModelSize:
    if renderer.processor is not None:
        return tiny_vision_size(cfg, renderer.tokenizer)
    return tiny_size(cfg, len(renderer.tokenizer))


def make_environment(name: str, environment: Environment) -> TextEnv:
    """One of a run's environments, by its name.

    Raises:
        ConfigError: it cannot be made.
    """
    env_id, settings = environment
    try:
        return make(env_id, settings)
    except Exception as error:  # the boundary to environments, third-party ones too
        raise ConfigError(
            f"{settings_key(name)}: {env_id} cannot be made: {one_line(error)}"
        ) from error


def _inspect(cfg: RunConfig, environment: Environment) -> Inspection:
    """What the run needs of the training environment: a corpus, demonstrations, or neither."""
    teaches = cfg.sft.steps > 0 and cfg.sft.data is None
    first = min(EXPERTS, cfg.sft.demonstrations) if teaches else 0
    corpus = cfg.model.path is None
    if not (first or corpus):
        return Inspection(frozenset())
    try:
        if environment[0] in BUILT_IN:
            env = make_environment(TRAINING, environment)
            seen = inspect(env, corpus, first, cfg.seed)
        else:  # it may hang
            seen = asyncio.run(_inspect_apart(cfg, environment, corpus, first))
    except EnvironmentFailure as failure:
        raise cannot_be_played(TRAINING, environment, failure) from failure
    if teaches and "demonstrations" not in seen.offered:
        raise ConfigError(
            f"sft.steps={cfg.sft.steps}: {cfg.env.id} has no demonstrations of its own "
            "(TextEnv.demonstrations); name some by sft.data, or begin with PPO: sft.steps=0"
        )
    return seen


async def _inspect_apart(
    cfg: RunConfig, environment: Environment, corpus: bool, demonstrations: int
) -> Inspection:
    async with tried(*environment, trial_limits(cfg)) as env:
        return await env.inspect(corpus, demonstrations, cfg.seed)


def _load_renderer(path: str) -> Renderer:
    try:
        return Renderer.load(str(find_model(path)))
    except Exception as error:  # the boundary to tokenizers, which raise all kinds
        raise ConfigError(f"model.path={path}: {reason(error)}") from error


def _tiny_renderer(cfg: RunConfig, seen: Inspection) -> Renderer:
    """With a tokenizer of the training environment's text, and a processor if it has pictures."""
    from learner.tiny_tokenizer import train_tokenizer

    if "corpus" not in seen.offered:
        raise ConfigError(
            f"env.id={cfg.env.id}: has no corpus (TextEnv.corpus) to make a tiny model of; "
            "set model.path"
        )
    tokenizer = train_tokenizer(iter(seen.corpus), seen.pictures)
    processor = None
    if seen.pictures:
        from learner.init_model import tiny_processor

        processor = PictureProcessor(tiny_processor(tokenizer, cfg.model.init.vision))
    return Renderer(tokenizer, [tokenizer.eos_token_id], processor)
