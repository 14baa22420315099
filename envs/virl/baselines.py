"""V-IRL without a model: policies that do not see the landmark where they stand.

Input: what a prompt says of directions, history and intersections. Output: answers.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from envs.base import Baseline
from envs.virl import prompts
from envs.virl.directions import INTERSECTION, NO_LANDMARKS, short_expression
from envs.virl.rail import Point
from envs.virl.verifier import ACTIONS

STUDIED = 2000
"""Training episodes that the look-up policy has seen, of each environment that was trained in."""


@dataclass(frozen=True)
class Facts:
    """What the prompt of a point says, without what is to be seen there.

    stated: what answers state besides the action: observation, landmark or nothing.
    turns: the right turn before each leg. ends: what directions say of each leg's end, or "".
    history: the right actions so far. intersection: whether this is one.
    refused: answers at this point that were wrong.
    """

    stated: str
    action_space: str
    turns: tuple[str, ...]
    ends: tuple[str, ...]
    history: tuple[str, ...]
    intersection: bool
    refused: int

    @property
    def turned(self) -> int:
        """Turns done, which is also the number of the current leg, from 1."""
        return sum(action != "forward()" for action in self.history)

    @property
    def walked(self) -> int:
        """Steps forward since the last turn."""
        return len(self.history) - max(
            (at for at, action in enumerate(self.history, 1) if action != "forward()"), default=0
        )

    @property
    def on_last_leg(self) -> bool:
        """Whether the next key point is the destination."""
        return self.turned == len(self.turns) and not self.intersection


Habit = Callable[[Facts], int]
"""After how many steps on the last leg to stop."""


def policies(
    facts: Callable[[], Facts], training: Callable[[], Habit], seed: int
) -> list[Baseline]:
    """The baselines of an environment.

    facts: tells what the current prompt says. training: studies the training routes; called at
    most once, when an answer needs it. seed: of the answers at random.
    """
    rng = np.random.default_rng(seed)
    habit = functools.cache(training)

    def baseline(name: str, description: str, act: Callable[[Facts], str]) -> Baseline:
        return Baseline(name, description, lambda observation: act(facts()))

    return [
        baseline(
            "random",
            "any action, any landmark of the directions or none",
            lambda now: draw(now, rng),
        ),
        baseline(
            "standing",
            "stops where it begins, and states no landmark",
            lambda now: answer(now, "stop()", []),
        ),
        baseline(
            "blind",
            "sees no landmark: turns at intersections, else walks on, stops when that was wrong",
            lambda now: follow(now, walk(now, None)),
        ),
        baseline(
            "look-up",
            "as blind, but stops after as many steps as training routes had to the destination",
            lambda now: follow(now, walk(now, habit()(now))),
        ),
        baseline(
            "copying",
            "as blind, and states the next landmark of the directions at every point",
            lambda now: answer(now, walk(now, None), [next_landmark(now)]),
        ),
        baseline(
            "listing",
            "as blind, and states all landmarks of the directions at every point",
            lambda now: answer(now, walk(now, None), list(now.ends)),
        ),
    ]


def walk(now: Facts, stop_after: int | None) -> str:
    """The action that directions and history ask for, whatever is to be seen.

    stop_after: steps on the last leg after which to stop; None: when walking on was refused.
    """
    if not now.history or now.intersection:
        return now.turns[now.turned]
    if not now.on_last_leg:
        return "forward()"
    guess, other = ("stop()", "forward()") if now.walked == stop_after else ("forward()", "stop()")
    return other if now.refused % 2 else guess


def next_landmark(now: Facts) -> str:
    """What directions say of the end of the current leg, or of the next one that has a landmark."""
    return next(filter(None, now.ends[max(now.turned - 1, 0) :]), "")


def follow(now: Facts, action: str) -> str:
    """The answer with an action and the landmark that the directions name where it is due."""
    if action == "stop()":
        return answer(now, action, [now.ends[-1]])
    return answer(now, action, [now.ends[now.turned - 1]] if now.intersection else [])


def draw(now: Facts, rng: np.random.Generator) -> str:
    """An answer at random."""
    actions, landmarks = ACTIONS[now.action_space], ["", *filter(None, now.ends)]
    return answer(
        now,
        actions[int(rng.integers(len(actions)))],
        [landmarks[int(rng.integers(len(landmarks)))]],
    )


def answer(now: Facts, action: str, expressions: list[str]) -> str:
    """An answer in the form asked for; expressions: what it states of landmarks."""
    stated = [expression for expression in expressions if expression]
    if now.stated == "nothing":
        return action
    if now.stated == "landmark":
        return f"{', '.join(map(short_expression, stated)) or 'none'}; {action}"
    observed = ", ".join(stated) or NO_LANDMARKS
    if now.intersection:
        observed += f"; {INTERSECTION}"
    return prompts.full_answer(observed, "", action)


def study(rails: Iterable[list[Point]]) -> Habit:
    """The most frequent number of steps on the last leg, by destination and over all."""
    counts: dict[str, Counter[int]] = {}
    overall: Counter[int] = Counter()
    for rail in rails:
        steps = 0
        for point in reversed(rail[:-1]):
            if point.kind != "forward":
                break
            steps += 1
        counts.setdefault(rail[-1].expression, Counter())[steps] += 1
        overall[steps] += 1
    (usual, _), *_ = overall.most_common(1)

    def habit(now: Facts) -> int:
        known = counts.get(now.ends[-1])
        return known.most_common(1)[0][0] if known else usual

    return habit
