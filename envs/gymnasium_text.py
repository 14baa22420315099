"""Plain Gymnasium environments of text, as a `TextEnv`.

Input: one whose observation is a text, or a dict with `message`, and whose action is a text.
Output: the same episodes, with `restart`, a verdict and the metrics that every episode has.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.base import EnvironmentFailure, Observation, TextEnv


class GymnasiumText(TextEnv):
    """The adapter of one environment.

    An observation is the next user message of the conversation; it begins a new prompt where it
    says so by `restart`, or shows another picture than before. Of the last step's info: `metrics`
    are kept; `success` is `info["success"]` or `info["is_success"]`, else whether the episode
    terminated with a positive reward; `first_try` whether it did at the first answer; `return` is
    the sum of the rewards. `info["message"]` is what the verifier says, reset's
    `info["question"]` what the episode asks.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env
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
        observation, info = self.env.reset(seed=seed, options=options)
        self.question = str(info.get("question", ""))
        return self._observation(observation, begins=True), info

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pass an answer on; what the environment returns is checked by `envs.checked`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._answers += 1
        won = False
        if isinstance(reward, Real):  # another one is refused
            self._return += float(reward)
            won = bool(terminated) and float(reward) > 0
        end = "terminated" if terminated else "truncated" if truncated else "continued"
        info = {"verdict": end, "message": "", **info}
        if terminated or truncated:
            info["metrics"] = self._metrics(info, won)
        return self._observation(observation), reward, terminated, truncated, info  # type: ignore[return-value]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _metrics(self, info: Mapping[str, Any], won: bool) -> dict[str, Any]:
        success = float(info.get("success", info.get("is_success", won)))
        metrics = {
            "success": success,
            "first_try": success if self._answers == 1 else 0.0,
            "return": self._return,
        }
        return metrics | dict(info.get("metrics", {}))

    def _observation(self, shown: object, begins: bool = False) -> Observation:
        if isinstance(shown, str):
            shown = {"message": shown}
        if not isinstance(shown, Mapping):
            raise EnvironmentFailure(
                f"the observation is a {type(shown).__name__}; it must be a text, or a dict with "
                "message"
            )
        picture = shown.get("image")
        new = picture is not None and not np.array_equal(
            np.asarray(picture), np.asarray(self._picture)
        )
        self._picture = picture if new else self._picture
        observation: dict[str, Any] = {"restart": int(begins or new), **shown}
        return observation  # type: ignore[return-value] # checked at the boundary
