"""Writes routes and panoramas of a world in the released data set's own format.

Input: a World, route numbers, a folder. Output: the files that dataset.py reads. Texts and actions
of the episodes stay the same; pictures lose what JPEG loses.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from envs.virl.dataset import MAPPING, ROUTES, VIEWS
from envs.virl.directions import directions
from envs.virl.geometry import Place, between, relative_word
from envs.virl.route import Leg, Route
from envs.virl.world import World


def export(
    world: World,
    routes: Iterable[int],
    folder: str | Path,
    *,
    image_size: int | None = None,
    straight_line_length: int = 5,
    quality: int = 95,
) -> int:
    """Write routes and every panorama that a rail on them may visit.

    image_size: of the views that the panoramas are to be fine enough for, pixels; None: no
        pictures, for language alone.
    Returns: the number of panoramas.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    infos, places = [], {}
    for number in routes:
        route = world.route(number)
        infos.append(_info(route))
        for place in _reachable(world, route, straight_line_length):
            places[place] = route
    text = json.dumps([infos, len(infos)], indent=1)
    (target / ROUTES).write_text(text, encoding="utf-8")
    mapping = {place: panorama_id(place) for place in places}
    (target / MAPPING).write_bytes(pickle.dumps(mapping))
    if image_size is not None:
        (target / VIEWS).mkdir(exist_ok=True)
        for place, route in places.items():
            _write_panorama(world, route, place, target / VIEWS, image_size, quality)
    return len(mapping)


def panorama_id(place: Place) -> str:
    """A panorama's file name, from where it stands."""
    return hashlib.sha256(repr(place).encode()).hexdigest()[:22]


def _reachable(world: World, route: Route, count: int) -> list[Place]:
    """Key points and all in-between points that a rail may be relocated to."""
    reachable = [world.nearest(route, route.start)]
    for leg in route.legs:
        begin, end = reachable[-1], world.nearest(route, leg.end)
        assert begin is not None and end is not None, f"{route.name} leaves the panoramas"
        for i in range(1, count + 1):
            place = world.nearest(route, between(begin, end, i / count))
            if place is not None:
                reachable.append(place)
        reachable.append(end)
    return [place for place in reachable if place is not None]


def _write_panorama(
    world: World, route: Route, place: Place, folder: Path, image_size: int, quality: int
) -> None:
    name = panorama_id(place)
    panorama = world.panorama(route, place, image_size)
    height, width = panorama.pixels.shape
    rgb = panorama.pixels.view(np.uint8).reshape(height, width, 4)[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    picture.save(folder / f"{name}.jpg", quality=quality, subsampling=0)
    metadata = {"panoId": name, "lat": place[0], "lng": place[1], "rotation": panorama.rotation}
    (folder / f"{name}.metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def _info(route: Route) -> dict[str, object]:
    """A route as the released file holds it."""
    headings = [route.human_heading, *(leg.heading for leg in route.legs)]
    turns = [relative_word(a, b) for a, b in pairwise(headings)]
    landmarks = [
        None
        if leg.landmark is None
        else {"name": leg.landmark.name, "geocode": list(leg.landmark.place)}
        for leg in route.legs[:-1]
    ]
    return {
        "start_place": {
            "geocode": list(route.start),
            "relocated_geocode": list(route.start),
        },
        "dest_place": {
            "name": route.destination.name,
            "geocode": list(route.destination.place),
        },
        "init_heading": route.init_heading,
        "milestone_info": "".join(
            _block(number, leg, headings[number]) for number, leg in enumerate(route.legs)
        ),
        "route_results": {
            "geocode_list": [list(leg.end) for leg in route.legs],
            "landmark_list": landmarks,
            "polyline": encode_polyline([route.start, *(leg.end for leg in route.legs)]),
            "instructions": directions(route, turns),
            "distance_list": [leg.distance_m for leg in route.legs],
        },
    }


def _block(number: int, leg: Leg, human_heading: int) -> str:
    lines = {
        "intersection_idx": str(number + 1),
        "landmarks": leg.expression,
        "distance": f"{leg.distance_m} meters",
        "human_heading": str(human_heading),
        "to_next_intersection_heading": f"{leg.heading} ({leg.compass})",
    }
    body = "".join(f'"{key}": "{value}",\n' for key, value in lines.items())
    return f"\n{{\n{body}}}\n"


def encode_polyline(places: list[Place]) -> str:
    """Google's encoded polyline, 5 decimals.

    >>> encode_polyline([(38.5, -120.2), (40.7, -120.95), (43.252, -126.453)])
    '_p~iF~ps|U_ulLnnqC_mqNvxq`@'
    """
    text, before = [], (0, 0)
    for place in places:
        now = (round(place[0] * 1e5), round(place[1] * 1e5))
        for a, b in zip(before, now, strict=True):
            value = (b - a) << 1
            value = ~value if b < a else value
            while value >= 0x20:
                text.append(chr((0x20 | (value & 0x1F)) + 63))
                value >>= 5
            text.append(chr(value + 63))
        before = now
    return "".join(text)
