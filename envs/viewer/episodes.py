"""Episodes to look at: an environment in, what was shown, answered and said out.

The answers are the expert's; every fourth is a slip, so that verdicts are seen. Knows neither
HTML nor pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.base import TextEnv

SLIP_EVERY = 4  # one answer in so many is a slip
MOST_TURNS = 500  # a bound for environments that would not end
OPEN = re.compile(r"\S+:\s*$")
OTHER_SIGN = {"+": "-", "-": "+", "*": "+", "/": "*"}
FIELD = re.compile(r'^"([^"]*)": *(.*?),?$')
SIGN = re.compile(r"(?<=[\d)])[ ]*([-+*/])[ ]*(?=[\d(])")


@dataclass(frozen=True)
class Answer:
    """One graded answer.

    by: who gave it: `expert`, or which slip it is. total: the running sum of rewards.
    said: what the verifier says of it. heard: the user message that follows in the same prompt.
    """

    text: str
    by: str
    verdict: str
    reward: float
    total: float
    said: str
    heard: str


@dataclass(frozen=True)
class Trial:
    """One prompt with its picture (uint8 [height, width, 3]) and the answers to it."""

    prompt: str
    image: NDArray[np.uint8] | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Episode:
    """One episode: `facts` is what the environment tells of it, `end` how it ended."""

    seed: int
    facts: dict[str, str]
    trials: tuple[Trial, ...]
    end: str
    metrics: dict[str, float]
    overview: NDArray[np.uint8] | None

    @property
    def told(self) -> str:
        """The facts in a line."""
        return " · ".join(f"{name} {value}" for name, value in self.facts.items())

    @property
    def total(self) -> float:
        """Sum of all rewards."""
        return self.trials[-1].answers[-1].total


class Answers:
    """The expert with slips: an earlier answer, a changed sign, an answer cut short, in turn."""

    def __init__(self) -> None:
        self.asked = self.slips = 0
        self.earlier: list[str] = []

    def give(self, right: str) -> tuple[str, str]:
        """The next answer and who gave it, where `right` is the expert's."""
        self.asked += 1
        if self.asked % SLIP_EVERY:
            self.earlier.append(right)
            return right, "expert"
        self.slips += 1
        return self._slip(right)

    def _slip(self, right: str) -> tuple[str, str]:
        signs = list(SIGN.finditer(right))
        if self.slips % 3 == 2 and signs:
            at = signs[-1].start(1)
            return right[:at] + OTHER_SIGN[right[at]] + right[at + 1 :], "a changed sign"
        others = [text for text in self.earlier if text != right]
        if self.slips % 3 == 0 or not others:
            return right[: len(right) // 2], "cut short"
        return others[-1], "an earlier answer"


def play_episode(env: TextEnv, seed: int, answers: Answers) -> Episode:
    """Play one episode; raises EnvironmentFailure as the environment does."""
    shown, info = env.reset(seed=seed)
    facts, overview = _facts(info), env.overview()
    trials: list[Trial] = []
    given: list[Answer] = []
    prompt, total, ended, end = shown, 0.0, False, "stopped"
    for _ in range(MOST_TURNS):
        text, by = answers.give(env.expert())
        shown, reward, terminated, truncated, info = env.step(text)
        total += float(reward)
        ended = terminated or truncated
        restart = bool(shown["restart"]) and not ended
        heard = "" if restart or ended else shown["message"]
        said = str(info.get("message", ""))
        given.append(Answer(text, by, str(info["verdict"]), float(reward), total, said, heard))
        if restart or ended:
            trials.append(Trial(prompt["message"], prompt.get("image"), tuple(given)))
            prompt, given = shown, []
        if ended:
            end = "terminated" if terminated else "truncated"
            break
    if given:
        trials.append(Trial(prompt["message"], prompt.get("image"), tuple(given)))
    return Episode(seed, facts, tuple(trials), end, dict(info.get("metrics", {})), overview)


def _facts(info: dict[str, Any]) -> dict[str, str]:
    """What `reset` tells in words: its texts and sequences."""
    facts = {}
    for name, value in info.items():
        if isinstance(value, str):
            facts[name] = value
        elif isinstance(value, list | tuple):
            facts[name] = " ".join(map(str, value))
    return facts


def readable(answer: str) -> list[str]:
    """An answer's lines without the marks of JSON, fields as `name: value`."""
    lines = [line.strip() for line in answer.splitlines()]
    return [FIELD.sub(r"\1: \2", line) for line in lines if line.strip("{}, ")]


def common_lines(episodes: Iterable[Episode]) -> set[str]:
    """The lines that every prompt holds."""
    prompts = [set(t.prompt.splitlines()) for e in episodes for t in e.trials]
    return set.intersection(*prompts) if prompts else set()


def new_lines(prompt: str, known: set[str]) -> list[str]:
    """The prompt's lines that are not known yet, without blank ones and open ones as `A_3:`."""
    lines = [line for line in prompt.splitlines() if line not in known]
    return [line for line in lines if line.strip() and not OPEN.match(line)]


def one_trial_each(episodes: Iterable[Episode]) -> bool:
    """Whether each episode has one prompt only, so that they can stand side by side."""
    return all(len(episode.trials) == 1 for episode in episodes)
