"""The vocabulary of environments: observations, messages, demonstrations, the base class.

Everything is plain Gymnasium: an observation is the next user message, an action is an answer.
The docstring of `TextEnv` has the loop that calls an environment.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypedDict

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

MAX_TEXT = 32_768
MAX_PIXELS = 89_478_485  # of a picture; from here on Pillow warns of a decompression bomb
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no encoding holds it


class EnvironmentFailure(RuntimeError):
    """The environment broke (a missing picture, a bug): the episode is `failed`, never graded."""


class NotOffered(ValueError):
    """An environment has no expert, demonstrations or corpus, which not every use needs."""


class Observation(TypedDict, total=False):
    """The next user message.

    message: the text of the user message.
    restart: 1 when the message begins a new prompt (earlier turns are forgotten), 0 when it
        continues the conversation.
    image: uint8 [height, width, 3], vision only: the picture of the current trial. It belongs
        to the message with restart = 1. Later observations of the trial repeat it, so that each
        shows the whole state.
    """

    message: str
    restart: int
    image: NDArray[np.uint8]


class Message(TypedDict):
    """One message of a demonstration; `train` says whether its tokens carry loss."""

    role: str
    content: str
    train: bool


@dataclass(frozen=True)
class Demonstration:
    """One conversation to imitate; images belong to the first user message."""

    messages: tuple[Message, ...]
    images: tuple[NDArray[np.uint8], ...]
    seed: int


@dataclass(frozen=True)
class Baseline:
    """A policy without a model: what it scores is the floor under a model's score.

    description: what it reads of an episode and what it answers.
    answer: from an observation to the text of an answer.
    """

    name: str
    description: str
    answer: Callable[[Observation], str]


class UnicodeText(spaces.Text):
    """Any text of at most MAX_TEXT characters that UTF-8 can hold; samples are ASCII."""

    def __init__(self) -> None:
        super().__init__(MAX_TEXT, min_length=0, charset=string.printable)

    def contains(self, x: object) -> bool:
        """Whether x is such a text."""
        return isinstance(x, str) and len(x) <= MAX_TEXT and not SURROGATE.search(x)


class TextEnv(gymnasium.Env[Observation, str]):
    """An environment whose observations are user messages and whose actions are answers.

    The loop that calls it::

        observation, info = env.reset(seed=seed)
        while True:
            answer = policy(observation)          # any text at all
            observation, reward, terminated, truncated, info = env.step(answer)
            if terminated or truncated:
                break
        info["metrics"]                           # float by name; "success" and "first_try" always

    `reset` sets `question`. `step` returns in info: `verdict` (a short name from the
    environment's own list), `message` (what the verifier says about the answer, for people and
    logs) and, on the last step, `metrics`. The observation of the last step carries the message
    that would have come next.
    A subclass sets `Settings`, a frozen dataclass made of `configs.leaf.leaf`, takes exactly
    its fields as keywords, and raises EnvironmentFailure when something of its own breaks.
    Of the methods below none is required: demonstrations of its own serve SFT, its corpus a tiny
    model; see `offers`.
    """

    Settings: ClassVar[type]
    question: str = ""
    """Set by `reset`: the same for two episodes that ask the same, whose outcomes are therefore
    not independent. Empty: every seed asks something of its own."""
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it so

    def make_spaces(self, image_shape: tuple[int, int, int] | None) -> None:
        """Set both spaces; image_shape is [height, width, 3] or None for language."""
        entries: dict[str, spaces.Space[Any]] = {
            "message": UnicodeText(),
            "restart": spaces.Discrete(2),
        }
        if image_shape is not None:
            entries["image"] = spaces.Box(0, 255, image_shape, np.uint8)
        self.observation_space = spaces.Dict(entries)  # type: ignore[assignment]
        self.action_space = UnicodeText()

    @classmethod
    def overlap(cls, train: dict[str, object], evaluation: dict[str, object]) -> str:
        """Which questions of an evaluation can have been trained on.

        Args:
            train: keywords of the environment that is trained in.
            evaluation: keywords of the one that is evaluated in.

        Returns:
            "none", "some", "all", or "unknown" where the environment cannot say.
        """
        return "unknown"

    def expert(self) -> str:
        """The answer that earns full marks in the current state; raises NotOffered."""
        raise self._not_offered("expert")

    def overview(self) -> NDArray[np.uint8] | None:
        """A picture of the whole episode for people, such as a map: uint8 [h, w, 3], or None."""
        return None

    @classmethod
    def headline(cls, settings: Mapping[str, object]) -> str:
        """The metric that a table leads with under these settings.

        `first_try` wherever a question may be answered again: a second answer knows that the
        first was wrong. `success` where one answer is graded, which `verify_iter` says.
        """
        default = {field.name: field.default for field in fields(cls.Settings)}
        tries = settings.get("verify_iter", default.get("verify_iter"))
        return "success" if tries == 1 else "first_try"

    def baselines(self, seed: int, trained: Sequence[Mapping[str, object]] = ()) -> list[Baseline]:
        """Policies without a model for this environment.

        Args:
            seed: of what they draw.
            trained: keywords of each environment that the policy they are compared with was
                trained in, of this id; none where that is not known.
        """
        return []

    def demonstrations(self, n: int, seed: int) -> Iterator[Demonstration]:
        """Yield n demonstrations; the same n and seed yield the same ones; raises NotOffered."""
        raise self._not_offered("demonstrations")

    def corpus(self) -> Iterator[str]:
        """Yield texts that hold every word and symbol an episode can show or need, any variant.

        Raises NotOffered.
        """
        raise self._not_offered("corpus")

    def _not_offered(self, what: str) -> NotOffered:
        name = self.spec.id if self.spec else type(self).__name__
        return NotOffered(f"{name} has no {what}: it does not override TextEnv.{what}")


def offers(env: TextEnv, name: str) -> bool:
    """Whether an environment has what is optional: expert, demonstrations, corpus or baselines."""
    return getattr(type(env), name) is not getattr(TextEnv, name)


def shows_pictures(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment's observations hold a picture."""
    space = env.observation_space
    return isinstance(space, spaces.Dict) and "image" in space.spaces
