"""A procedural city: a street plan with panoramas, landmarks, and routes drawn from it.

Input: a city's name, a split and route numbers. Output: Routes, places of panoramas, Signs of
landmarks, all from seeds.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass

import numpy as np

from envs.virl.city.streets import Point, plan_streets
from envs.virl.city.style import STYLES
from envs.virl.geometry import (
    Place,
    Projection,
    bearing,
    compass_word,
    haversine,
    side_word,
    wrap,
)
from envs.virl.names import landmark_names
from envs.virl.route import NO_LANDMARK, Landmark, Leg, Route

SPLITS = ("train", "test")
PANORAMA_SPACING_M = 11.0
STRAIGHT = 12.0  # degrees a straight walk may bend at an intersection
LEAST_TURN = 25.0  # degrees at a key point
VIEW_MARGIN = 20.0  # degrees that a board's middle keeps from the edge of its 90-degree view
BOARD_WIDTH_M = 10.0  # then the whole board lies in the view
LEGS = (2, 5)


@dataclass(frozen=True)
class Sign:
    """A landmark's sign as it stands: centre and facing in local metres, width in metres.

    facing: unit vector from the sign to those who read it. paint: number that picks its colours,
    another one in each city and split, so that colours give no name away.
    post: metres from its middle to its post, to the right of who reads it; None on a house.
    """

    landmark: Landmark
    centre: Point
    facing: Point
    width: float
    paint: int
    post: float | None


@dataclass(frozen=True)
class Stop:
    """A panorama on a street: metres from the street's end a."""

    street: int
    along: float
    place: Place


