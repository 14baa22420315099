"""The worlds: which routes settings mean, what training and evaluation share, which are one."""

import numpy as np
import pytest

from envs.virl.city.graph import build_city
from envs.virl.env import VIRL
from envs.virl.export import export
from envs.virl.geometry import haversine
from envs.virl.panorama import PanoramaStore, panorama_width
from envs.virl.settings import BENCHMARK, CITIES, Settings
from envs.virl.world import ProceduralWorld, area, open_world, route_overlap


@pytest.mark.parametrize(
    ("training", "evaluation", "overlap"),
    [
        ({}, {}, "all"),
        ({}, {"action_space": "relative"}, "all"),
        ({"routes": 50}, {"routes": 50}, "all"),
        ({"routes": 50}, {"routes": 49}, "all"),
        ({"routes": 49}, {"routes": 50}, "some"),
        ({}, {"split": "test"}, "none"),
        ({}, {"city": "Milan"}, "none"),
        ({}, {"city": "benchmark"}, "none"),
        ({"split": "test"}, {"city": "benchmark"}, "some"),
        ({"city": "benchmark"}, {"split": "test", "routes": 2}, "all"),
        ({"max_legs": 3}, {"max_legs": 5}, "some"),
        ({"max_legs": 2, "routes": 1}, {"max_legs": 5, "routes": 1}, "none"),
        ({}, {"world": "/data/routes"}, "unknown"),
        ({"world": "/data/a"}, {"world": "/data/b"}, "unknown"),
        ({"world": "/data/a"}, {"world": "/data/../data/a"}, "all"),
        ({"world": "/data/a", "routes": 5}, {"world": "/data/a"}, "some"),
        ({"world": "/data/a", "routes": 5}, {"world": "/data/a", "routes": 5}, "all"),
    ],
)
def test_overlap_of_training_and_evaluation_routes(training, evaluation, overlap) -> None:
    assert VIRL.overlap(training, evaluation) == overlap


def test_the_benchmark_has_two_routes_in_each_of_nine_cities() -> None:
    world = open_world(Settings(city="benchmark"))
    assert world.count == 18
    cities = [world.route(i).city for i in range(18)]
    assert sorted(cities) == sorted([*CITIES, *CITIES])
    assert all("/test/" in world.route(i).name for i in range(18))
    assert open_world(Settings(city="benchmark", routes=100)).count == 100


def test_routes_have_as_many_legs_as_are_asked_for() -> None:
    short = open_world(Settings(max_legs=3))
    assert {len(short.route(i).legs) for i in range(100)} == {2, 3}
    with pytest.raises(ValueError, match="max_legs is 3, but world="):
        Settings(max_legs=3, world="somewhere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three benchmark routes as a released data set, without pictures."""
    target = tmp_path_factory.mktemp("routes")
    export(open_world(Settings(city=BENCHMARK)), range(3), target)
    return target


def test_more_routes_than_a_folder_has(folder) -> None:
    assert open_world(Settings(world=str(folder))).count == 3
    assert open_world(Settings(world=str(folder), routes=3)).count == 3
    with pytest.raises(ValueError, match=r"routes is 4, but .* holds 3"):
        open_world(Settings(world=str(folder), routes=4))


def test_a_world_is_procedural_or_a_folder_that_exists(folder) -> None:
    with pytest.raises(ValueError, match="it must be 'procedural' or a folder that exists"):
        open_world(Settings(world=str(folder / "absent")))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (("New York",), "train", 1000, 5)),
        ({"city": "Lagos", "split": "test", "routes": 7}, (("Lagos",), "test", 7, 5)),
        ({"city": BENCHMARK}, (CITIES, "test", 18, 5)),
        ({"city": BENCHMARK, "max_legs": 2}, (CITIES, "test", 18, 2)),
    ],
)
def test_the_area_that_settings_mean(options, expected) -> None:
    found = area(Settings(**options))
    assert (found.cities, found.split, found.count, found.max_legs) == expected


def test_equal_settings_share_a_world_and_its_panoramas() -> None:
    first, same = open_world(Settings(city="Milan")), open_world(Settings(city="Milan"))
    other = open_world(Settings(city="London"))
    assert first is same
    assert first is not other
    assert first.store is other.store
    assert open_world(Settings(city="Milan", cache_mib=1)).store is not first.store


def test_the_nearest_panorama_is_within_the_radius_or_none(folder) -> None:
    for world in (open_world(Settings(city=BENCHMARK)), open_world(Settings(world=str(folder)))):
        route = world.route(0)
        north = (route.start[0] + 1 / 111_195, route.start[1])
        assert world.nearest(route, route.start) == route.start
        found = world.nearest(route, north)
        assert found is not None
        assert haversine(found, north) <= 1.01
        assert world.nearest(route, (route.start[0] + 0.2, route.start[1])) is None
    strict = open_world(Settings(city=BENCHMARK, mapping_radius=0.5))
    route = strict.route(0)
    assert strict.nearest(route, route.start) == route.start  # a panorama's own place
    assert strict.nearest(route, north) is None


def test_a_panorama_is_drawn_once(monkeypatch) -> None:
    drawn = []

    def render(scene, place, rotation, width):
        drawn.append((place, width))
        return np.zeros((width // 2, width), np.uint32)

    monkeypatch.setattr("envs.virl.world.render", render)
    monkeypatch.setattr("envs.virl.world._scene", lambda *where: where)
    world = ProceduralWorld(area(Settings(city="Milan")), 20.0, PanoramaStore(2**26))
    route = world.route(0)
    first = world.panorama(route, route.start, 32)
    assert world.panorama(route, route.start, 32) is first
    assert first.rotation == build_city("Milan", "train").rotations[route.start]
    world.panorama(route, route.legs[0].end, 32)
    world.panorama(route, route.start, 128)  # finer views need another
    widths = panorama_width(32), panorama_width(128)
    assert widths[0] < widths[1]
    expected = [(route.start, widths[0]), (route.legs[0].end, widths[0]), (route.start, widths[1])]
    assert drawn == expected


def test_names_are_those_that_routes_may_mention(folder) -> None:
    loaded = open_world(Settings(world=str(folder)))
    names = [m.name for i in range(3) for m in loaded.route(i).landmarks]
    assert loaded.landmark_names() == names
    made = set(open_world(Settings(city=BENCHMARK)).landmark_names())
    assert set(names) < made


@pytest.mark.parametrize(
    ("training", "evaluation", "overlap"),
    [
        ({"routes": 2}, {}, "some"),
        ({"routes": 2}, {"routes": 2}, "all"),
        ({"routes": 2}, {"routes": 3}, "some"),
        ({"routes": 3}, {"routes": 2}, "all"),
        ({}, {"routes": 2}, "all"),
    ],
)
def test_routes_of_one_folder_overlap_by_number(folder, training, evaluation, overlap) -> None:
    mine, theirs = (Settings(world=str(folder), **more) for more in (training, evaluation))
    assert route_overlap(mine, theirs) == overlap
    assert route_overlap(mine, Settings()) == route_overlap(Settings(), mine) == "unknown"
