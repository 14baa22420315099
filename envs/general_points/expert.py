"""Demonstrations: right answers, thoughts, wrong answers with their feedback, the corpus.

Input: an environment to play in and a seed. Output: conversations. Wrong answers are those that
the verifier refuses; what follows them is the environment's own message.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Template
from typing import Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from envs.base import Demonstration, Message, Observation
from envs.general_points import prompts, rules, solver
from envs.general_points.answers import Answer
from envs.general_points.formula import FormulaError, apply, parse
from envs.general_points.released import grade_released
from envs.general_points.settings import Settings
from envs.general_points.verifier import VERDICTS, Hand, grade


class Episode(Protocol):
    """What demonstrations need of the environment that they are played in."""

    settings: Settings
    templates: dict[str, Template]
    hand: Hand
    vision: bool
    image: NDArray[np.uint8] | None

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Observation, dict[str, object]]:
        """Deal a hand."""

    def step(self, action: str) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, object]]:
        """Grade one answer."""


def formula(hand: Hand, style: str = "canonical", choice: float = 0.0) -> str:
    """A solution of the hand.

    Args:
        hand: solvable.
        style: `canonical`, the simplest with falling numbers, which depends on the numbers alone
            and is learned fastest; `hand`, the simplest with its numbers in the order of the
            cards where that is free; `any`, another one in the order of the cards.
        choice: in [0, 1), which of all inequivalent solutions `any` takes, simplest first.
    """
    ranked = solver.ranked(hand.key, hand.target)
    if style == "canonical":
        return solver.text(ranked[0])
    node = ranked[int(choice * len(ranked)) if style == "any" else 0]
    return solver.text(node, {number: i for i, number in reversed(list(enumerate(hand.numbers)))})


def thought(formula: str) -> str:
    """The steps of a formula, one operation each: `10-8=2, 2*12=24`; empty for an illegal one."""
    try:
        postfix = parse(formula).postfix
    except FormulaError:
        return ""
    steps = []
    stack: list[tuple[int, int]] = []
    for token in postfix:
        if isinstance(token, int):
            stack.append((token, 1))
            continue
        right, left = stack.pop(), stack.pop()
        value = apply(token, left, right)
        if value is None:
            break
        stack.append(solver.ratio(*value))
        steps.append(f"{_shown(left)}{token}{_shown(right)}={_shown(stack[-1])}")
    return ", ".join(steps)


def _shown(value: tuple[int, int]) -> str:
    p, q = value
    return str(p) if q == 1 else f"({p}/{q})"


def answer(env: Episode, formula: str) -> str:
    """An answer with this formula, the cards read right."""
    s, hand = env.settings, env.hand
    steps = thought(formula) if s.cot else None
    if "answer" in env.templates:
        return prompts.answer_from(
            env.templates["answer"], hand.names, hand.numbers, formula, s.target, steps
        )
    return prompts.answer(
        s.prompt_style, hand.names, hand.numbers, formula, s.target, env.vision, steps
    )


def demonstrations(env: Episode, n: int, seed: int) -> Iterator[Demonstration]:
    """Play n episodes in `env` (used up by it); each one's seed resets the same hand."""
    rng = np.random.default_rng(seed)
    settings = env.settings
    for episode_seed in rng.integers(0, 2**31, n).tolist():
        options: dict[str, object] | None = None
        if settings.prompt_diversity:
            rule, wording = rng.integers(len(rules.MIXED)), rng.integers(len(prompts.WORDINGS))
            options = {"face_rule": rules.MIXED[rule], "wording": int(wording)}
        observation, _ = env.reset(seed=episode_seed, options=options)
        messages = [Message(role="user", content=observation["message"], train=False)]
        for _ in range(_wrong_answers(settings, rng)):
            wrong = answer(env, wrong_formula(env.hand, rng, settings.formulas))
            feedback = env.step(wrong)[0]["message"]
            messages += _exchange(wrong, feedback, settings.trajectories == "suboptimal")
        right = answer(env, _drawn_formula(env.hand, rng, settings.formulas))
        messages.append(Message(role="assistant", content=right, train=True))
        images = () if env.image is None else (env.image,)
        yield Demonstration(tuple(messages), images, episode_seed)


