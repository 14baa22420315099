"""Procedural cities: seeds, splits, streets that close, routes as many as asked for."""

import numpy as np
import pytest

from envs.virl.city.graph import SPLITS, City, build_city, well_inside_view
from envs.virl.geometry import bearing, compass_word, haversine, side_word, wrap
from envs.virl.names import landmark_names
from envs.virl.settings import CITIES, Settings
from envs.virl.world import open_world


@pytest.mark.parametrize("name", CITIES)
def test_a_city_is_the_same_whenever_it_is_built(name) -> None:
    first, second = City(name, "train"), City(name, "train")
    assert first.rotations == second.rotations
    assert first.signs == second.signs
    assert [first.route(i) for i in range(20)] == [second.route(i) for i in reversed(range(20))][
        ::-1
    ]


def test_splits_share_no_place_and_no_route() -> None:
    train, test = (build_city("New York", split) for split in SPLITS)
    assert not set(train.rotations) & set(test.rotations)
    nearest = min(haversine(p, test.node_places[0]) for p in train.rotations)
    assert nearest > 500  # metres
    assert train.route(0).legs != test.route(0).legs


def test_a_thousand_training_routes() -> None:
    world = open_world(Settings())
    assert world.count == 1000
    routes = [world.route(i) for i in range(1000)]
    assert len({(r.start, r.legs) for r in routes}) >= 990
    assert {len(r.legs) for r in routes} == {2, 3, 4, 5}
    assert {leg.compass for r in routes for leg in r.legs} >= {
        "northeast",
        "southeast",
        "southwest",
        "northwest",
        "north",
        "east",
        "south",
        "west",
    }
    with_landmark = [leg.landmark is not None for r in routes for leg in r.legs]
    assert 0.7 < np.mean(with_landmark) < 1.0


@pytest.mark.parametrize("name", CITIES)
def test_routes_are_walkable_and_say_what_is_true(name) -> None:
    city = build_city(name, "test")
    for index in range(100):
        route = city.route(index)
        here, before = route.start, None
        assert route.start in city.rotations
        for number, leg in enumerate(route.legs):
            assert leg.end in city.rotations
            assert leg.heading == int(bearing(here, leg.end))
            assert leg.compass == compass_word(leg.heading)
            assert leg.distance_m == round(haversine(here, leg.end)) >= 15
            if before is not None:
                assert abs(wrap(leg.heading - before)) > 15  # a real turn
            if leg.landmark is not None:
                side = side_word(leg.heading, bearing(leg.end, leg.landmark.place))
                assert leg.expression.endswith(f"{leg.landmark.name} is on your {side}")
                assert haversine(leg.end, leg.landmark.place) < 24
                assert well_inside_view(leg.heading, leg.end, leg.landmark)
            here, before = leg.end, leg.heading
            assert (number == len(route.legs) - 1) == leg.expression.startswith("The destination")


@pytest.mark.parametrize("name", CITIES)
def test_landmarks_have_names_of_their_own(name) -> None:
    signs = [s.landmark.name for s in build_city(name, "train").signs]
    assert len(signs) == len(set(signs)) > 100
    assert set(signs) <= set(landmark_names(name))
    assert all(n.isascii() for n in signs)


@pytest.mark.parametrize("name", CITIES)
def test_walls_leave_no_gap_around_any_panorama(name) -> None:
    """Every ray from every tenth panorama hits a wall within the view's reach or a long street."""
    city = build_city(name, "train")
    begin = np.array([w.begin for w in city.plan.walls])
    edge = np.array([w.end for w in city.plan.walls]) - begin
    angles = np.radians(np.arange(0.5, 360, 3))
    rays = np.stack([np.sin(angles), np.cos(angles)])
    for place in list(city.rotations)[::40]:
        to = begin - np.array(city.projection.metres(place))
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = rays[0] * edge[:, 1:] - rays[1] * edge[:, :1]
            t = (to[:, 0] * edge[:, 1] - to[:, 1] * edge[:, 0])[:, None] / cross
            s = (to[:, :1] * rays[1] - to[:, 1:] * rays[0]) / cross
        hit = (t > 0) & (s > -0.01) & (s < 1.01)
        assert hit.any(0).all()
        assert np.where(hit, t, np.inf).min() > 3.0  # nobody stands in a wall
