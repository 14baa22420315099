"""The verifier: rewards, reasons, and each oddity of the released checks with its correction."""

from dataclasses import replace

import pytest

from envs.virl.answers import Answer
from envs.virl.geometry import COMPASS, RELATIVE
from envs.virl.rail import Point
from envs.virl.route import Landmark
from envs.virl.settings import Settings, resolve
from envs.virl.verifier import (
    ACTIONS,
    INCORRECT,
    INVENTED,
    MISREAD,
    MISSED,
    NO_ACTION,
    NOT_THERE,
    THERE,
    UNSAID,
    grade,
)

CAFE = Landmark("Blue Cafe", (0.001, 0.0))
BANK = Landmark("Intersection Bank", (0.002, 0.0))
HERE = (0.001, 0.0)
AT_THE_BANK = "The destination Intersection Bank is on your right"
CROSSING = Point(HERE, 0, "turn", "east", "right", "Blue Cafe is on your left", CAFE, True, 2)
STREET = Point((0.0005, 0.0), 0, "forward")
STOP = Point((0.001, 0.001), 90, "stop", expression=AT_THE_BANK, landmark=BANK)
RULES = {name: resolve(Settings(preset=name)) for name in ("fixed", "paper_text", "paper_code")}


def judge(
    preset: str,
    point: Point,
    action,
    observation=None,
    action_space="absolute",
    stated="observation",
):
    return grade(Answer(action, observation), point, stated, action_space, RULES[preset])


@pytest.mark.parametrize("preset", RULES)
def test_exact_action_decides(preset) -> None:
    for point in (CROSSING, STREET, STOP):
        for space, actions in ACTIONS.items():
            for action in actions:
                verdict = judge(preset, point, action, action_space=space, stated="nothing")
                assert verdict.right == (action == point.action(space))
                assert verdict.reward == (1.0 if verdict.right else -1.0)
                assert verdict.name == ("correct" if verdict.right else "wrong_action")
    for illegal in (
        "turn_direction(right)",
        "turn_direction(east) ",
        "Turn_direction(east)",
        "forward() ",
        "",
        None,
    ):
        verdict = judge(preset, CROSSING, illegal, stated="nothing")
        assert (verdict.name, verdict.reward) == ("illegal", -1.0)


def test_each_compass_word_is_one_action() -> None:
    assert set(ACTIONS["absolute"]) == {"forward()", "stop()"} | {
        f"turn_direction({word})" for word in COMPASS
    }
    assert set(ACTIONS["relative"]) == {"forward()", "stop()"} | {
        f"turn_direction({word})" for word in RELATIVE
    }


@pytest.mark.parametrize(
    ("point", "observation", "message"),
    [
        (CROSSING, "Blue Cafe is on your left; You observe an intersection", ""),
        (CROSSING, "No landmarks nearby; You observe an intersection", MISSED),
        (CROSSING, "Red Cafe is on your left; You observe an intersection", MISSED),
        (CROSSING, "You observe an intersection", MISSED),
        (CROSSING, "Blue Cafe is on your right; You observe an intersection", MISREAD),
        (CROSSING, "Blue Cafe; You observe an intersection", MISREAD),
        (CROSSING, "Blue Cafe is on your left", THERE),
        (CROSSING, "Blue Cafe is on your left; no intersection", THERE),
        (STREET, "No landmarks nearby", ""),
        (STREET, "Blue Cafe is on your left", INVENTED),
        (STREET, "No landmarks nearby; You observe an intersection", NOT_THERE),
        # The word in a landmark's name is not an observed intersection.
        (STOP, STOP.expression, ""),
        (STOP, "Intersection Bank is on your right", ""),
        (STOP, f"{STOP.expression}; You observe an intersection", NOT_THERE),
        (STOP, None, UNSAID),
        (STREET, None, UNSAID),
        (STREET, "", INVENTED),
    ],
)
def test_fixed_checks_landmark_and_intersection_against_the_truth(
    point, observation, message
) -> None:
    wrong = "stop()" if point is not STOP else "forward()"
    verdict = judge("fixed", point, wrong, observation)
    assert verdict.reward == (-1.5 if message else -1.0)
    assert verdict.message == (message or INCORRECT)
    assert verdict.name == ("wrong_observation" if message else "wrong_action")


@pytest.mark.parametrize("stated", ["observation", "landmark"])
@pytest.mark.parametrize("mode", ["first", "sum"])
@pytest.mark.parametrize("action", ["stop()", "nonsense", None])
@pytest.mark.parametrize("point", [CROSSING, STREET])
def test_leaving_the_observation_out_costs_what_a_wrong_one_costs(
    point, action, mode, stated
) -> None:
    rules = replace(RULES["fixed"], penalty_mode=mode)
    left_out = grade(Answer(action), point, stated, "absolute", rules)
    wrong = grade(Answer(action, "Red Cafe left"), point, stated, "absolute", rules)
    assert left_out.reward == wrong.reward == (-1.5 if mode == "first" else -2.5)
    assert left_out.recognised is wrong.recognised is False
    assert (wrong.name == "wrong_observation") == (mode == "first")
    assert (left_out.message == NO_ACTION) == (action is None and mode == "first")
    asked_for_nothing = grade(Answer(action), point, "nothing", "absolute", rules)
    assert (asked_for_nothing.reward, asked_for_nothing.recognised) == (-1.0, None)


