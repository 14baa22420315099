"""What the player reads and writes: short prompts, the study's long ones, retries, answers."""

import json
import re

import pytest

from envs.virl.env import VIRL
from envs.virl.prompts import OPENINGS, brief_answer, brief_prompt, full_answer, full_prompt, retry
from envs.virl.rail import Point
from envs.virl.verifier import Verdict


def brief(**options):
    return VIRL(prompt_style="brief", **options)


@pytest.mark.parametrize("vision", [False, True])
def test_brief_prompts_are_short(vision) -> None:
    modality = "vision" if vision else "language"
    env = brief(modality=modality, image_size=16, straight_line_length=5, drop_rate=0.0)
    for seed in range(80 if not vision else 5):
        shown, _ = env.reset(seed=seed)
        done = False
        while not done:
            assert len(re.findall(r"\w+|[^\w\s]", shown["message"])) <= 120
            shown, _, terminated, truncated, _ = env.step(env.expert())
            done = terminated or truncated


def test_full_prompts_follow_the_study() -> None:
    env = VIRL(modality="vision", image_size=16)
    shown, _ = env.reset(seed=3)
    message = shown["message"]
    assert "[front, right\n back, left]" in message
    assert "O_1: You observe an image of 4 views; \nA_1:" in message
    for section in ("Task Description", "Instruction", "Action space", "Output"):
        assert f"[{section}]" in message
    assert "1. First, turn " in message
    assert "where The destination " in message
    # The current landmark is to be read from the picture; past ones are history.
    while env.point.landmark is None or env.point.kind == "stop":
        shown, *_ = env.step(env.expert())
    assert env.point.expression not in shown["message"].split("[Observations")[1]
    legacy = VIRL(modality="vision", image_size=16, preset="paper_code").reset(seed=3)[0]["message"]
    assert "right front, right behind]" in legacy


def test_feedback_says_as_much_as_was_asked_for() -> None:
    said = {}
    for feedback in ("none", "binary", "verifier"):
        env = VIRL(feedback=feedback)
        env.reset(seed=0)
        said[feedback] = env.step('{"action": "x"}')[0]["message"]
    assert "failed" not in said["none"]
    assert "because" not in said["binary"]
    assert "because your answer does not state what you observe" in said["verifier"]


PLACE = (0.0, 0.0)
BANK = Point(PLACE, 0, "turn", "north", "left", "The destination Red Bank is on your left")
CORNER = Point(PLACE, 0, "turn", "east", "right", intersection=True)


@pytest.mark.parametrize(
    ("point", "vision", "seen"),
    [
        (BANK, False, "street Red Bank left"),
        (BANK, True, "street and picture"),
        (CORNER, False, "corner"),
        (CORNER, True, "corner and picture"),
    ],
)
def test_a_brief_prompt_says_which_words_what_was_done_and_what_is_seen(point, vision, seen):
    past = [("a", "turn_direction(north)"), ("b", "forward()"), ("c", "turn_direction(east)")]
    assert brief_prompt("1: left north, corner.", past, point, vision, "absolute") == (
        f"Use compass. 1: left north, corner. Done: 2 east. Now: {seen}. Next 3:"
    )
    assert brief_prompt("R", [], point, vision, "relative") == (
        f"Use turn. R Done: nothing. Now: {seen}. Next 1:"
    )


@pytest.mark.parametrize("vision", [False, True])
def test_a_full_prompt_names_the_actions_the_views_and_the_first_sentence(vision):
    def prompt(action_space="absolute", views="cardinal", tidy=True, wording=0):
        return full_prompt("ROUTE", [], CORNER, vision, action_space, views, tidy, wording)

    assert "'northwest'" in prompt()
    assert "'slightly left'" in prompt("relative")
    assert "'northwest'" not in prompt("relative")
    assert "[Instruction]\nROUTE\n" in prompt()
    for wording, opening in enumerate(OPENINGS):
        assert prompt(wording=wording).startswith(f"[Task Description]\n{opening} ")
    assert ("2x2 grid" in prompt()) is vision
    assert ("right front, right behind" in prompt(views="legacy")) is vision
    assert ("No landmark nearby" in prompt(tidy=False)) is not vision
    assert "No landmark nearby" not in prompt()
    assert "O_1: " in prompt()


@pytest.mark.parametrize(
    ("feedback", "style", "text"),
    [
        ("none", "brief", "Again."),
        ("binary", "brief", "Wrong. Again."),
        ("verifier", "brief", "Wrong: why. Again."),
        ("none", "full", "Please answer again in the same format."),
        ("binary", "full", "You failed this trial. Please answer again in the same format."),
        (
            "verifier",
            "full",
            "You failed this trial because why. Please avoid this and try again in the same "
            "format.",
        ),
    ],
)
def test_retries(feedback, style, text):
    assert retry(Verdict("wrong_action", -1.0, "why"), feedback, style) == text


def test_answers_have_the_form_that_prompts_ask_for():
    answer = full_answer("Café left", "Turn left.", "forward()")
    assert json.loads(answer) == {
        "current observation": "Café left",
        "current instruction": "Turn left.",
        "action": "forward()",
    }
    assert "Café" in answer
    assert brief_answer(BANK, False, "stop()") == "stop()"
    assert brief_answer(BANK, True, "stop()") == "Red Bank left; stop()"
    assert brief_answer(CORNER, True, "stop()") == "none; stop()"
