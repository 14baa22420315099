"""Directions, observations and history: the study's sentences, and the short ones."""

import dataclasses

import numpy as np

from envs.virl.directions import (
    directions,
    history,
    observation,
    picture_line,
    short_directions,
    short_expression,
    short_history,
)
from envs.virl.rail import Point, lay_rail, relative_words
from envs.virl.route import Landmark
from envs.virl.settings import Settings, resolve
from tests.envs.virl.routes import staircase

FIXED = resolve(Settings())


def test_wording() -> None:
    route = staircase(40, 40)
    turns = relative_words(route, 350, FIXED)
    assert directions(route, turns) == [
        "First, turn slightly right to face north.",
        "Move forward until you reach next intersection.",
        "Turn right to face east.",
        "Move forward until you reach destination where The destination Red Bank is on your left.",
    ]
    assert directions(route, turns, tidy=False) == directions(route, turns)
    # The released code says `First,` only where another leg follows.
    single = staircase(40)
    assert directions(single, ["left"])[0] == "First, turn left to face north."
    assert directions(single, ["left"], tidy=False)[0] == "Turn left to face north."
    short = "1: slightly right north, corner. 2: right east, end Red Bank left."
    assert short_directions(route, turns) == short
    rail = lay_rail(
        route, 350, Settings(drop_rate=1.0), FIXED, lambda p: p, np.random.default_rng(0)
    )
    assert observation(rail[0]) == "No landmarks nearby; "
    assert observation(rail[1]) == "No landmarks nearby; You observe an intersection"
    # The released data's singular phrase shows at key points; `fixed` has one phrase.
    assert observation(rail[0], tidy=False) == "No landmarks nearby; "
    assert observation(rail[1], tidy=False) == "No landmark nearby; You observe an intersection"
    assert picture_line(rail[0]) == "You observe an image of 4 views; "
    assert picture_line(rail[1]) == "You observe an image of 4 views; You observe an intersection"
    assert picture_line(rail[2]) == "You observe an image of 4 views; "
    past = [("a", "turn_direction(north)"), ("b", "forward()"), ("c", "turn_direction(east)")]
    assert history(past[:1], "now") == "O_1: a\nA_1: turn_direction(north)\nO_2: now\nA_2:"
    assert short_history(past) == "2 east"
    assert short_history(past[:2]) == "1 north"
    assert short_history([]) == "nothing"


def test_landmarks_end_the_legs_that_have_one() -> None:
    route = staircase(40, 40, 40)
    corner = Landmark("Blue Cafe", route.legs[0].end)
    seen = dataclasses.replace(
        route.legs[0], landmark=corner, expression="Blue Cafe is on your right front"
    )
    route = dataclasses.replace(route, legs=(seen, *route.legs[1:]))
    turns = ["left", "right", "left"]
    assert directions(route, turns)[1::2] == [
        "Move forward until you reach next intersection where Blue Cafe is on your right front.",
        "Move forward until you reach next intersection.",
        "Move forward until you reach destination where The destination Red Bank is on your left.",
    ]
    assert short_directions(route, turns) == (
        "1: left north, corner Blue Cafe right front. 2: right east, corner. "
        "3: left north, end Red Bank left."
    )
    point = Point(corner.place, 0, "turn", expression=seen.expression, intersection=True)
    for tidy in (True, False):
        text = "Blue Cafe is on your right front; You observe an intersection"
        assert observation(point, tidy) == text


def test_short_expressions() -> None:
    assert short_expression("The destination Red Bank is on your left") == "Red Bank left"
    assert short_expression("") == ""