def _wrong_answers(settings: Settings, rng: np.random.Generator) -> int:
    """How many wrong answers come before the right one of a demonstration."""
    if settings.trajectories == "optimal" or settings.verify_iter == 1:
        return 0
    if settings.trajectories == "suboptimal":
        return int(rng.integers(1, settings.verify_iter))
    if settings.corrected_share is None:
        return int(rng.integers(settings.verify_iter))
    corrected = rng.random() < settings.corrected_share
    return int(rng.integers(1, settings.verify_iter)) if corrected else 0


def _drawn_formula(hand: Hand, rng: np.random.Generator, style: str) -> str:
    return formula(hand, style, rng.random() if style == "any" else 0.0)


def _exchange(wrong: str, feedback: str, train: bool) -> list[Message]:
    return [
        Message(role="assistant", content=wrong, train=train),
        Message(role="user", content=feedback, train=False),
    ]


def wrong_formula(hand: Hand, rng: np.random.Generator, style: str = "canonical") -> str:
    """A plausible failure: a right formula with an operator, a number or a parenthesis changed.

    Where the style has several right ones, it need not be near the one that is demonstrated.
    """
    right = _drawn_formula(hand, rng, style)
    while True:
        kind = int(rng.integers(4))
        if kind < 2:
            places = [i for i, c in enumerate(right) if c in "+-*/"]
            at = places[int(rng.integers(len(places)))]
            wrong = right[:at] + "+-*/"[int(rng.integers(4))] + right[at + 1 :]
        elif kind == 2:
            numbers = sorted(set(hand.numbers))
            changed = numbers[int(rng.integers(len(numbers)))]
            wrong = right.replace(str(changed), str(int(rng.integers(1, 14))), 1)
        else:
            wrong = "(" + right
        if not _reaches(wrong, hand):
            return wrong


def _reaches(text: str, hand: Hand) -> bool:
    verdict = grade(Answer(None, text), hand, vision=False, penalty_sum=False, partial_reward=False)
    return verdict.name == "solved"


def corpus(settings: Settings, templates: dict[str, Template]) -> Iterator[str]:
    """Texts of one prompt style with every word and symbol of any rule, target and feedback."""
    yield from (template.template for template in templates.values())
    style = settings.prompt_style
    names = tuple(rules.rank_name(rank) for rank in range(1, 14))
    numbers = tuple(range(20))
    sample = "(1+2)*3/4-5+6*7-8*9+10+11+12+13+0"
    for vision in (False, True):
        for rule in rules.FACE_VALUES:
            for target in (24, 30):
                yield prompts.prompt(style, names, rule, target, vision, settings.cot, 0)
        steps = thought("(1+2)*3/4-5") if settings.cot else None
        yield prompts.answer(style, names, numbers, sample, 24, vision, steps)
    for mode in ("none", "binary", "verifier", "prefix_hint"):
        for verdict in VERDICTS:
            yield prompts.feedback(style, mode, verdict, "", sample)
    if style == "full":
        yield from _reasons()


def _reasons() -> Iterator[str]:
    """Every kind of failure in the verifiers' own words, by failing in each way."""
    hand = Hand(("A", "5", "10", "K"), (1, 5, 10, 10), (1, 5, 10, 10), 24)
    failures = (
        "",
        "1 2",
        "1+*",
        "1)",
        "()",
        "1(",
        "y",
        "007",
        "9" * 300,
        "1=y",
        "1+2+3",
        "1*5*10*10",
        "10/(10-5-5*1)",
        "1/5/10/10",
        "10+10+5-1=25",
    )
    for failure in failures:
        for penalty_sum in (False, True):
            verdict = grade(
                Answer(["2"], failure),
                hand,
                vision=True,
                penalty_sum=penalty_sum,
                partial_reward=False,
            )
            yield verdict.reason
        yield ", ".join(
            grade_released(
                failure,
                None,
                hand.names,
                hand.numbers,
                24,
                vision=False,
                penalty_sum=True,
                partial_reward=True,
            )[2]
        )
