"""Environments by their Gymnasium id: registered, checked, compared, made.

An id may be `module:id`; the module is imported first, to register the id.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from typing import Any, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from configs.load import build
from envs.base import Observation, TextEnv

BUILT_IN = {
    "cardinal/GeneralPoints-v0": "envs.general_points.env:GeneralPoints",
    "cardinal/VIRL-v0": "envs.virl.env:VIRL",
}


def register() -> None:
    """Register the built-in environments; they are imported when first made."""
    for env_id, entry_point in BUILT_IN.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point, disable_env_checker=True, order_enforce=False)


def spec(env_id: str) -> EnvSpec:
    """The registered spec; `module:id` imports the module first.

    Raises:
        ValueError: the module cannot be imported, or registers no such environment.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            _import(module)
        except MemoryError:  # whoever set the limit knows it
            raise
        except (Exception, SystemExit) as error:  # the boundary to modules of others
            raise ValueError(
                f"env.id is {env_id!r}: {module} cannot be imported: {_words(error)}"
            ) from error
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(f"env.id is {env_id!r}: {error}") from error


def _words(error: BaseException) -> str:
    """An exception in one line."""
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join(cause.split())


def _import(module: str) -> None:
    """Import a plugin; it may be a file in the current folder, whatever started this process."""
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no output of a command
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != module.partition(".")[0] or here in sys.path or "" in sys.path:
            raise
        sys.path.append(here)
        _import(module)


def env_class(env_id: str) -> type[TextEnv] | None:
    """The environment's class, None where it is no TextEnv (its keywords cannot be checked)."""
    entry_point = spec(env_id).entry_point
    try:
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # the boundary to modules of others
        raise ValueError(
            f"env.id is {env_id!r}: {entry_point} cannot be loaded: {_words(error)}"
        ) from error
    return creator if isinstance(creator, type) and issubclass(creator, TextEnv) else None


def check_settings(env_id: str, settings: dict[str, object], where: str = "env.settings") -> None:
    """Refuse keywords that the environment does not know or allow, or that contradict each other.

    An environment that is no TextEnv gets its keywords unchecked.

    Raises:
        ValueError: names the key, its value and the rule; unknown keys get the nearest name.
    """
    cls = env_class(env_id)
    if cls is not None:
        build(cls.Settings, settings, where)


def with_preset(env_id: str, settings: dict[str, object], preset: str) -> dict[str, object]:
    """The settings with the run's preset, where the environment has that keyword."""
    cls = env_class(env_id)
    known = cls is not None and "preset" in {field.name for field in fields(cls.Settings)}
    return {"preset": preset, **settings} if known else dict(settings)


def overlap(
    train_id: str, train: dict[str, object], eval_id: str, evaluation: dict[str, object]
) -> str:
    """Which questions of an evaluation its training can ask: none, some, all or unknown.

    Args:
        train_id: id of the environment that is trained in.
        train: its settings, with the preset.
        eval_id: id of the environment that is evaluated in; another one is unknown.
        evaluation: its settings, with the preset.
    """
    cls = env_class(train_id)
    if cls is None or env_class(eval_id) is not cls:
        return "unknown"
    return cls.overlap(train, evaluation)


def headline(env_id: str, settings: dict[str, object]) -> str:
    """The metric that a table leads with; success where the environment does not say."""
    cls = env_class(env_id)
    return cls.headline(settings) if cls is not None else "success"


def make(env_id: str, settings: dict[str, object]) -> TextEnv:
    """A new environment: a TextEnv without Gymnasium's wrappers, or one of text, adapted.

    Raises:
        ValueError: no such environment, settings that it refuses, or one that is not of text.
    """
    from envs.gymnasium_text import GymnasiumText

    keywords = {"max_episode_steps": spec(env_id).max_episode_steps} | cast(
        dict[str, Any], settings
    )
    # Gymnasium's own TimeLimit unpacks what a step returns before anybody has looked at it.
    env: gymnasium.Env[Observation, str] = gymnasium.make(
        env_id, disable_env_checker=True, **keywords | {"max_episode_steps": -1}
    )
    unwrapped = env.unwrapped
    if isinstance(unwrapped, TextEnv):
        return unwrapped
    return GymnasiumText(env, keywords["max_episode_steps"])
