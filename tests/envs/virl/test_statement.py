"""What a stated observation says: exactly the landmark here and its side, whatever its name."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from envs.virl.dataset import plain_text
from envs.virl.directions import observation, short_expression
from envs.virl.geometry import SIDES
from envs.virl.rail import Point
from envs.virl.route import IS_ON, Landmark, name_and_side
from envs.virl.statement import fold, mentions, states_intersection, states_landmark

PLACE = (0.0, 0.0)


def point(name: str, side: str = "left", intersection: bool = True) -> Point:
    landmark = Landmark(name, PLACE)
    return Point(PLACE, 0, "turn", "north", "left", f"{name}{IS_ON}{side}", landmark, intersection)


CAFE, NONE = point("Blue Cafe"), Point(PLACE, 0, "forward")


@pytest.mark.parametrize(
    "stated",
    [
        "Blue Cafe is on your left",
        "blue  CAFE is on your left.",
        "Blue Cafe left",
        "Blue Cafe is on the left side",
        "The destination Blue Cafe is on your left",
        "Blue Cafe is on your left; You observe an intersection",
        "Blue Cafe, to your left;",
        "Blue Cafe is on your left. You observe an intersection.",
        "Ｂｌｕｅ Cafe (left)",
    ],
)
def test_a_landmark_with_its_side_is_read(stated) -> None:
    assert states_landmark(stated, CAFE)


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "Blue Cafe",
        "left",
        "none",
        "No landmarks nearby",
        "Blue Cafe is on your right",
        "Blue Cafe is on your left front",
        "Blue Cafe is on your left, right",
        "Blue Cafeteria is on your left",
        "Blue Cafe Bar is on your left",
        "Cafe is on your left",
        "Old Blue Cafe is on your left",
        "Blue Cafe is not on your left",
        "Blue Cafe 2 left",
        "Blue Cafe is on your left; Red Bank is on your right",
        "Blue Cafeleft",
        "Red Bank is on your left; Blue Cafe is on your left",
        "Blue Cafe left, none",
    ],
)
def test_no_landmark_another_a_part_a_list_or_the_wrong_side_is_not(stated) -> None:
    assert not states_landmark(stated, CAFE)


def test_a_point_without_a_landmark_wants_none() -> None:
    for stated in (
        "none",
        "No landmarks nearby",
        "no landmark nearby; You observe an intersection",
        "None.",
        "nothing; ",
    ):
        assert states_landmark(stated, NONE)
    for stated in (
        "",
        "You observe an intersection",
        "Blue Cafe left",
        "none left",
        "none; Blue Cafe is on your left",
        "nonesuch",
    ):
        assert not states_landmark(stated, NONE)


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ("Blue Cafe is on your left; You observe an intersection", True),
        ("No landmarks nearby, you are at an intersection.", True),
        ("You observe an intersection", True),
        ("intersection", True),
        ("Blue Cafe is on your left", False),
        ("Blue Cafe is on your left;", False),
        ("Blue Cafe is on your left; no intersection", False),
        ("Blue Cafe is on your left; You observe intersections", False),
        ("The Intersection Bank is on your left", False),
        ("", False),
    ],
)
def test_intersections(stated, says) -> None:
    assert states_intersection(stated, CAFE) is says


def test_a_landmark_without_a_side_may_be_called_intersection() -> None:
    bare = Point(
        PLACE,
        0,
        "turn",
        expression="Main St, intersection",
        landmark=Landmark("Main St, intersection", PLACE),
    )
    assert bare.side == ""
    assert states_landmark("Main St, intersection", bare)
    assert not states_intersection("Main St, intersection", bare)
    assert states_intersection("Main St, intersection; You observe an intersection", bare)


def test_mentions_are_whole_words() -> None:
    assert mentions("at the blue CAFE.", "Blue Cafe")
    assert not mentions("at the Blue Cafeteria", "Blue Cafe")
    assert not mentions("at the NewBlue Cafe", "Blue Cafe")
    assert mentions("Joe’s (1)", "Joe's (1)")


NAMES = st.text(max_size=12).map(plain_text)


@given(NAMES, st.sampled_from(SIDES), st.booleans())
def test_the_truth_in_either_form_is_read_whatever_the_name(name, side, intersection) -> None:
    here = point(name, side, intersection)
    assert name_and_side(here.expression) == (name, side)
    for stated in (observation(here), observation(here).strip().removesuffix(";")):
        assert states_landmark(stated, here)
        assert states_intersection(stated, here) == intersection
    assert states_landmark(short_expression(here.expression), here)


@given(NAMES, NAMES, st.sampled_from(SIDES), st.sampled_from(SIDES))
def test_nothing_but_the_truth_is_read(name, other, side, turned) -> None:
    here = point(name, side)
    assume(not {*fold(f"{name} {other}").split()} & set(fold("is on your none ; . ,").split()))
    if side != turned:
        assert not states_landmark(f"{name} {turned}", here)
    if fold(name) != fold(other) and other.isalpha() and name.isalpha():
        assert not states_landmark(f"{other} {side}", here)
        assert not states_landmark(f"{name} {side}, {other} {side}", here)