def test_paper_presets_do_not_fine_a_missing_observation() -> None:
    for point in (CROSSING, STREET, STOP):
        assert judge("paper_text", point, "nothing").reward == -1.0
        assert judge("paper_code", point, "nothing").reward == -1.0


def test_paper_text_checks_the_missed_landmark_only() -> None:
    assert judge("paper_text", CROSSING, "stop()", "No landmarks nearby").reward == -1.5
    assert judge("paper_text", CROSSING, "stop()", "Blue Cafe on the right").reward == -1.0
    assert judge("paper_text", STREET, "stop()", "Blue Cafe").reward == -1.0
    # Part of another name is not the landmark.
    assert judge("paper_text", CROSSING, "stop()", "Blue Cafeteria").reward == -1.5
    assert judge("paper_text", CROSSING, "stop()", "Old-Blue Cafes").reward == -1.5


@pytest.mark.parametrize(
    ("expression", "observation", "reward", "message"),
    [  # the released check reads the landmark's text, so a right remark costs and a lie does not
        ("Blue Cafe is on your left", "You observe an intersection", -1.5, NOT_THERE),
        ("Blue Cafe is on your left", "No landmarks nearby", -1.0, INCORRECT),
        ("Blue Cafe is on your left", "An Intersection", -1.0, INCORRECT),
        ("intersection Bank is on your left", "a bank", -1.5, THERE),
        ("intersection Bank is on your left", "", -1.5, THERE),
        ("intersection Bank is on your left", "intersections", -1.0, INCORRECT),
        ("Intersection Bank is on your left", "", -1.0, INCORRECT),
    ],
)
def test_paper_code_looks_for_the_intersection_in_the_landmark_field(
    expression, observation, reward, message
) -> None:
    verdict = judge("paper_code", replace(CROSSING, expression=expression), "stop()", observation)
    assert (verdict.reward, verdict.message) == (reward, message)
    brief = judge("paper_code", CROSSING, "stop()", observation, stated="landmark")
    assert brief.reward == -1.0


def test_a_correct_action_is_not_fined_for_its_observation() -> None:
    for preset in RULES:
        assert judge(preset, CROSSING, "turn_direction(east)", "nonsense").reward == 1.0


def test_penalties_add_up_on_request() -> None:
    rules = resolve(Settings(penalty_mode="sum"))
    answer = Answer("stop()", "No landmarks nearby; You observe an intersection")
    verdict = grade(answer, CROSSING, "observation", "absolute", rules)
    assert (verdict.reward, verdict.message) == (-2.5, f"{INCORRECT} and {MISSED}")
    brief = Answer("stop()", "Blue Cafe left")
    assert grade(brief, CROSSING, "landmark", "absolute", rules).reward == -1.0


@pytest.mark.parametrize("preset", RULES)
def test_recognition_is_the_same_in_every_preset_and_whatever_the_action(preset) -> None:
    for action in ("stop()", "turn_direction(east)", None):
        right = judge(preset, CROSSING, action, "Blue Cafe left", stated="landmark")
        assert right.recognised is True
        assert judge(preset, CROSSING, action, "none", stated="landmark").recognised is False
        assert judge(preset, CROSSING, action, None, stated="landmark").recognised is False
        assert judge(preset, STREET, action, "none", stated="landmark").recognised is True
        assert judge(preset, CROSSING, action, stated="nothing").recognised is None


def test_every_reward_is_a_setting() -> None:
    own = {"correct": 11.0, "wrong_action": 12.0, "wrong_observation": 13.0, "exhausted": 17.0}
    right = "Blue Cafe is on your left; You observe an intersection"
    none = "No landmarks nearby; You observe an intersection"
    first, both = (resolve(Settings(penalty_mode=mode, rewards=own)) for mode in ("first", "sum"))
    for rules, action, observation, reward in (
        (first, "turn_direction(east)", right, 11.0),
        (first, "stop()", right, 12.0),
        (first, "stop()", none, 13.0),
        (first, None, None, 13.0),
        (both, "stop()", none, 12.0 + 13.0),
    ):
        answer = Answer(action, observation)
        assert grade(answer, CROSSING, "observation", "absolute", rules).reward == reward
    with pytest.raises(ValueError, match=r"VIRL\.rewards\.corect: there is no such reward"):
        Settings(rewards={"corect": 1.0})
