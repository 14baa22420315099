"""The verifier: rewards, reasons, and each oddity of the released checks beside its correction."""

from dataclasses import replace

import pytest

from envs.virl.answers import Answer
from envs.virl.geometry import COMPASS
from envs.virl.rail import Point
from envs.virl.route import Landmark, Leg, Route
from envs.virl.settings import Settings, resolve
from envs.virl.verifier import ACTIONS, grade, landmark_right

CAFE = Landmark("Blue Cafe", (0.001, 0.0))
BANK = Landmark("Intersection Bank", (0.002, 0.0))
HERE = (0.001, 0.0)
ROUTE = Route(
    "test/0", "test", (0.0, 0.0), 10,
    (
        Leg(0, "north", HERE, CAFE, "Blue Cafe is on your left", 111),
        Leg(90, "east", (0.001, 0.001), BANK, "The destination Intersection Bank is on your right",
            111),
    ),
)  # fmt: skip
CROSSING = Point(HERE, 0, "turn", "east", "right", "Blue Cafe is on your left", CAFE, True, 2)
STREET = Point((0.0005, 0.0), 0, "forward")
STOP = Point((0.001, 0.001), 90, "stop", expression=ROUTE.legs[1].expression, landmark=BANK)
RULES = {name: resolve(Settings(preset=name)) for name in ("fixed", "paper_text", "paper_code")}


def judge(preset: str, point: Point, action, observation=None, action_space="absolute"):
    return grade(Answer(action, observation), point, ROUTE, action_space, RULES[preset])


@pytest.mark.parametrize("preset", RULES)
def test_exact_action_decides(preset) -> None:
    for point in (CROSSING, STREET, STOP):
        for space, actions in ACTIONS.items():
            for action in actions:
                verdict = judge(preset, point, action, action_space=space)
                assert verdict.right == (action == point.action(space))
                assert verdict.reward == (1.0 if verdict.right else -1.0)
    assert judge(preset, CROSSING, "turn_direction(right)").name == "illegal"
    assert judge(preset, CROSSING, "Turn_direction(east)").name == "illegal"
    assert judge(preset, CROSSING, None).reward == -1.0


def test_each_compass_word_is_one_action() -> None:
    assert set(ACTIONS["absolute"]) == {"forward()", "stop()"} | {
        f"turn_direction({word})" for word in COMPASS
    }


def test_fixed_checks_landmark_and_intersection_against_the_truth() -> None:
    seen = "Blue Cafe is on your left; You observe an intersection"
    assert judge("fixed", CROSSING, "stop()", seen).reward == -1.0
    missed = judge("fixed", CROSSING, "stop()", "No landmarks nearby; You observe an intersection")
    assert (missed.name, missed.reward) == ("wrong_observation", -1.5)
    unseen = judge("fixed", CROSSING, "stop()", "Blue Cafe is on your left")
    assert (unseen.reward, unseen.message) == (-1.5, "you are at an intersection")
    invented = judge("fixed", STREET, "stop()", "Blue Cafe is on your left")
    assert (invented.reward, invented.message) == (-1.5, "there is no such landmark here")
    # The word in a landmark's name is not an observed intersection.
    assert judge("fixed", STOP, "forward()", STOP.expression).reward == -1.0


def test_paper_text_checks_the_missed_landmark_only() -> None:
    assert judge("paper_text", CROSSING, "stop()", "No landmarks nearby").reward == -1.5
    assert judge("paper_text", CROSSING, "stop()", "Blue Cafe is on your left").reward == -1.0
    assert judge("paper_text", STREET, "stop()", "Blue Cafe").reward == -1.0


def test_paper_code_looks_for_the_intersection_in_the_landmark_field() -> None:
    """The released check reads the landmark's text, so a right remark costs and a lie does not."""
    right = judge("paper_code", CROSSING, "stop()", "You observe an intersection")
    assert (right.reward, right.message) == (-1.5, "you are not at any intersection")
    assert judge("paper_code", CROSSING, "stop()", "No landmarks nearby").reward == -1.0
    named = judge(
        "paper_code", replace(STOP, expression="intersection Bank"), "forward()", "a bank"
    )
    assert (named.reward, named.message) == (-1.5, "you are at an intersection")
    assert judge("fixed", CROSSING, "stop()", "Blue Cafe; You observe an intersection").reward == -1


def test_a_correct_action_is_not_fined_for_its_observation() -> None:
    for preset in RULES:
        assert judge(preset, CROSSING, "turn_direction(east)", "nonsense").reward == 1.0


def test_penalties_add_up_on_request() -> None:
    rules = resolve(Settings(penalty_mode="sum"))
    answer = Answer("stop()", "No landmarks nearby; You observe an intersection")
    assert grade(answer, CROSSING, ROUTE, "absolute", rules).reward == -2.5
    assert grade(Answer("stop()"), CROSSING, ROUTE, "absolute", rules).reward == -1.0


def test_recognition_of_landmarks() -> None:
    assert landmark_right(Answer("stop()", "blue  CAFE on the left"), CROSSING, ROUTE) is True
    assert landmark_right(Answer("stop()", "Red Cafe"), CROSSING, ROUTE) is False
    assert landmark_right(Answer("stop()", None), CROSSING, ROUTE) is None
    assert landmark_right(Answer("stop()", "none", True), STREET, ROUTE) is True
    assert landmark_right(Answer("stop()", "none", True), CROSSING, ROUTE) is False
    assert landmark_right(Answer("stop()", "Blue Cafe", True), CROSSING, ROUTE) is True
