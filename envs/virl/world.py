"""The two worlds behind one interface: the procedural cities and a released data set.

In: Settings. Out: a World that hands out routes, nearest panoramas and panoramas by place.
Worlds and their store of panoramas are shared by all environments of a process.
"""

from __future__ import annotations

import functools
import os
import threading
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


class ProceduralWorld:
    """Routes in one city, or the benchmark: two routes in each of nine, the cities in turn."""

    def __init__(
        self, cities: tuple[str, ...], split: str, count: int, max_legs: int, radius_m: float,
        store: PanoramaStore,
    ) -> None:  # fmt: skip
        self.cities, self.split, self.count, self.max_legs = cities, split, count, max_legs
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
    benchmark = settings.city == BENCHMARK
    cities = CITIES if benchmark else (settings.city or CITIES[0],)
    split = settings.split or ("test" if benchmark else "train")
    default = BENCHMARK_ROUTES_A_CITY * len(cities) if benchmark else TRAINING_ROUTES
    count = settings.routes or default
    max_legs = settings.max_legs or LEGS[1]
    return _procedural(cities, split, count, max_legs, settings.mapping_radius, store)


@functools.lru_cache(maxsize=4)
def _store(cache_mib: int) -> PanoramaStore:
    return PanoramaStore(cache_mib * 2**20)


@functools.lru_cache(maxsize=16)
def _procedural(
    cities: tuple[str, ...], split: str, count: int, max_legs: int, radius_m: float,
    store: PanoramaStore,
) -> ProceduralWorld:  # fmt: skip
    return ProceduralWorld(cities, split, count, max_legs, radius_m, store)


@functools.lru_cache(maxsize=4)
def _dataset(folder: str, radius_m: float, vision: bool) -> Dataset:
    return Dataset(folder, radius_m, vision)
