"""Plain Gymnasium environments of text, as a `TextEnv`.

Input: one whose observation is a text, or a dict with `message`, and whose action is a text.
Output: the same episodes, with `restart`, a verdict and the metrics that every episode has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.base import EnvironmentFailure, Observation, TextEnv
from envs.checked import number, reset_parts, short, step_parts


class GymnasiumText(TextEnv):
    """The adapter of one environment, whose episodes end after `max_steps` answers if not before.

    An observation is the next user message of the conversation; it begins a new prompt where it
    says so by `restart`, or shows another picture than before. Of the last step's info: `metrics`
    are kept; `success` is `info["success"]` or `info["is_success"]`, else whether the episode
    terminated with a positive reward; `first_try` whether it did at the first answer; `return` is
    the sum of the rewards. `info["message"]` is what the verifier says, reset's
    `info["question"]` what the episode asks.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], max_steps: int | None = None) -> None:
        self.env, self._max_steps = env, max_steps
        self.spec = env.spec
        shown = getattr(env, "observation_space", None)
        entries = shown.spaces if isinstance(shown, spaces.Dict) else {"message": shown}
        self._require_text("observations", entries.get("message", shown), shown)
        action = getattr(env, "action_space", None)
        self._require_text("actions", action, action)
        self.make_spaces(self._image_shape(entries.get("image")))

    def _image_shape(self, space: object) -> tuple[int, int, int] | None:
        if space is None:
            return None
        if isinstance(space, spaces.Box) and len(space.shape) == 3:
            height, width, channels = space.shape
            return height, width, channels
        raise ValueError(f"{self._name()}: its image is {space}; it must be a Box [h, w, 3]")

    def _require_text(self, what: str, space: object, shown: object) -> None:
        if space is None or isinstance(space, spaces.Text):  # None: not declared
            return
        raise ValueError(
            f"{self._name()}: its {what} are {shown}; they must be texts: gymnasium.spaces.Text, "
            "or for observations a Dict with such a message"
        )

    def _name(self) -> str:
        return self.spec.id if self.spec else type(self.env.unwrapped).__name__

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._answers, self._return = 0, 0.0
        self._picture: object = None
        observation, info = reset_parts(self.env.reset(seed=seed, options=options))
        self.question = cast(str, info.get("question", ""))  # checked at the boundary
        return self._observation(observation, begins=True), dict(info)

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pass an answer on.

        Raises:
            EnvironmentFailure: what the environment returns is no step.
        """
        observation, reward, terminated, truncated, told = step_parts(self.env.step(action))
        gained = number(reward, "the reward")
        self._answers += 1
        self._return += gained
        truncated = truncated or (self._answers == self._max_steps and not terminated)
        end = "terminated" if terminated else "truncated" if truncated else "continued"
        info = {"verdict": end, "message": "", **told}
        if terminated or truncated:
            info["metrics"] = self._metrics(info, won=terminated and gained > 0)
        return self._observation(observation), gained, terminated, truncated, info

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _metrics(self, info: Mapping[str, object], won: bool) -> dict[str, object]:
        own = info.get("metrics", {})
        if not isinstance(own, Mapping):
            raise EnvironmentFailure(f"info's metrics are {short(own)}; they must be a dict")
        success = info.get("success", info.get("is_success", won))
        if isinstance(success, bool | np.bool_):
            success = float(success)
        first = success if self._answers == 1 else 0.0
        return {"success": success, "first_try": first, "return": self._return} | dict(own)

    def _observation(self, shown: object, begins: bool = False) -> Observation:
        if isinstance(shown, str):
            shown = {"message": shown}
        if not isinstance(shown, Mapping):
            raise EnvironmentFailure(
                f"the observation is {short(shown)}; it must be a text, or a dict with message"
            )
        picture = shown.get("image")
        new = picture is not None and not np.array_equal(
            np.asarray(picture), np.asarray(self._picture)
        )
        self._picture = picture if new else self._picture
        observation: dict[str, Any] = {"restart": int(begins or new), **shown}
        return observation  # type: ignore[return-value] # checked at the boundary
