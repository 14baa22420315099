"""The two worlds behind one interface: the procedural cities and a released data set.

Input: Settings. Output: a World with routes, nearest panoramas and panoramas by place. Worlds and
their store of panoramas are shared by all environments of a process.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from dataclasses import dataclass, replace
from typing import Protocol

from envs.virl.city.graph import LEGS, City, build_city
from envs.virl.dataset import Dataset
from envs.virl.drawing.look import make_look
from envs.virl.drawing.render import render
from envs.virl.drawing.scene import Scene, make_scene
from envs.virl.geometry import Place, PlaceIndex
from envs.virl.panorama import Panorama, PanoramaStore, panorama_width
from envs.virl.route import Route
from envs.virl.settings import (
    BENCHMARK,
    BENCHMARK_ROUTES_A_CITY,
    CITIES,
    TRAINING_ROUTES,
    Settings,
)

_LOCK = threading.Lock()


class World(Protocol):
    """What an environment needs of a world."""

    @property
    def count(self) -> int:
        """Number of routes."""

    def route(self, index: int) -> Route:
        """The route of a number in [0, count)."""

    def nearest(self, route: Route, place: Place) -> Place | None:
        """The nearest panorama within the mapping radius, or None."""

    def panorama(self, route: Route, place: Place, image_size: int) -> Panorama:
        """The panorama at a place that `nearest` gave, fine enough for views of a size."""

    def landmark_names(self) -> list[str]:
        """Every landmark name that a route may mention."""


@dataclass(frozen=True)
class Area:
    """Which routes of the procedural cities: the first `count`, through the cities in turn."""

    cities: tuple[str, ...]
    split: str
    count: int
    max_legs: int


def area(settings: Settings) -> Area:
    """The routes that the settings of a procedural world mean."""
    benchmark = settings.city == BENCHMARK
    cities = CITIES if benchmark else (settings.city or CITIES[0],)
    split = settings.split or ("test" if benchmark else "train")
    default = BENCHMARK_ROUTES_A_CITY * len(cities) if benchmark else TRAINING_ROUTES
    return Area(cities, split, settings.routes or default, settings.max_legs or LEGS[1])


class ProceduralWorld:
    """Routes in one city, or the benchmark: two routes in each of nine, the cities in turn."""

    def __init__(self, area: Area, radius_m: float, store: PanoramaStore) -> None:
        self.cities, self.split = area.cities, area.split
        self.count, self.max_legs = area.count, area.max_legs
        self.store = store
        self._radius_m = radius_m
        self._indices: dict[str, PlaceIndex] = {}

    def city(self, name: str) -> City:
        """A city of this world by name, built when first asked for."""
        return build_city(name, self.split)

    def route(self, index: int) -> Route:
        """The route of a number: the benchmark goes through its cities in turn."""
        city = self.city(self.cities[index % len(self.cities)])
        return city.route(index // len(self.cities), self.max_legs)

    def nearest(self, route: Route, place: Place) -> Place | None:
        """The nearest panorama of the route's city within the mapping radius, or None."""
        places = self.city(route.city).rotations
        if place in places:
            return place
        if route.city not in self._indices:
            self._indices[route.city] = PlaceIndex(places, self._radius_m)
        return self._indices[route.city].nearest(place)

    def panorama(self, route: Route, place: Place, image_size: int) -> Panorama:
        """Render a place of the route's city, or take it from the store."""
        width = panorama_width(image_size)

        def make() -> Panorama:
            rotation = self.city(route.city).rotations[place]
            pixels = render(_scene(route.city, self.split, width), place, rotation, width)
            return Panorama(pixels, rotation)

        return self.store.get((route.city, self.split, place, width), make)

    def landmark_names(self) -> list[str]:
        """Names of all landmarks of this world's cities."""
        return [s.landmark.name for name in self.cities for s in self.city(name).signs]


class DatasetWorld:
    """The routes of a released data set."""

    def __init__(self, dataset: Dataset, count: int, store: PanoramaStore) -> None:
        self.dataset, self.count, self.store = dataset, count, store

    def route(self, index: int) -> Route:
        """The route of a number."""
        return self.dataset.routes[index]

    def nearest(self, route: Route, place: Place) -> Place | None:
        """The nearest panorama within the mapping radius, or None."""
        return self.dataset.nearest(place)

    def panorama(self, route: Route, place: Place, image_size: int) -> Panorama:
        """Read a panorama's file, or take it from the store."""
        key = (str(self.dataset.folder), place)
        return self.store.get(key, lambda: self.dataset.panorama(route, place))

    def landmark_names(self) -> list[str]:
        """Names of all landmarks of all routes."""
        return [landmark.name for route in self.dataset.routes for landmark in route.landmarks]


@functools.lru_cache(maxsize=10)
def _locked_scene(city: str, split: str, width: int) -> Scene:
    return make_scene(build_city(city, split), make_look(city, width / 64))


def _scene(city: str, split: str, width: int) -> Scene:
    with _LOCK:  # one thread draws a city's stock, the others wait for it
        return _locked_scene(city, split, width)


def open_world(settings: Settings) -> World:
    """The world that the settings name; equal settings share one.

    Raises:
        ValueError: no such folder, a damaged data set, or more routes than it holds.
    """
    store = _store(settings.cache_mib)
    if settings.world != "procedural":
        if not os.path.isdir(settings.world):
            raise ValueError(
                f"world is {settings.world!r}; it must be 'procedural' or a folder that exists"
            )
        vision = settings.modality == "vision"
        dataset = _dataset(settings.world, settings.mapping_radius, vision)
        count = settings.routes or len(dataset.routes)
        if count > len(dataset.routes):
            raise ValueError(
                f"routes is {count}, but {settings.world} holds {len(dataset.routes)} routes"
            )
        return DatasetWorld(dataset, count, store)
    return _procedural(area(settings), settings.mapping_radius, store)


def route_overlap(training: Settings, evaluation: Settings) -> str:
    """How many routes of the evaluation are routes of the training: none, some, all or unknown.

    Routes are compared by where they lead, whatever the rule by which turns are stated. Two
    folders of data are not compared with each other or with the procedural cities.
    """
    if training.world == evaluation.world == "procedural":
        trained, evaluated = area(training), area(evaluation)
        if trained.split != evaluated.split or not set(trained.cities) & set(evaluated.cities):
            return "none"
        if replace(trained, count=evaluated.count) == evaluated:
            return "all" if evaluated.count <= trained.count else "some"
        walked, new = _ways(training), _ways(evaluation)
        return "all" if new <= walked else "some" if new & walked else "none"
    if os.path.realpath(training.world) != os.path.realpath(evaluation.world):
        return "unknown"
    if training.routes is None:
        return "all"
    return "all" if (evaluation.routes or math.inf) <= training.routes else "some"


def _ways(settings: Settings) -> set[str]:
    """Where the routes of a world lead."""
    world = open_world(settings)
    return {world.route(index).way for index in range(world.count)}


@functools.lru_cache(maxsize=4)
def _store(cache_mib: int) -> PanoramaStore:
    return PanoramaStore(cache_mib * 2**20)


@functools.lru_cache(maxsize=16)
def _procedural(area: Area, radius_m: float, store: PanoramaStore) -> ProceduralWorld:
    return ProceduralWorld(area, radius_m, store)


@functools.lru_cache(maxsize=4)
def _dataset(folder: str, radius_m: float, vision: bool) -> Dataset:
    return Dataset(folder, radius_m, vision)
