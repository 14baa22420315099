"""Routes: names and sides read from expressions, where a route leads, its landmarks."""

import dataclasses

import pytest

from envs.virl.route import NO_LANDMARK, Landmark, name_and_side
from tests.envs.virl.routes import staircase


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Golden Bakery is on your left", ("Golden Bakery", "left")),
        ("The destination Red Bank is on your right front", ("Red Bank", "right front")),
        ("What is on your mind is on your front", ("What is on your mind", "front")),
        ("The destination is on your left", ("The destination", "left")),
        (NO_LANDMARK, (NO_LANDMARK, "")),
        ("", ("", "")),
    ],
)
def test_name_and_side(expression, expected) -> None:
    assert name_and_side(expression) == expected


def test_a_way_is_where_a_route_leads_and_nothing_else() -> None:
    route = staircase(40, 30)
    assert dataclasses.replace(route, name="other", init_heading=90).way == route.way
    assert staircase(40, 31).way != route.way
    assert dataclasses.replace(route, start=(1.0, 0.0)).way != route.way
    assert dataclasses.replace(route, legs=route.legs[::-1]).way != route.way


def test_landmarks_stand_in_order_and_the_last_is_the_destination() -> None:
    route = staircase(40, 30, 20)
    assert route.landmarks == [route.destination]
    corner = Landmark("Blue Cafe", route.legs[0].end)
    legs = (dataclasses.replace(route.legs[0], landmark=corner), *route.legs[1:])
    more = dataclasses.replace(route, legs=legs)
    assert more.landmarks == [corner, route.destination]
    assert more.destination.name == "Red Bank"
    with pytest.raises(AssertionError, match="stairs/0 has no destination"):
        _ = dataclasses.replace(route, legs=route.legs[:2]).destination
