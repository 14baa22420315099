"""Exports: what is written, and in which form."""

import json
import pickle

import numpy as np
from PIL import Image

from envs.virl.dataset import MAPPING, ROUTES, VIEWS, read_milestones
from envs.virl.export import encode_polyline, export, panorama_id
from envs.virl.geometry import relative_word
from envs.virl.rail import lay_rail
from envs.virl.settings import Settings, resolve
from envs.virl.world import open_world


def test_polyline() -> None:
    known = [(38.5, -120.2), (40.7, -120.95), (43.252, -126.453)]
    assert encode_polyline(known) == "_p~iF~ps|U_ulLnnqC_mqNvxq`@"


def test_polyline_of_places_that_come_back_and_of_none() -> None:
    assert encode_polyline([]) == ""
    assert encode_polyline([(1e-5, -1e-5), (1e-5, -1e-5), (0.0, 0.0)]) == "A@??@A"


def test_the_route_file_is_of_the_released_form(tmp_path) -> None:
    world = open_world(Settings(city="Milan"))
    count = export(world, [4, 2], tmp_path)
    infos, number = json.loads((tmp_path / ROUTES).read_text())
    assert number == len(infos) == 2
    for index, info in zip([4, 2], infos, strict=True):
        route = world.route(index)
        assert info["start_place"]["relocated_geocode"] == list(route.start)
        assert info["dest_place"]["name"] == route.destination.name
        results = info["route_results"]
        assert [tuple(place) for place in results["geocode_list"]] == [g.end for g in route.legs]
        assert results["distance_list"] == [leg.distance_m for leg in route.legs]
        names = [leg.landmark and leg.landmark.name for leg in route.legs[:-1]]
        assert [found and found["name"] for found in results["landmark_list"]] == names
        before, after = route.human_heading, route.legs[0].heading
        assert f"turn {relative_word(before, after)} to face" in results["instructions"][0]
        milestones = read_milestones(info["milestone_info"])
        assert [block["intersection_idx"] for block in milestones] == [
            str(leg + 1) for leg in range(len(route.legs))
        ]
        # Each block says how the player comes to it.
        assert [block["human_heading"] for block in milestones] == [
            str(heading) for heading in (before, *(leg.heading for leg in route.legs[:-1]))
        ]
    mapping = pickle.loads((tmp_path / MAPPING).read_bytes())
    assert len(mapping) == count == len(set(mapping.values()))
    assert all(panorama_id(place) == name for place, name in mapping.items())
    assert not (tmp_path / VIEWS).exists()  # nothing is drawn for words alone


def test_every_place_that_a_rail_can_reach_is_written(tmp_path) -> None:
    world = open_world(Settings(city="Milan"))
    export(world, [0], tmp_path, straight_line_length=5)
    mapping = pickle.loads((tmp_path / MAPPING).read_bytes())
    choice = Settings(city="Milan", drop_rate=0.0, straight_line_length=5)
    route = world.route(0)
    for rules in (resolve(choice), resolve(Settings(preset="paper_code"))):
        rail = lay_rail(
            route, 0, choice, rules, lambda p: world.nearest(route, p), np.random.default_rng(0)
        )
        assert {point.place for point in rail} <= set(mapping)
    fewer = export(world, [0], tmp_path / "ends", straight_line_length=0)
    assert fewer == len(route.legs) + 1 < len(mapping)


def test_pictures_are_written_once_for_each_place(tmp_path) -> None:
    world = open_world(Settings(city="Milan"))
    count = export(world, [0, 0], tmp_path, image_size=16, straight_line_length=0)
    files = sorted((tmp_path / VIEWS).iterdir())
    assert len(files) == 2 * count
    place = world.route(0).start
    name = panorama_id(place)
    metadata = json.loads((tmp_path / VIEWS / f"{name}.metadata.json").read_text())
    drawn = world.panorama(world.route(0), place, 16)
    assert (metadata["panoId"], metadata["lat"], metadata["lng"]) == (name, *place)
    assert metadata["rotation"] == drawn.rotation
    with Image.open(tmp_path / VIEWS / f"{name}.jpg") as picture:
        assert picture.size == drawn.pixels.shape[::-1]
        difference = np.asarray(picture.convert("RGB")).astype(int) - drawn.pixels.view(
            np.uint8
        ).reshape(*drawn.pixels.shape, 4)[..., :3].astype(int)
    assert np.abs(difference).mean() < 4
