"""The rail's laws over hundreds of routes, and how directions, history and presets read it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.virl.city.graph import build_city
from envs.virl.directions import (
    directions,
)
from envs.virl.geometry import haversine, relative_word
from envs.virl.rail import lay_rail, relative_words
from envs.virl.settings import CITIES, Settings, resolve
from envs.virl.world import open_world
from tests.envs.virl.routes import staircase

FIXED, CODE = resolve(Settings()), resolve(Settings(preset="paper_code"))


def rail_of(city: str, index: int, seed: int = 0, rules=FIXED, **options):
    choice = Settings(city=city, **options)
    world = open_world(choice)
    route = world.route(index)
    rng = np.random.default_rng(seed)

    def nearest(place):
        return world.nearest(route, place)

    return route, lay_rail(route, 33, choice, rules, nearest, rng)


@pytest.mark.parametrize("city", CITIES)
def test_laws_of_the_rail(city) -> None:
    places = build_city(city, "train").rotations
    for index in range(60):
        route, rail = rail_of(city, index, seed=index)
        assert rail[0].kind == "turn"
        assert rail[0].place == route.start
        assert rail[0].heading == 33
        assert rail[-1].kind == "stop"
        assert rail[-1].place == route.legs[-1].end
        assert rail[-1].landmark == route.destination
        keys = [p for p in rail if p.kind != "forward"]
        assert [p.place for p in keys[1:]] == [leg.end for leg in route.legs]
        assert [p.kind for p in keys[:-1]] == ["turn"] * len(route.legs)
        assert [p.intersection for p in keys] == [False] + [True] * (len(keys) - 2) + [False]
        for before, turn, leg in zip(
            [33, *(leg.heading for leg in route.legs)], keys, route.legs, strict=False
        ):
            assert turn.compass == leg.compass
            assert turn.relative == relative_word(before, leg.heading)
        ends = iter(keys)
        begin, end = next(ends), next(ends)
        for point in rail[1:]:
            assert point.place in places
            if point.kind == "forward":
                assert point.landmark is None
                assert not point.intersection
                assert haversine(begin.place, point.place) > 8
                assert haversine(point.place, end.place) > 8
            elif point is not rail[-1]:
                begin, end = end, next(ends)
        # Each point's sentence is the one in force there.
        sentences = directions(route, relative_words(route, 33, FIXED))
        for point in rail:
            sentence = sentences[point.instruction]
            assert ("urn" in sentence.split(" to face")[0]) == (point.kind == "turn")
            if point.kind == "turn":
                assert f"to face {point.compass}." in sentence


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CITIES), st.integers(0, 999), st.integers(0, 5), st.integers(0, 10**6))
def test_dropping_and_counting_points(city, index, count, seed) -> None:
    all_kept = rail_of(city, index, seed, straight_line_length=count, drop_rate=0.0)[1]
    none_kept = rail_of(city, index, seed, straight_line_length=count, drop_rate=1.0)[1]
    half = rail_of(city, index, seed, straight_line_length=count)[1]
    assert all(p.kind != "forward" for p in none_kept)
    assert {p.place for p in half} <= {p.place for p in all_kept}
    legs = len(none_kept) - 1
    assert len(all_kept) <= len(none_kept) + legs * max(count - 1, 0)


def test_paper_code_lags_behind_after_a_short_leg_and_fixed_does_not() -> None:
    route = staircase(40, 4, 40)
    rng = np.random.default_rng(0)
    for rules, expected in ((FIXED, [0, 2, 4, 5]), (CODE, [0, 2, 3, 4])):
        rail = lay_rail(route, 350, Settings(), rules, lambda place: place, rng)
        assert [p.instruction for p in rail if p.kind != "forward"] == expected


@pytest.mark.parametrize(("metres", "short"), [(4.9, True), (5.1, False)])
def test_a_leg_is_short_up_to_five_metres(metres, short) -> None:
    rail = lay_rail(
        staircase(40, metres, 40), 350, Settings(), CODE, lambda p: p, np.random.default_rng(0)
    )
    keys = [p.instruction for p in rail if p.kind != "forward"]
    assert keys == ([0, 2, 3, 4] if short else [0, 2, 4, 5])


@pytest.mark.parametrize(("metres", "count"), [(39.5, 2), (40.5, 4)])
def test_points_keep_eight_metres_from_both_ends(metres, count) -> None:
    options = Settings(drop_rate=0.0)
    rail = lay_rail(staircase(metres, 40), 0, options, FIXED, lambda p: p, np.random.default_rng(0))
    kinds = "".join(p.kind[0] for p in rail)  # turn, forward ..., turn, ...
    assert kinds.startswith("t" + "f" * count + "t")


def test_points_that_move_to_one_panorama_are_one_in_fixed_and_several_as_released() -> None:
    route = staircase(100, 40)
    ends = {route.start, *(leg.end for leg in route.legs)}
    middle = (50 / 111_195, 0.0)
    for rules, count in ((FIXED, 1), (CODE, 4)):
        rail = lay_rail(
            route,
            0,
            Settings(drop_rate=0.0),
            rules,
            lambda p: p if p in ends else middle,
            np.random.default_rng(0),
        )
        leg = ["forward"] * count
        assert [p.kind for p in rail] == ["turn", *leg, "turn", *leg, "stop"]


def test_paper_code_does_not_wrap_headings_and_fixed_does() -> None:
    route = staircase(40, 40)
    assert relative_words(route, 350, CODE) == ["left", "right"]
    assert relative_words(route, 350, FIXED) == ["slightly right", "right"]


def test_short_legs_get_no_points_in_between() -> None:
    route = staircase(4.9, 30)
    rail = lay_rail(route, 0, Settings(drop_rate=0.0), FIXED, lambda p: p, np.random.default_rng(0))
    assert [p.kind for p in rail][:2] == ["turn", "turn"]
    # Of 6, 12, 18, 24 and 30 m, those within 8 m of an end fall away.
    assert [p.kind for p in rail][2:] == ["forward", "forward", "stop"]


def test_a_key_point_without_panorama_is_named() -> None:
    route = staircase(40, 40)
    far = route.legs[0].end
    with pytest.raises(LookupError) as error:
        lay_rail(
            route, 0, Settings(), FIXED, lambda p: None if p == far else p, np.random.default_rng(0)
        )
    assert error.value.args == (1,)