class City:
    """One split of one named city; equal arguments make equal cities, in any process."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split
        self.style = STYLES[name]
        self.seed = zlib.crc32(f"{name}/{split}".encode())
        rng = np.random.default_rng(self.seed)
        lat, lng = self.style.origin
        shift = 0.03 * SPLITS.index(split)  # degrees: the splits share no street
        self.projection = Projection((lat + shift, lng + shift))
        self.plan = plan_streets(self.style, rng)
        self._names = [str(word) for word in rng.permutation(landmark_names(name))]
        self.rotations: dict[Place, float] = {}
        self.node_places = self._place_nodes(rng)
        self.stops = self._place_stops(rng)
        self.signs: list[Sign] = []
        self.node_landmarks = self._node_landmarks(rng)
        self.destinations = self._destinations(rng)
        self.route = functools.lru_cache(maxsize=4096)(self._route)

    def _place_nodes(self, rng: np.random.Generator) -> list[Place]:
        places = [self.projection.place(float(x), float(y)) for x, y in self.plan.nodes]
        for place in places:
            self.rotations[place] = float(rng.integers(0, 360))
        return places

    def _place_stops(self, rng: np.random.Generator) -> list[list[Stop]]:
        """Panoramas along each street, without those at its ends."""
        stops = []
        for number, street in enumerate(self.plan.streets):
            count = max(round(street.length / PANORAMA_SPACING_M), 2)
            row = []
            for i in range(1, count):
                along = street.length * i / count
                place = self.projection.place(*self.on_street(number, along, 0.0))
                self.rotations[place] = float(rng.integers(0, 360))
                row.append(Stop(number, along, place))
            stops.append(row)
        return stops

    def on_street(self, number: int, along: float, left: float) -> Point:
        """Local metres of a point on a street, `left` metres to the left of a -> b."""
        street = self.plan.streets[number]
        x, y = self.plan.nodes[street.a]
        east, north = self.plan.direction(number, street.a)
        return (
            float(x) + east * along - north * left,
            float(y) + north * along + east * left,
        )

    def _node_landmarks(self, rng: np.random.Generator) -> dict[int, Landmark]:
        """Hang a sign over one pavement near most intersections, facing the intersection."""
        landmarks = {}
        for node, streets in self.plan.incident.items():
            long_enough = [s for s in streets if self.plan.streets[s].length >= 48]
            if rng.random() > 0.85 or not long_enough:
                continue
            number = int(rng.choice(long_enough))
            street = self.plan.streets[number]
            away = float(rng.uniform(14.5, 16.0))
            side = 1 if rng.random() < 0.5 else -1
            left = (street.half_width - BOARD_WIDTH_M / 2 - 0.3) * side
            along = away if node == street.a else street.length - away
            centre = self.on_street(number, along, left)
            landmark = Landmark(self._names.pop(), self.projection.place(*centre))
            x, y = self.plan.nodes[node]
            reach = math.hypot(x - centre[0], y - centre[1])
            facing = (float(x - centre[0]) / reach, float(y - centre[1]) / reach)
            # Who reads it sees the street's left on the left only if it lies ahead of end a.
            right = -side if node == street.a else side
            post = right * (BOARD_WIDTH_M / 2 - 1.2)
            paint = self._paint(landmark)
            self.signs.append(Sign(landmark, centre, facing, BOARD_WIDTH_M, paint, post))
            landmarks[node] = landmark
        return landmarks

    def _destinations(self, rng: np.random.Generator) -> dict[int, tuple[Stop, Landmark]]:
        """Put a shop beside a panorama in the middle of some streets, on the house wall."""
        destinations = {}
        for number, stops in enumerate(self.stops):
            street = self.plan.streets[number]
            middle = [s for s in stops if 30 <= s.along <= street.length - 30]
            if not middle or rng.random() > 0.5:
                continue
            stop = middle[int(rng.integers(len(middle)))]
            side = 1 if rng.random() < 0.5 else -1
            centre = self.on_street(number, stop.along, (street.half_width - 0.4) * side)
            landmark = Landmark(self._names.pop(), self.projection.place(*centre))
            east, north = self.plan.direction(number, street.a)
            facing = (north * side, -east * side)
            paint = self._paint(landmark)
            self.signs.append(Sign(landmark, centre, facing, BOARD_WIDTH_M, paint, None))
            destinations[number] = (stop, landmark)
        return destinations

    def _paint(self, landmark: Landmark) -> int:
        return zlib.crc32(f"{self.seed}/{landmark.name}".encode())

    # --- routes ---------------------------------------------------------------------------

    def _route(self, index: int, max_legs: int = LEGS[1]) -> Route:
        """The route of a number; equal arguments give the same route."""
        rng = np.random.default_rng([self.seed, 1, index])
        while True:  # an attempt fits in about one of ten cases, whatever the city
            ends = self._walk(rng, int(rng.integers(LEGS[0], max_legs + 1)))
            if ends is not None:
                return self._describe(f"{self.name}/{self.split}/{index}", *ends)

    def _walk(
        self, rng: np.random.Generator, legs: int
    ) -> tuple[Place, list[tuple[Place, Landmark | None]]] | None:
        """Try one walk: a start, then (key point, landmark) for each leg; None if it gets stuck."""
        street = int(rng.integers(len(self.plan.streets)))
        start = self.stops[street][int(rng.integers(len(self.stops[street])))]
        forward = bool(rng.random() < 0.5)
        length = self.plan.streets[street].length
        if (length - start.along if forward else start.along) < 20:
            return None
        node = self.plan.streets[street].b if forward else self.plan.streets[street].a
        visited = {node}
        key_points: list[tuple[Place, Landmark | None]] = []
        for _ in range(legs - 1):
            street, node = self._straight_on(rng, street, node, visited)
            key_points.append((self.node_places[node], self.node_landmarks.get(node)))
            turned = self._turn(rng, street, node, visited)
            if turned is None:
                return None
            street = turned
            node = self.plan.other(street, node)
            visited.add(node)
        if street not in self.destinations:
            return None
        stop, landmark = self.destinations[street]
        key_points.append((stop.place, landmark))
        return start.place, key_points

    def _straight_on(
        self, rng: np.random.Generator, street: int, node: int, visited: set[int]
    ) -> tuple[int, int]:
        """Perhaps walk on over an intersection, as long as the street goes straight on."""
        for _ in range(2):
            arrival = (self.plan.heading(street, node) + 180) % 360
            onward = [
                s
                for s in self.plan.incident[node]
                if s != street and abs(wrap(self.plan.heading(s, node) - arrival)) < STRAIGHT
            ]
            if not onward or rng.random() < 0.6 or self.plan.other(onward[0], node) in visited:
                break
            street, node = onward[0], self.plan.other(onward[0], node)
            visited.add(node)
        return street, node

    def _turn(
        self, rng: np.random.Generator, street: int, node: int, visited: set[int]
    ) -> int | None:
        """A street that leaves the node at a real turn towards an unvisited node, or None."""
        arrival = (self.plan.heading(street, node) + 180) % 360
        turns = [
            s
            for s in self.plan.incident[node]
            if LEAST_TURN <= abs(wrap(self.plan.heading(s, node) - arrival)) <= 155
            and self.plan.other(s, node) not in visited
        ]
        if not turns:
            return None
        # Diagonal streets are rare; without a preference half the compass would be too.
        weights = np.array([3.0 if s in self.plan.diagonals else 1.0 for s in turns])
        return int(rng.choice(turns, p=weights / weights.sum()))

    def _describe(
        self, name: str, start: Place, key_points: list[tuple[Place, Landmark | None]]
    ) -> Route:
        legs = []
        here = start
        for number, (end, landmark) in enumerate(key_points):
            last = number == len(key_points) - 1
            heading = int(bearing(here, end))
            if landmark is not None and not last and not well_inside_view(heading, end, landmark):
                landmark = None
            expression = NO_LANDMARK
            if landmark is not None:
                side = side_word(heading, bearing(end, landmark.place))
                who = f"The destination {landmark.name}" if last else landmark.name
                expression = f"{who} is on your {side}"
            distance = round(haversine(here, end))
            legs.append(Leg(heading, compass_word(heading), end, landmark, expression, distance))
            here = end
        return Route(name, self.name, start, 0, tuple(legs))


def well_inside_view(heading: float, here: Place, landmark: Landmark) -> bool:
    """Whether a landmark keeps VIEW_MARGIN from the edges of its cardinal 90-degree view."""
    off_axis = (bearing(here, landmark.place) - heading + 45) % 90 - 45
    return abs(off_axis) <= 45 - VIEW_MARGIN


@functools.lru_cache(maxsize=20)
def build_city(name: str, split: str) -> City:
    """The city of a name and split, built once per process."""
    return City(name, split)
