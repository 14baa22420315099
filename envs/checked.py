"""The boundary to environments: what `reset` and `step` return, checked, or one sentence.

Input: an environment, of anybody. Output: plain text, numbers and uint8 pictures. Nothing is cut,
rounded or replaced; EnvironmentFailure names what is wrong, its value and the rule.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.base import MAX_PIXELS, MAX_TEXT, SURROGATE, EnvironmentFailure, Observation

OBSERVATION = ("message", "restart", "image")
METRICS = ("success", "first_try")  # of every episode: 0 or 1
SHARES = ("per_step_accuracy", "recognition", "recognition_all")  # shown in per cent
_LARGEST = float(np.finfo(np.float32).max)  # rewards and metrics are kept as float32


class Playable(Protocol):
    """The calls of an environment that an episode makes; see `envs.base.TextEnv`."""

    @property
    def question(self) -> str:
        """What the episode asks."""

    def reset(self, *, seed: int) -> object:
        """Begin an episode."""

    def step(self, action: str) -> object:
        """Grade an answer."""


class CheckedStep(NamedTuple):
    """What one call returned; of `reset` only observation and question.

    question: what the episode asks, "" where it does not say.
    message: of the verifier about the answer.
    metrics: of the episode, on its last step.
    """

    observation: Observation
    question: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    message: str = ""
    metrics: Mapping[str, float] = {}


def reset(env: Playable, seed: int) -> CheckedStep:
    """Begin an episode.

    Raises:
        EnvironmentFailure: the environment raised, or returned what it must not.
    """
    with boundary("reset"):
        observation, _ = reset_parts(env.reset(seed=seed))
        return CheckedStep(_observation(observation), _text(env.question, "the question"))


def step(env: Playable, answer: str) -> CheckedStep:
    """Grade an answer.

    Raises:
        EnvironmentFailure: the environment raised, or returned what it must not.
    """
    with boundary("step"):
        observation, reward, terminated, truncated, info = step_parts(env.step(answer))
        return CheckedStep(
            observation=_observation(observation),
            question=_text(env.question, "the question"),
            reward=number(reward, "the reward"),
            terminated=terminated,
            truncated=truncated,
            message=_text(info.get("message", ""), "info's message"),
            metrics=_metrics(info.get("metrics")) if terminated or truncated else {},
        )


def reset_parts(returned: object) -> tuple[object, Mapping[str, object]]:
    """Observation and info of what `reset` returned; raises EnvironmentFailure."""
    observation, info = _parts(returned, ("observation", "info"))
    return observation, _info(info)


def step_parts(returned: object) -> tuple[object, object, bool, bool, Mapping[str, object]]:
    """Observation, reward, terminated, truncated and info of what `step` returned.

    Raises:
        EnvironmentFailure: there are other parts, or their types are others.
    """
    names = ("observation", "reward", "terminated", "truncated", "info")
    observation, reward, *ends, info = _parts(returned, names)
    for name, value in zip(names[2:4], ends, strict=True):
        if not isinstance(value, bool | np.bool_):
            raise EnvironmentFailure(f"{name} is {short(value)}; it must be true or false")
    terminated, truncated = map(bool, ends)
    return observation, reward, terminated, truncated, _info(info)


@contextmanager
def boundary(call: str) -> Iterator[None]:
    """Whatever is raised within is an EnvironmentFailure that names the call."""
    try:
        yield
    except MemoryError:  # whoever set the limit knows it
        raise
    except (Exception, SystemExit) as error:  # the boundary to environments of third parties
        raise failure_of(call, error) from error


def failure_of(call: str, error: BaseException) -> EnvironmentFailure:
    """What an exception of an environment means for its episode."""
    kind = type(error).__name__
    try:
        said = str(error)
        if not isinstance(error, EnvironmentFailure):
            said = f"{kind}: {said}" if said else repr(error)
    except Exception:  # noqa: BLE001 - the exception's own words are a third party's code, too
        said = f"{kind}, which cannot say what it is"
    # An exception may quote half a character (a surrogate), which no encoding has.
    readable = said.encode("utf-8", "backslashreplace").decode()
    return EnvironmentFailure(f"environment {call}: {' '.join(readable.split())[:1000]}")


def _parts(returned: object, names: tuple[str, ...]) -> tuple[object, ...]:
    if not isinstance(returned, tuple) or len(returned) != len(names):
        parts = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else short(returned)
        raise EnvironmentFailure(f"returned {parts}; it must be ({', '.join(names)})")
    return returned


def _info(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise EnvironmentFailure(f"info is {short(value)}; it must be a dict")
    return value


def _observation(value: object) -> Observation:
    if not isinstance(value, Mapping):
        raise EnvironmentFailure(
            f"the observation is {short(value)}; it must be a dict with message"
        )
    for key in value:
        if key not in OBSERVATION:
            raise EnvironmentFailure(
                f"the observation has the key {key!r}; it may have {', '.join(OBSERVATION)}"
            )
    restart = value.get("restart")
    if not isinstance(restart, int | np.integer | np.bool_) or int(restart) not in (0, 1):
        raise EnvironmentFailure(
            f"the observation's restart is {short(restart)}; it must be 0 or 1"
        )
    message = _text(value.get("message"), "the observation's message")
    observation: Observation = {"message": message, "restart": int(restart)}
    if "image" in value:
        observation["image"] = pixels_of(value["image"])
    return observation


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise EnvironmentFailure(f"{what} is {short(value)}; it must be a text")
    if len(value) > MAX_TEXT:
        raise EnvironmentFailure(
            f"{what} has {len(value)} characters; it may have {MAX_TEXT}, and none are cut off",
        )
    if SURROGATE.search(value):
        raise EnvironmentFailure(
            f"{what} holds half a character (a surrogate), which no encoding has"
        )
    return str(value)


def pixels_of(value: object) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of an array, or of a Pillow image whose pixels those are."""
    pixels = value
    if "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image):
        if value.mode not in ("RGB", "L"):
            raise EnvironmentFailure(
                f"the picture is of Pillow's mode {value.mode}; convert it to RGB"
            )
        pixels = np.asarray(value.convert("RGB"))
    if not isinstance(pixels, np.ndarray):
        raise EnvironmentFailure(
            f"the picture is {short(value)}; it must be an array or Pillow image"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise EnvironmentFailure(
            f"the picture is {pixels.dtype} {list(pixels.shape)}; "
            "it must be uint8 [height, width, 3]",
        )
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise EnvironmentFailure(
            f"the picture has {list(pixels.shape[:2])} pixels; it may have {MAX_PIXELS}"
        )
    return pixels


def _metrics(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping) or any(name not in value for name in METRICS):
        raise EnvironmentFailure(
            f"the last info's metrics are {short(value)}; they must hold {' and '.join(METRICS)}",
        )
    return {_text(k, "a metric's name"): _metric(k, v) for k, v in value.items()}


def _metric(name: str, value: object) -> float:
    what = f"the metric {name!r}"
    figure = number(float(value) if isinstance(value, bool | np.bool_) else value, what)
    if name in METRICS and figure not in (0.0, 1.0):
        raise EnvironmentFailure(f"{what} is {figure:g}; it must be 0 or 1")
    if name in SHARES and not 0.0 <= figure <= 1.0:
        raise EnvironmentFailure(f"{what} is {figure:g}; it must be from 0 to 1")
    return figure


def number(value: object, what: str) -> float:
    """A finite number as a float; raises EnvironmentFailure."""
    rule = "it must be a finite number"
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise EnvironmentFailure(f"{what} is {short(value)}; {rule}")
    try:
        finite = float(value)
    except OverflowError:
        finite = math.inf
    if not abs(finite) <= _LARGEST:  # NaN is not, either
        raise EnvironmentFailure(f"{what} is {finite:g}; {rule}")
    return finite


def short(value: object) -> str:
    """A value in an error: its type, and as much of it as a line holds."""
    text = repr(value) if isinstance(value, bool | int | float | str | None) else "…"
    shown = f"the {type(value).__name__} {text[:60]}" if value is not None else "None"
    return shown.removesuffix(" …")
