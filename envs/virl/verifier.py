"""The verifier: grades one answer at one point of the rail.

Input: an Answer, the Point with the truth, and the rules. Output: a Verdict with the reward and
its reason. Budgets and endings are the environment's.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.virl.answers import Answer
from envs.virl.geometry import COMPASS, RELATIVE
from envs.virl.rail import Point
from envs.virl.settings import Rules
from envs.virl.statement import mentions, states_intersection, states_landmark

VERDICTS = ("correct", "wrong_action", "illegal", "wrong_observation", "exhausted")
ACTIONS = {
    "absolute": ("forward()", "stop()", *(f"turn_direction({word})" for word in COMPASS)),
    "relative": ("forward()", "stop()", *(f"turn_direction({word})" for word in RELATIVE)),
}
INCORRECT, NO_ACTION = "your action is incorrect", "your answer holds no action of the action space"
NOT_THERE, THERE = "you are not at any intersection", "you are at an intersection"
MISSED, MISREAD = "you missed the landmark here", "you misread the landmark here"
INVENTED = "there is no such landmark here"
UNSAID = "your answer does not state what you observe"
FAULTS = (INCORRECT, NO_ACTION, NOT_THERE, THERE, MISSED, MISREAD, INVENTED, UNSAID)


@dataclass(frozen=True)
class Verdict:
    """A grade.

    name: one of VERDICTS. reward: without the budget's penalty.
    message: why, as the end of "You failed this trial because ...".
    recognised: whether exactly what is there was stated; None where answers state nothing.
    """

    name: str
    reward: float
    message: str
    recognised: bool | None = None

    @property
    def right(self) -> bool:
        """Whether the action was the right one."""
        return self.name == "correct"


def grade(answer: Answer, point: Point, stated: str, action_space: str, rules: Rules) -> Verdict:
    """Grade an answer: the action by exact match, and, if that is wrong, the observation.

    stated: what answers are to state besides the action: `observation`, `landmark` or `nothing`.
    """
    recognised, rewards = None, rules.rewards
    if stated != "nothing":
        recognised = answer.observation is not None and states_landmark(answer.observation, point)
    if answer.action == point.action(action_space):
        return Verdict("correct", rewards["correct"], "Correct action.", recognised)
    legal = answer.action in ACTIONS[action_space]
    name, fault = ("wrong_action", INCORRECT) if legal else ("illegal", NO_ACTION)
    misread = _observation_fault(answer, point, stated, rules)
    if misread and rules.penalty_mode == "sum":
        reward = rewards["wrong_action"] + rewards["wrong_observation"]
        return Verdict(name, reward, f"{fault} and {misread}", recognised)
    if misread and answer == Answer(None):
        return Verdict(name, rewards["wrong_observation"], fault, recognised)
    if misread:
        return Verdict("wrong_observation", rewards["wrong_observation"], misread, recognised)
    return Verdict(name, rewards["wrong_action"], fault, recognised)


def _observation_fault(answer: Answer, point: Point, stated: str, rules: Rules) -> str:
    """What is wrong with the stated observation, empty if nothing."""
    if stated == "nothing":
        return ""
    if rules.observation == "truth":
        return _against_the_truth(answer.observation, point, stated)
    observation = answer.observation or ""
    if rules.observation == "landmark":
        missed = point.landmark is not None and not mentions(observation, point.landmark.name)
        return MISSED if missed and observation else ""
    # The released check looks for the word in the landmark's text, where it hardly ever stands.
    says, is_there = "intersection" in observation, "intersection" in point.expression
    if stated == "landmark" or says == is_there:
        return ""
    return THERE if is_there else NOT_THERE


def _against_the_truth(observation: str | None, point: Point, stated: str) -> str:
    """The first fault of an observation; to state nothing is one."""
    if observation is None:
        return UNSAID
    says = states_intersection(observation, point)
    if stated == "observation" and says != point.intersection:
        return THERE if point.intersection else NOT_THERE
    if states_landmark(observation, point):
        return ""
    if point.landmark is None:
        return INVENTED
    return MISREAD if mentions(observation, point.landmark.name) else MISSED
