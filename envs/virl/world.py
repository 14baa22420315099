"""The two worlds behind one interface: the procedural cities and a released data set.

In: Settings. Out: a World that hands out routes, nearest panoramas and panoramas by place.
Worlds are shared by all environments of a process. Episodes and prompts are unknown here.
"""

from __future__ import annotations

import functools
from typing import Protocol

from envs.virl.city import City, build_city
from envs.virl.geometry import Place, PlaceIndex
from envs.virl.route import Route
from envs.virl.settings import (
    BENCHMARK,
    BENCHMARK_ROUTES_A_CITY,
    CITIES,
    TRAINING_ROUTES,
    Settings,
)


class World(Protocol):
    """What an environment needs of a world."""

    count: int

    def route(self, index: int) -> Route:
        """The route of a number in [0, count)."""

    def nearest(self, route: Route, place: Place) -> Place | None:
        """The nearest panorama within the mapping radius, or None."""

    def landmark_names(self) -> list[str]:
        """Every landmark name that a route may mention."""


class ProceduralWorld:
    """Routes in one city, or the benchmark: two routes in each of nine, the cities in turn."""

    def __init__(self, cities: tuple[str, ...], split: str, count: int, radius_m: float) -> None:
        self.cities, self.split, self.count = cities, split, count
        self._radius_m = radius_m
        self._indices: dict[str, PlaceIndex] = {}

    def city(self, name: str) -> City:
        """A city of this world by name, built when first asked for."""
        return build_city(name, self.split)

    def route(self, index: int) -> Route:
        """The route of a number: the benchmark goes through its cities in turn."""
        return self.city(self.cities[index % len(self.cities)]).route(index // len(self.cities))

    def nearest(self, route: Route, place: Place) -> Place | None:
        """The nearest panorama of the route's city within the mapping radius, or None."""
        if place in self.city(route.city).rotations:
            return place
        if route.city not in self._indices:
            places = self.city(route.city).rotations
            self._indices[route.city] = PlaceIndex(places, self._radius_m)
        return self._indices[route.city].nearest(place)

    def landmark_names(self) -> list[str]:
        """Names of all landmarks of this world's cities."""
        return [s.landmark.name for name in self.cities for s in self.city(name).signs]


def open_world(settings: Settings) -> World:
    """The world that the settings name; equal settings share one."""
    assert settings.world == "procedural"
    benchmark = settings.city == BENCHMARK
    cities = CITIES if benchmark else (settings.city or CITIES[0],)
    split = settings.split or ("test" if benchmark else "train")
    default = BENCHMARK_ROUTES_A_CITY * len(cities) if benchmark else TRAINING_ROUTES
    return _procedural(cities, split, settings.routes or default, settings.mapping_radius)


@functools.lru_cache(maxsize=16)
def _procedural(
    cities: tuple[str, ...], split: str, count: int, radius_m: float
) -> ProceduralWorld:
    return ProceduralWorld(cities, split, count, radius_m)
