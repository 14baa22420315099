"""The boundary to environments: what `reset` and `step` return, checked, or one sentence.

Input: an environment, of anybody. Output: plain text, numbers and uint8 pictures. Nothing is cut,
rounded or replaced; EnvironmentFailure names what is wrong, its value and the rule.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from envs.base import MAX_PIXELS, MAX_TEXT, SURROGATE, EnvironmentFailure, Observation

OBSERVATION = ("message", "restart", "image")
METRICS = ("success", "first_try")
_LARGEST = float(np.finfo(np.float32).max)  # rewards and metrics are kept as float32

P = ParamSpec("P")
R = TypeVar("R")


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
    returned = _call(env.reset, "reset", seed=seed)
    observation, _ = _parts(returned, "reset", ("observation", "info"))
    question = _text(env.question, "the question", "reset")
    return CheckedStep(_observation(observation, "reset"), question)


def step(env: Playable, answer: str) -> CheckedStep:
    """Grade an answer.

    Raises:
        EnvironmentFailure: the environment raised, or returned what it must not.
    """
    names = ("observation", "reward", "terminated", "truncated", "info")
    observation, reward, *ends, info = _parts(_call(env.step, "step", answer), "step", names)
    for name, value in zip(names[2:4], ends, strict=True):
        if not isinstance(value, bool | np.bool_):
            raise _failure("step", f"{name} is {_short(value)}; it must be true or false")
    if not isinstance(info, Mapping):
        raise _failure("step", f"info is {_short(info)}; it must be a dict")
    terminated, truncated = map(bool, ends)
    return CheckedStep(
        observation=_observation(observation, "step"),
        question=_text(env.question, "the question"),
        reward=_number(reward, "the reward"),
        terminated=terminated,
        truncated=truncated,
        message=_text(info.get("message", ""), "info's message"),
        metrics=_metrics(info.get("metrics")) if terminated or truncated else {},
    )


def failure_of(call: str, error: BaseException) -> EnvironmentFailure:
    """What an exception of an environment means for its episode."""
    kind = type(error).__name__
    try:
        said = str(error)
        if not isinstance(error, EnvironmentFailure):
            said = f"{kind}: {said}" if said else repr(error)
    except Exception:  # noqa: BLE001 - the exception's own words are a third party's code, too
        said = f"{kind}, which cannot say what it is"
    return _failure(call, said)


def _failure(call: str, cause: str) -> EnvironmentFailure:
    # An exception may quote half a character (a surrogate), which no encoding has.
    readable = cause.encode("utf-8", "backslashreplace").decode()
    return EnvironmentFailure(f"environment {call}: {' '.join(readable.split())[:1000]}")


def _call(call: Callable[P, R], name: str, *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except MemoryError:  # whoever set the limit knows it
        raise
    except (Exception, SystemExit) as error:  # the boundary to environments of third parties
        raise failure_of(name, error) from error


def _parts(returned: object, call: str, names: tuple[str, ...]) -> tuple[object, ...]:
    if not isinstance(returned, tuple) or len(returned) != len(names):
        raise _failure(call, f"returned {_short(returned)}; it must be ({', '.join(names)})")
    return returned


def _observation(value: object, call: str) -> Observation:
    if not isinstance(value, Mapping):
        raise _failure(call, f"the observation is {_short(value)}; it must be a dict with message")
    for key in value:
        if key not in OBSERVATION:
            raise _failure(
                call, f"the observation has the key {key!r}; it may have {', '.join(OBSERVATION)}"
            )
    restart = value.get("restart")
    if not isinstance(restart, int | np.integer | np.bool_) or int(restart) not in (0, 1):
        raise _failure(call, f"the observation's restart is {_short(restart)}; it must be 0 or 1")
    message = _text(value.get("message"), "the observation's message", call)
    observation: Observation = {"message": message, "restart": int(restart)}
    if "image" in value:
        observation["image"] = _pixels(value["image"], call)
    return observation


def _text(value: object, what: str, call: str = "step") -> str:
    if not isinstance(value, str):
        raise _failure(call, f"{what} is {_short(value)}; it must be a text")
    if len(value) > MAX_TEXT:
        raise _failure(
            call,
            f"{what} has {len(value)} characters; it may have {MAX_TEXT}, and none are cut off",
        )
    if SURROGATE.search(value):
        raise _failure(call, f"{what} holds half a character (a surrogate), which no encoding has")
    return str(value)


def _pixels(value: object, call: str) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of an array, or of a Pillow image whose pixels those are."""
    pixels = value
    if "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image):
        if value.mode not in ("RGB", "L"):
            raise _failure(call, f"the picture is of Pillow's mode {value.mode}; convert it to RGB")
        pixels = np.asarray(value.convert("RGB"))
    if not isinstance(pixels, np.ndarray):
        raise _failure(call, f"the picture is {_short(value)}; it must be an array or Pillow image")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise _failure(
            call,
            f"the picture is {pixels.dtype} {list(pixels.shape)}; "
            "it must be uint8 [height, width, 3]",
        )
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise _failure(
            call, f"the picture has {list(pixels.shape[:2])} pixels; it may have {MAX_PIXELS}"
        )
    return pixels


def _metrics(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping) or any(name not in value for name in METRICS):
        raise _failure(
            "step",
            f"the last info's metrics are {_short(value)}; they must hold {' and '.join(METRICS)}",
        )
    return {_text(k, "a metric's name"): _number(v, f"the metric {k!r}") for k, v in value.items()}


def _number(value: object, what: str) -> float:
    rule = "it must be a finite number"
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise _failure("step", f"{what} is {_short(value)}; {rule}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= _LARGEST:  # NaN is not, either
        raise _failure("step", f"{what} is {number:g}; {rule}")
    return number


def _short(value: object) -> str:
    """A value in an error: its type, and as much of it as a line holds."""
    text = repr(value) if isinstance(value, bool | int | float | str | None) else "…"
    shown = f"the {type(value).__name__} {text[:60]}" if value is not None else "None"
    return shown.removesuffix(" …")
