"""Street plans: what a style decides of a grid, and walls that close every corner."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from envs.virl.city.streets import CUT, SIZE, Street, StreetPlan, plan_streets
from envs.virl.city.style import STYLES

NONE_CUT = {"removed": 0.0, "diagonals": 0.0, "jitter": 0.0, "bend": 0.0}


def plan(seed=0, city="New York", **changes):
    return plan_streets(dataclasses.replace(STYLES[city], **changes), np.random.default_rng(seed))


def crossing():
    """A street to the east and one to the north, from one intersection."""
    nodes = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 40.0]])
    return StreetPlan(nodes, [Street(0, 1, 30.0, 5.0), Street(0, 2, 40.0, 5.0)])


def test_a_street_leaves_each_of_its_ends():
    streets = crossing()
    assert (streets.direction(0, 0), streets.direction(0, 1)) == ((1.0, 0.0), (-1.0, 0.0))
    assert [streets.heading(0, 0), streets.heading(0, 1)] == [90.0, 270.0]
    assert [streets.heading(1, 0), streets.heading(1, 2)] == [0.0, 180.0]
    assert (streets.other(1, 0), streets.other(1, 2)) == (2, 0)


def test_a_plan_is_its_seeds():
    first, same, other = plan(3), plan(3), plan(4)
    assert first.streets == same.streets
    assert first.walls == same.walls
    assert first.streets != other.streets


def test_a_grid_that_nothing_changes():
    found = plan(**NONE_CUT)
    assert len(found.nodes) == SIZE * SIZE
    assert len(found.streets) == 2 * SIZE * (SIZE - 1)
    assert found.diagonals == frozenset()
    degrees = Counter(len(streets) for streets in found.incident.values())
    assert degrees == {2: 4, 3: 4 * (SIZE - 2), 4: (SIZE - 2) ** 2}
    least, most = STYLES["New York"].block
    assert all(least <= street.length <= most for street in found.streets)
    # Every street runs along one of the two directions of the grid.
    turn = STYLES["New York"].grid_heading
    for number, street in enumerate(found.streets):
        assert found.heading(number, street.a) % 90 == pytest.approx(turn % 90)


def test_avenues_are_wide_and_run_one_way():
    found = plan(**NONE_CUT)
    narrow, wide = STYLES["New York"].half_width
    avenues = [street for street in found.streets if street.half_width == wide]
    assert {street.half_width for street in found.streets} == {narrow, wide}
    assert {street.a % SIZE for street in avenues} == {1, 4, 7, 10}
    assert all(street.b - street.a == SIZE for street in avenues)
    assert len(avenues) == 4 * (SIZE - 1)


def test_bends_and_jitter_move_intersections():
    straight = plan(**NONE_CUT)
    bent = plan(**NONE_CUT | {"bend": 20.0})
    shaken = plan(**NONE_CUT | {"jitter": 5.0})
    headings = {round(bent.heading(i, s.a)) % 90 for i, s in enumerate(bent.streets)}
    assert len(headings) > 1  # a city has more than two directions
    moved = np.hypot(*(shaken.nodes - straight.nodes).T)
    assert 3 < moved.mean() < 10
    assert len(shaken.streets) == len(straight.streets)


def test_diagonals_cut_blocks_and_are_numbered():
    found = plan(**NONE_CUT | {"diagonals": 1.0})
    assert len(found.diagonals) == (SIZE - 1) ** 2
    for number in found.diagonals:
        street = found.streets[number]
        assert abs(street.a - street.b) in (SIZE - 1, SIZE + 1)
    both = {found.streets[n].b - found.streets[n].a for n in found.diagonals}
    assert both == {SIZE - 1, SIZE + 1}
    some = plan(**NONE_CUT | {"diagonals": 0.3})
    assert 0.15 < len(some.diagonals) / (SIZE - 1) ** 2 < 0.45


def test_streets_are_left_out_but_no_intersection_becomes_a_dead_end():
    grid, thin = plan(**NONE_CUT), plan(**NONE_CUT | {"removed": 1.0})
    assert len(thin.streets) < 0.85 * len(grid.streets)
    for node, streets in thin.incident.items():
        assert len(streets) >= min(len(grid.incident[node]), 3)
    few = plan(**NONE_CUT | {"removed": 0.05})
    assert len(thin.streets) < len(few.streets) < len(grid.streets)


def test_each_street_has_a_wall_on_either_side_at_its_half_width():
    found = plan(**NONE_CUT)
    sides = Counter(wall.street for wall in found.walls)
    assert sides.pop(-1) == sum(len(streets) for streets in found.incident.values())
    assert sides == dict.fromkeys(range(len(found.streets)), 2)
    for wall in found.walls:
        if wall.street < 0:
            continue
        street = found.streets[wall.street]
        here, (east, north) = found.nodes[street.a], found.direction(wall.street, street.a)
        lefts = [(y - here[1]) * east - (x - here[0]) * north for x, y in (wall.begin, wall.end)]
        assert np.abs(lefts) == pytest.approx([street.half_width] * 2)
        assert lefts[0] == pytest.approx(lefts[1])
        # The street lies on the right of the wall's way.
        along = (wall.end[0] - wall.begin[0]) * east + (wall.end[1] - wall.begin[1]) * north
        assert math.copysign(1, along) == math.copysign(1, lefts[0])


@pytest.mark.parametrize("city", STYLES)
def test_walls_are_one_closed_line_around_each_block(city):
    found = plan(city=city)
    begins = Counter(wall.begin for wall in found.walls)
    ends = Counter(wall.end for wall in found.walls)
    assert begins == ends
    assert set(begins.values()) == {1}


def test_walls_stop_before_a_corner_by_the_width_of_the_other_street():
    found = plan(**NONE_CUT)
    node = 5 * SIZE + 4  # an avenue crosses a narrow street
    here = found.nodes[node]
    for number in found.incident[node]:
        east, north = found.direction(number, node)
        ends = [p for w in found.walls if w.street == number for p in (w.begin, w.end)]
        along = sorted((x - here[0]) * east + (y - here[1]) * north for x, y in ends)
        half = found.streets[number].half_width
        other = sum(STYLES["New York"].half_width) - half
        assert along[:2] == pytest.approx([other + CUT] * 2)
