"""Distances, bearings and heading words: checked over all pairs and against known values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.virl.geometry import (
    COMPASS,
    SIDES,
    PlaceIndex,
    Projection,
    bearing,
    compass_word,
    haversine,
    relative_word,
    relative_word_legacy,
    side_word,
    wrap,
)

places = st.tuples(st.floats(-70, 70), st.floats(-170, 170))


def test_haversine_and_bearing_of_known_places() -> None:
    london, paris = (51.5074, -0.1278), (48.8566, 2.3522)
    assert haversine(london, paris) == pytest.approx(343_556, rel=2e-3)
    assert bearing(london, paris) == pytest.approx(148.1, abs=0.2)
    assert bearing((0.0, 0.0), (0.0, 1.0)) == pytest.approx(90.0)
    assert haversine(london, london) == 0.0


def test_relative_words_over_all_pairs_of_headings() -> None:
    for before in range(360):
        for after in range(360):
            clockwise = (after - before) % 360
            word = relative_word(before, after)
            assert ("right" in word) == (clockwise < 180)
            assert word.startswith("slightly") == (min(clockwise, 360 - clockwise) < 45)
            assert -180 <= wrap(after - before) < 180
            # Turning all by the same angle changes nothing.
            assert word == relative_word((before + 77) % 360, (after + 77) % 360)


def test_released_code_does_not_wrap_and_the_correction_does() -> None:
    assert relative_word_legacy(350, 10) == "left"
    assert relative_word(350, 10) == "slightly right"
    assert relative_word_legacy(0, 45) == "slightly right"  # 45 is still slight there
    assert relative_word(0, 45) == "right"
    assert relative_word_legacy(90, 90) == "slightly left"
    # Where nothing wraps, the two agree but for the border of 45 degrees and no turn at all.
    for before in range(360):
        for after in range(360):
            if abs(after - before) < 180 and abs(after - before) not in (0, 45):
                assert relative_word(before, after) == relative_word_legacy(before, after)


def test_compass_and_side_words_are_the_nearest_ones() -> None:
    for heading in range(360):
        nearest = min(range(8), key=lambda i: abs(wrap(heading - 45 * i)))
        assert compass_word(heading) == COMPASS[nearest]
        assert side_word(0, heading) == SIDES[nearest]
        assert side_word(123, (123 + heading) % 360) == SIDES[nearest]


@given(places, st.floats(-900, 900), st.floats(-900, 900))
def test_projection_goes_there_and_back(origin, east, north) -> None:
    projection = Projection(origin)
    place = projection.place(east, north)
    back = projection.metres(place)
    assert back == pytest.approx((east, north), abs=0.02)
    distance = math.hypot(east, north)
    assert haversine(projection.place(0, 0), place) == pytest.approx(distance, rel=2e-3, abs=0.1)


@given(places, st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), max_size=30))
def test_index_finds_what_a_full_search_finds(origin, offsets) -> None:
    projection = Projection(origin)
    candidates = [projection.place(*offset) for offset in offsets]
    index = PlaceIndex(candidates, 20.0)
    here = projection.place(3.0, -4.0)
    within = [c for c in candidates if haversine(here, c) <= 20.0]
    found = index.nearest(here)
    if not within:
        assert found is None
    else:
        assert found is not None
        assert haversine(here, found) == min(haversine(here, c) for c in within)
