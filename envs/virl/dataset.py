"""Reads a released V-IRL data set: routes, panoramas and where they stand.

Input: a folder with `route_infos.json`, `gps_pano_mapping.pkl` and `street_views/`. Output: Routes
and Panoramas, or a DatasetError that names the file, the route and the field. No pickle runs code,
nothing is fetched.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import unicodedata
from pathlib import Path
from typing import TypeGuard, TypeVar

import numpy as np
from PIL import Image

from envs.base import EnvironmentFailure
from envs.virl.drawing.brush import pack
from envs.virl.geometry import COMPASS, Place, PlaceIndex
from envs.virl.panorama import Panorama
from envs.virl.route import NO_LANDMARK, Landmark, Leg, Route, name_and_side

ROUTES, MAPPING, VIEWS = "route_infos.json", "gps_pano_mapping.pkl", "street_views"
T = TypeVar("T")
_BLOCK = re.compile(r"\{([^{}]*)\}")
_PAIR = re.compile(r'"([^"\n]+)"\s*:\s*"(.*?)"\s*(?:,\s*(?="|$)|$)', re.DOTALL)
_HEADING = re.compile(r"\s*(-?\d+)\s*\((\w+)\)\s*")


class DatasetError(ValueError):
    """A data set is damaged; the message names the file, the route and the field."""


class _Restricted(pickle.Unpickler):
    """Admits dict, tuple, str and float; refuses every other name before it is looked up."""

    def find_class(self, module: str, name: str) -> type:
        """Resolve one of the four admitted names."""
        admitted = {"dict": dict, "tuple": tuple, "str": str, "float": float}
        if module not in ("builtins", "__builtin__") or name not in admitted:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; only dict, tuple, str and float are admitted"
            )
        return admitted[name]


def read_mapping(path: Path) -> dict[Place, str]:
    """Read {(latitude, longitude): panorama id} without running anything."""
    try:
        loaded = _Restricted(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    # A damaged pickle may fail in any way; whatever it is, the file is at fault.
    except Exception as error:
        raise DatasetError(f"{path}: is no admissible pickle: {error}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise DatasetError(f"{path}: must hold a dict that is not empty, not {_kind(loaded)}")
    mapping = {}
    for key, value in loaded.items():
        if not (isinstance(key, tuple) and len(key) == 2 and all(map(_is_number, key))):
            raise DatasetError(f"{path}: key {key!r} must be a pair (latitude, longitude)")
        if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+", value):
            raise DatasetError(f"{path}: value {value!r} of key {key!r} must be a panorama id")
        mapping[(float(key[0]), float(key[1]))] = value
    return mapping


def read_milestones(text: str) -> list[dict[str, str]]:
    """Read brace blocks of quoted pairs, one after another, trailing commas and all.

    >>> read_milestones('{"distance": "16 meters",}{"distance": "9 meters",}')
    [{'distance': '16 meters'}, {'distance': '9 meters'}]
    """
    return [dict(_PAIR.findall(body.strip())) for body in _BLOCK.findall(text)]


class _Reader:
    """Reads one route, keeping in mind what to blame: file, route, field."""

    def __init__(self, path: Path, number: int, name: str) -> None:
        self.where = f"{path}: route {number}"
        self.name = name

    def fault(self, field: str, rule: str) -> DatasetError:
        return DatasetError(f"{self.where}: {field} {rule}")

    def get(self, holder: object, field: str, path: str, kind: type[T]) -> T:
        if not isinstance(holder, dict) or field not in holder:
            raise self.fault(path, "is absent")
        value = holder[field]
        if not isinstance(value, kind):
            raise self.fault(path, f"must be {kind.__name__}, not {_kind(value)}")
        return value

    def place(self, value: object, path: str) -> Place:
        if not (
            isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
        ):
            raise self.fault(path, f"must be [latitude, longitude], not {value!r}")
        return (float(value[0]), float(value[1]))

    def route(self, info: object) -> Route:
        start = self.get(info, "start_place", "start_place", dict)
        assert isinstance(info, dict)
        at = self.place(start.get("relocated_geocode"), "start_place.relocated_geocode")
        goal = self.get(info, "dest_place", "dest_place", dict)
        destination = Landmark(
            plain_text(self.get(goal, "name", "dest_place.name", str)),
            self.place(goal.get("geocode"), "dest_place.geocode"),
        )
        results = self.get(info, "route_results", "route_results", dict)
        ends = self.get(results, "geocode_list", "route_results.geocode_list", list)
        landmarks = self.get(results, "landmark_list", "route_results.landmark_list", list)
        text = self.get(info, "milestone_info", "milestone_info", str)
        blocks = read_milestones(text)
        if not ends:
            raise self.fault("route_results.geocode_list", "is empty")
        if len(blocks) != len(ends):
            raise self.fault(
                "milestone_info", f"has {len(blocks)} blocks for {len(ends)} key points"
            )
        if len(landmarks) < len(ends) - 1:
            raise self.fault(
                "route_results.landmark_list",
                f"has {len(landmarks)} entries for {len(ends)} key points; it must have one fewer",
            )
        heading = info.get("init_heading", 0)
        if not _is_number(heading):
            raise self.fault("init_heading", f"must be a number, not {heading!r}")
        known = [
            *landmarks[: len(ends) - 1],
            {"name": destination.name, "geocode": goal["geocode"]},
        ]
        legs = [
            self.leg(number, block, end, landmark)
            for number, (block, end, landmark) in enumerate(zip(blocks, ends, known, strict=True))
        ]
        if legs[-1].landmark is None:
            raise self.fault(
                f"milestone_info[{len(legs) - 1}].landmarks", "must name the destination"
            )
        human = _HEADING.fullmatch(f"{blocks[0].get('human_heading', '0')} (x)")
        return Route(
            self.name,
            self.name,
            at,
            int(heading) % 360,
            tuple(legs),
            int(human.group(1)) if human else 0,
        )

    def leg(self, number: int, block: dict[str, str], end: object, known: object) -> Leg:
        field = f"milestone_info[{number}]"
        place = self.place(end, f"route_results.geocode_list[{number}]")
        if "to_next_intersection_heading" not in block:
            raise self.fault(f"{field}.to_next_intersection_heading", "is absent")
        stated = block["to_next_intersection_heading"]
        heading = _HEADING.fullmatch(stated)
        if heading is None or heading.group(2) not in COMPASS:
            raise self.fault(
                f"{field}.to_next_intersection_heading",
                f"must look like '298 (northwest)', not {stated!r}",
            )
        expression = plain_text(block.get("landmarks", NO_LANDMARK))
        landmark = None
        if expression != NO_LANDMARK:
            where = place
            if isinstance(known, dict) and "geocode" in known:
                path = f"route_results.landmark_list[{number}].geocode"
                where = self.place(known["geocode"], path)
            landmark = Landmark(name_and_side(expression)[0], where)
        metres = re.match(r"\d+", block.get("distance", "0"))
        return Leg(
            int(heading.group(1)) % 360,
            heading.group(2),
            place,
            landmark,
            expression,
            int(metres.group()) if metres else 0,
        )


def read_routes(path: Path) -> list[Route]:
    """Read all routes: `[routes, cursor]`, a bare list, or one route."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is broken JSON: {error}") from error
    if isinstance(loaded, dict):
        loaded = [loaded]
    elif isinstance(loaded, list) and len(loaded) == 2 and isinstance(loaded[0], list):
        loaded = loaded[0]
    if not isinstance(loaded, list) or not loaded:
        raise DatasetError(f"{path}: the list of routes is empty or absent")
    folder = path.parent.name
    return [_Reader(path, i, f"{folder}/{i}").route(info) for i, info in enumerate(loaded)]


