"""The verifier: grades one answer at one point of the rail (SPEC, section 4).

In: an Answer, the Point with the truth, the route, settings and rules. Out: a Verdict with the
reward and what a person would say about it. It knows nothing of budgets or episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.virl.answers import Answer
from envs.virl.geometry import COMPASS, RELATIVE
from envs.virl.rail import Point
from envs.virl.route import Route
from envs.virl.settings import Rules

CORRECT, WRONG_ACTION, WRONG_OBSERVATION = 1.0, -1.0, -1.5
EXHAUSTED = -1.0

VERDICTS = ("correct", "wrong_action", "illegal", "wrong_observation", "exhausted")
ACTIONS = {
    "absolute": ("forward()", "stop()", *(f"turn_direction({word})" for word in COMPASS)),
    "relative": ("forward()", "stop()", *(f"turn_direction({word})" for word in RELATIVE)),
}


@dataclass(frozen=True)
class Verdict:
    """A grade.

    name: one of VERDICTS. reward: without the budget's penalty.
    message: why, as the end of "You failed this trial because ...".
    landmark_right: whether the landmark was read right; None where the answer states none.
    """

    name: str
    reward: float
    message: str
    landmark_right: bool | None = None

    @property
    def right(self) -> bool:
        """Whether the action was the right one."""
        return self.name == "correct"


def grade(answer: Answer, point: Point, route: Route, action_space: str, rules: Rules) -> Verdict:
    """Grade an answer: the action by exact match, and, if that is wrong, the observation."""
    read = landmark_right(answer, point, route)
    if answer.action == point.action(action_space):
        return Verdict("correct", CORRECT, "Correct action.", read)
    wrong_observation = _observation_fault(answer, point, read, rules)
    action_fault = "your action is incorrect"
    name = "wrong_action"
    if answer.action is None or answer.action not in ACTIONS[action_space]:
        action_fault, name = "your answer holds no action of the action space", "illegal"
    if wrong_observation and rules.penalty_mode == "sum":
        reward = WRONG_ACTION + WRONG_OBSERVATION
        return Verdict(name, reward, f"{action_fault} and {wrong_observation}", read)
    if wrong_observation:
        return Verdict("wrong_observation", WRONG_OBSERVATION, wrong_observation, read)
    return Verdict(name, WRONG_ACTION, action_fault, read)


def landmark_right(answer: Answer, point: Point, route: Route) -> bool | None:
    """Whether the stated observation names the point's landmark and no other of the route's."""
    if answer.observation is None:
        return None
    stated = _plain(answer.observation)
    truth = None if point.landmark is None else _plain(point.landmark.name)
    if answer.landmark_only:
        return stated == (truth or "none")
    if truth is not None:
        return truth in stated
    return not any(_plain(landmark.name) in stated for landmark in route.landmarks)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _observation_fault(answer: Answer, point: Point, read: bool | None, rules: Rules) -> str:
    """What is wrong with the stated observation, empty if nothing."""
    if rules.observation == "inverted":
        # The released check looks for the word in the landmark's text, where it never stands.
        stated = "intersection" in (answer.observation or "")
        true = "intersection" in point.expression
    else:
        stated, true = _names_intersection(answer, point), point.intersection
    if rules.observation != "landmark" and not answer.landmark_only and answer.observation:
        if stated and not true:
            return "you are not at any intersection"
        if true and not stated:
            return "you are at an intersection"
    if rules.observation == "inverted" or read is None or read:
        return ""
    if point.landmark is not None:
        return "you missed the landmark here"
    return "" if rules.observation == "landmark" else "there is no such landmark here"


def _names_intersection(answer: Answer, point: Point) -> bool:
    stated = _plain(answer.observation or "")
    if point.landmark is not None:
        stated = stated.replace(_plain(point.landmark.name), "")
    return "intersection" in stated
