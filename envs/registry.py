"""Which environments there are, how one is made, and whether its settings are right.

In: a Gymnasium id (`module:id` imports a plugin first) and settings. Out: an environment.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from envs.base import TextEnv

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
    """The registered spec.

    Raises:
        ValueError: no such environment, or no such module in `module:id`.
    """
    try:
        return gymnasium.spec(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"env.id is {env_id!r}: {error}") from error


def env_class(env_id: str) -> type[TextEnv] | None:
    """The environment's class, None where it is no TextEnv (its keywords cannot be checked)."""
    entry_point = spec(env_id).entry_point
    try:
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"env.id is {env_id!r}: {entry_point} cannot be loaded: {error}"
        ) from error
    return creator if isinstance(creator, type) and issubclass(creator, TextEnv) else None


def check_settings(env_id: str, settings: dict[str, Any], where: str = "env.settings") -> None:
    """Refuse keywords that the environment does not know or allow.

    Raises:
        ValueError: names the key, its value and the rule; unknown keys get the nearest name.
    """
    from configs.load import build

    cls = env_class(env_id)
    if cls is not None:
        build(cls.Settings, settings, where)


def make(env_id: str, settings: dict[str, Any]) -> TextEnv:
    """A new environment, without Gymnasium's wrappers where it is a TextEnv."""
    env = gymnasium.make(env_id, disable_env_checker=True, **settings)
    unwrapped = env.unwrapped
    return unwrapped if isinstance(unwrapped, TextEnv) else env  # type: ignore[return-value]