class Dataset:
    """A released data set, read and checked; panoramas are read when asked for.

    vision: also check that the panorama and the rotation of each key point are there.
    """

    def __init__(self, folder: str, mapping_radius: float, vision: bool) -> None:
        self.folder = Path(folder)
        self.routes = read_routes(self.folder / ROUTES)
        self.mapping = read_mapping(self.folder / MAPPING)
        self._index = PlaceIndex(self.mapping, mapping_radius)
        for number, route in enumerate(self.routes):
            self._check(number, route, mapping_radius, vision)

    def nearest(self, place: Place) -> Place | None:
        """The nearest place with a panorama within the mapping radius, or None."""
        return self._index.nearest(place)

    def _check(self, number: int, route: Route, radius: float, vision: bool) -> None:
        points = [("start_place.relocated_geocode", route.start)]
        points += [
            (f"route_results.geocode_list[{i}]", leg.end) for i, leg in enumerate(route.legs)
        ]
        for field, place in points:
            panorama = self.nearest(place)
            if panorama is None:
                raise DatasetError(
                    f"{self.folder / ROUTES}: route {number}: {field} {list(place)} has no "
                    f"panorama within {radius} m in {MAPPING}"
                )
            if vision:
                picture = self._picture(panorama)
                if not picture.is_file():
                    raise DatasetError(
                        f"{picture}: is missing; route {number} needs it for {field}"
                    )
                try:
                    self.rotation(panorama)
                except DatasetError as error:
                    raise DatasetError(f"{error}; route {number} needs it for {field}") from error

    def _picture(self, place: Place) -> Path:
        return self.folder / VIEWS / f"{self.mapping[place]}.jpg"

    def rotation(self, place: Place) -> float:
        """Where north stands in a panorama, degrees, from its metadata file."""
        path = self.folder / VIEWS / f"{self.mapping[place]}.metadata.json"
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: is broken JSON: {error}") from error
        if not isinstance(loaded, dict) or "rotation" not in loaded:
            raise DatasetError(f"{path}: rotation is absent")
        if not _is_number(loaded["rotation"]):
            raise DatasetError(
                f"{path}: rotation must be a number of degrees, not {loaded['rotation']!r}"
            )
        return float(loaded["rotation"])

    def panorama(self, route: Route, place: Place) -> Panorama:
        """Read the panorama of a place that `nearest` gave."""
        path = self._picture(place)
        try:
            rotation = self.rotation(place)
            with Image.open(path) as image:
                pixels = pack(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise EnvironmentFailure(f"route {route.name}: panorama {path}: {error}") from error
        if pixels.shape[1] != 2 * pixels.shape[0]:
            raise EnvironmentFailure(
                f"route {route.name}: panorama {path}: is {pixels.shape[1]} x {pixels.shape[0]}; "
                "an equirectangular picture is twice as wide as high"
            )
        return Panorama(np.ascontiguousarray(pixels), rotation)


_JOINERS = "\u200c\u200d"  # letters of some scripts change their shape by them


def plain_text(text: str) -> str:
    """The text in composed form, without what is no character of a line: controls, halves, marks
    of direction. Every script stays.
    """
    kept = (
        " " if c.isspace() else c
        for c in unicodedata.normalize("NFC", text)
        if c.isspace() or c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Cn")
    )
    return " ".join("".join(kept).split()) or "?"


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: object) -> str:
    return type(value).__name__
