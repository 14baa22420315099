"""Records the episodes of a gallery: prompts, answers and what the verifier says of them.

The answers are the expert's; every fourth is a slip, so that other verdicts are shown too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
class GradedAnswer:
    """One graded answer.

    author: `expert`, or the kind of slip.
    total: sum of the episode's rewards up to this one.
    message: of the verifier about the answer.
    next_message: the user message that follows in the same prompt; "" at its end.
    """

    text: str
    author: str
    verdict: str
    reward: float
    total: float
    message: str
    next_message: str


@dataclass(frozen=True)
class PromptRecord:
    """One prompt, its picture (uint8 [height, width, 3]) and the answers to it, in order."""

    text: str
    image: NDArray[np.uint8] | None
    answers: tuple[GradedAnswer, ...]


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode.

    facts: what the environment says of the episode at its reset, by name.
    end: terminated, truncated, or stopped after MOST_TURNS.
    """

    seed: int
    facts: dict[str, str]
    prompts: tuple[PromptRecord, ...]
    end: str
    metrics: dict[str, float]
    overview: NDArray[np.uint8] | None

    @property
    def facts_line(self) -> str:
        """The facts in one line."""
        return " · ".join(f"{name} {value}" for name, value in self.facts.items())

    @property
    def total(self) -> float:
        """Sum of all rewards."""
        return self.prompts[-1].answers[-1].total


class ExpertWithSlips:
    """The expert's answers, every SLIP_EVERY-th a slip.

    The slips are, in rotation: an earlier answer, a changed sign, an answer cut short.
    """

    def __init__(self) -> None:
        self.answers = self.slips = 0
        self.earlier: list[str] = []

    def answer(self, right: str) -> tuple[str, str]:
        """The next answer and its author, where `right` is the expert's."""
        self.answers += 1
        if self.answers % SLIP_EVERY:
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


def record_episode(env: TextEnv, seed: int, policy: ExpertWithSlips) -> EpisodeRecord:
    """Run one episode; raises EnvironmentFailure as the environment does."""
    observation, info = env.reset(seed=seed)
    facts, overview = _facts(info), env.overview()
    prompts: list[PromptRecord] = []
    answers: list[GradedAnswer] = []
    prompt, total, ended, end = observation, 0.0, False, "stopped"
    for _ in range(MOST_TURNS):
        text, author = policy.answer(env.expert())
        observation, reward, terminated, truncated, info = env.step(text)
        total += float(reward)
        ended = terminated or truncated
        restart = bool(observation["restart"]) and not ended
        answer = GradedAnswer(
            text=text,
            author=author,
            verdict=str(info["verdict"]),
            reward=float(reward),
            total=total,
            message=str(info.get("message", "")),
            next_message="" if restart or ended else observation["message"],
        )
        answers.append(answer)
        if restart or ended:
            prompts.append(PromptRecord(prompt["message"], prompt.get("image"), tuple(answers)))
            prompt, answers = observation, []
        if ended:
            end = "terminated" if terminated else "truncated"
            break
    if answers:
        prompts.append(PromptRecord(prompt["message"], prompt.get("image"), tuple(answers)))
    return EpisodeRecord(seed, facts, tuple(prompts), end, dict(info.get("metrics", {})), overview)


def _facts(info: Mapping[str, object]) -> dict[str, str]:
    """The texts and sequences of `reset`'s info, as text."""
    facts = {}
    for name, value in info.items():
        if isinstance(value, str):
            facts[name] = value
        elif isinstance(value, list | tuple):
            facts[name] = " ".join(map(str, value))
    return facts


def readable(answer: str) -> list[str]:
    """An answer's lines without JSON's braces and quotes; fields are `name: value`."""
    lines = [line.strip() for line in answer.splitlines()]
    return [FIELD.sub(r"\1: \2", line) for line in lines if line.strip("{}, ")]


def common_lines(episodes: Iterable[EpisodeRecord]) -> set[str]:
    """The lines that every prompt has."""
    prompts = [set(p.text.splitlines()) for e in episodes for p in e.prompts]
    return set.intersection(*prompts) if prompts else set()


def new_lines(prompt: str, known: set[str]) -> list[str]:
    """The prompt's lines that are not known; blank lines and open ones (`A_3:`) are left out."""
    lines = [line for line in prompt.splitlines() if line not in known]
    return [line for line in lines if line.strip() and not OPEN.match(line)]


def one_prompt_each(episodes: Iterable[EpisodeRecord]) -> bool:
    """Whether each episode has only one prompt, so that episodes fit side by side."""
    return all(len(episode.prompts) == 1 for episode in episodes)
