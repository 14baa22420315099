"""What stands in the streets: no vehicle upon another one, a person, a tree or a crossing."""

import numpy as np
import pytest

from envs.virl.city.graph import SPLITS, build_city
from envs.virl.drawing.look import make_look
from envs.virl.drawing.props import (
    APART_M,
    CLEAR_OF_CROSSING_M,
    CLEAR_OF_SIGN_M,
    GAP_M,
    VEHICLE_WIDTH_M,
    place_props,
)
from envs.virl.settings import CITIES
from tests.support.slow import fast

PPM = 4.0
CROSSING_M = 14.5  # the far edge of the painted crossings, from the intersection
CASES = [(name, split) for name in CITIES for split in SPLITS]
FEW = CASES[::5]  # of both splits


def placed(name, split, seed):
    city, look = build_city(name, split), make_look(name, PPM)
    props = place_props(city, look, np.random.default_rng(seed))
    return city, look, props, [p for p in props if p.kind in look.style.vehicles]


def spots(props):
    return np.array([(p.x, p.y) for p in props])


def corners(vehicle):
    """Middle, ends and corners of a vehicle seen from above."""
    east, north = vehicle.along
    return [
        (vehicle.x + east * a - north * b, vehicle.y + north * a + east * b)
        for a in np.array([-0.5, 0.0, 0.5]) * vehicle.side.width
        for b in np.array([-0.5, 0.0, 0.5]) * VEHICLE_WIDTH_M
    ]


@pytest.mark.parametrize(("name", "split"), fast(FEW, CASES))
@pytest.mark.parametrize("seed", fast([0], range(4)))
def test_vehicles_touch_neither_each_other_nor_anyone(name, split, seed) -> None:
    _, look, props, vehicles = placed(name, split, seed)
    assert len(vehicles) > 250
    where, radii = spots(vehicles), np.array([v.side.width / 2 for v in vehicles])
    apart = np.hypot(*(where[:, None] - where[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= APART_M
    assert (apart - radii - radii[:, None]).min() >= GAP_M - 1e-9  # whichever way they turn
    others = spots([p for p in props if p.kind not in look.style.vehicles])
    for vehicle in vehicles:
        dx, dy = (others - (vehicle.x, vehicle.y)).T
        along = np.abs(dx * vehicle.along[0] + dy * vehicle.along[1])
        across = np.abs(dx * vehicle.along[1] - dy * vehicle.along[0])
        assert not ((along < vehicle.side.width / 2) & (across < VEHICLE_WIDTH_M / 2)).any()


@pytest.mark.parametrize(("name", "split"), fast(FEW, CASES))
def test_vehicles_stand_in_the_roadway_off_every_crossing(name, split) -> None:
    city, _, _, vehicles = placed(name, split, 0)
    nodes, streets = city.plan.nodes, city.plan.streets
    for vehicle in vehicles:
        points = np.array(corners(vehicle))
        away = np.hypot(*(points[:, None] - nodes[None]).transpose(2, 0, 1))
        assert away.min() > CROSSING_M
        inside = []
        for node in np.argsort(away.min(0))[:4]:
            for number in city.plan.incident[int(node)]:
                east, north = city.plan.direction(number, streets[number].a)
                dx, dy = (points - nodes[streets[number].a]).T
                along, left = dx * east + dy * north, dy * east - dx * north
                road = streets[number].half_width - 3.2
                inside.append(
                    (np.abs(left) <= road).all()
                    and along.min() > CROSSING_M
                    and along.max() < streets[number].length - CROSSING_M
                )
        assert any(inside)


@pytest.mark.parametrize("name", fast(CITIES[::3], CITIES))
def test_trees_and_vehicles_leave_signs_and_crossings_free(name) -> None:
    city, look, props, vehicles = placed(name, "test", 1)
    tall = spots([p for p in props if p.kind == "tree"] + vehicles)
    signs = np.array([s.centre for s in city.signs])
    assert np.hypot(*(tall[:, None] - signs[None]).transpose(2, 0, 1)).min() >= CLEAR_OF_SIGN_M
    for node in city.plan.nodes:
        assert np.hypot(*(tall - node).T).min() > CLEAR_OF_CROSSING_M * 0.8
    kinds = {p.kind for p in props}
    assert kinds == {"tree", "person", *look.style.vehicles, *look.style.furniture}
    assert len(props) > 900


def test_equal_generators_place_equal_props() -> None:
    first, second = (placed("Milan", "train", 5)[2] for _ in range(2))
    assert [(p.kind, p.x, p.y) for p in first] == [(p.kind, p.x, p.y) for p in second]
