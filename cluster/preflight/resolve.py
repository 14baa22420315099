"""What a configuration names, found or created once: its environments, its renderer, its policy.

Input: a configuration. Output: a `ResolvedRun` for the checks, or one sentence that says which
part is missing or invalid. A tiny model's tokenizer is trained as the run would train it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.environments import TRAINING, Environment, checked_environments, settings_key
from cluster.placement.memory import policy_size, tiny_size, tiny_vision_size
from configs.load import ConfigError
from configs.model_folder import ModelSize, check_model, check_tokenizer, find_model, one_line
from configs.schema import RunConfig
from envs.base import TextEnv, offers, shows_pictures
from envs.registry import make
from rollout.processor import PictureProcessor
from rollout.renderer import Renderer


@dataclass(frozen=True)
class ResolvedRun:
    """A run without its processes.

    environments: by name, as `cluster.environments.environments`.
    renderer: of its model.
    model: sizes of its policy.
    """

    cfg: RunConfig
    environments: dict[str, Environment]
    renderer: Renderer
    model: ModelSize


def resolve(cfg: RunConfig) -> ResolvedRun:
    """Find the parts of a run.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
    """
    environments = checked_environments(cfg)
    if cfg.sft.steps and cfg.sft.data is None:
        _require_demonstrations(cfg, environments[TRAINING])
    folder_size = check_model(cfg.model.path) if cfg.model.path else None
    if cfg.model.path:
        check_tokenizer(cfg.model.path)
        renderer = _load_renderer(cfg.model.path)
    else:
        renderer = _tiny_renderer(cfg, environments[TRAINING])
    size = folder_size or _tiny_size(cfg, renderer)
    return ResolvedRun(cfg, environments, renderer, policy_size(cfg, size, len(renderer.tokenizer)))


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


def _require_demonstrations(cfg: RunConfig, environment: Environment) -> None:
    if not offers(make_environment(TRAINING, environment), "demonstrations"):
        raise ConfigError(
            f"sft.steps={cfg.sft.steps}: {cfg.env.id} has no demonstrations of its own "
            "(TextEnv.demonstrations); name some by sft.data, or begin with PPO: sft.steps=0"
        )


def _load_renderer(path: str) -> Renderer:
    try:
        return Renderer.load(str(find_model(path)))
    except Exception as error:  # the boundary to tokenizers, which raise all kinds
        raise ConfigError(f"model.path={path}: {one_line(error)}") from error


def _tiny_renderer(cfg: RunConfig, environment: Environment) -> Renderer:
    """With a tokenizer of the training environment's text, and a processor if it has pictures."""
    from learner.tiny_tokenizer import train_tokenizer

    env = make_environment(TRAINING, environment)
    if not offers(env, "corpus"):
        raise ConfigError(
            f"env.id={cfg.env.id}: has no corpus (TextEnv.corpus) to make a tiny model of; "
            "set model.path"
        )
    vision = shows_pictures(env)
    tokenizer = train_tokenizer(env.corpus(), vision)
    processor = None
    if vision:
        from learner.init_model import tiny_processor

        processor = PictureProcessor(tiny_processor(tokenizer, cfg.model.init.vision))
    return Renderer(tokenizer, [tokenizer.eos_token_id], processor)
