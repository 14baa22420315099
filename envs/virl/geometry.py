"""Places on the globe and headings: distances, bearings, compass words, relative words.

Headings are degrees clockwise from north; places are (latitude, longitude) in degrees.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

Place = tuple[float, float]

EARTH_RADIUS_M = 6_371_000.0
COMPASS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
RELATIVE = ("left", "right", "slightly left", "slightly right")
SIDES = (
    "front",
    "right front",
    "right",
    "right behind",
    "behind",
    "left behind",
    "left",
    "left front",
)


def wrap(degrees: float) -> float:
    """The same angle in [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


def haversine(a: Place, b: Place) -> float:
    """Great-circle distance in metres."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    d_lat, d_lng = lat_b - lat_a, math.radians(b[1] - a[1])
    h = math.sin(d_lat / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin(d_lng / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(h)))


def bearing(a: Place, b: Place) -> float:
    """Initial heading of the great circle from a to b, in [0, 360)."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    d_lng = math.radians(b[1] - a[1])
    east = math.sin(d_lng) * math.cos(lat_b)
    north = math.cos(lat_a) * math.sin(lat_b) - math.sin(lat_a) * math.cos(lat_b) * math.cos(d_lng)
    return math.degrees(math.atan2(east, north)) % 360.0


def between(a: Place, b: Place, share: float) -> Place:
    """The place at `share` of the way from a to b (linear in degrees, as the study does)."""
    return (a[0] * (1 - share) + b[0] * share, a[1] * (1 - share) + b[1] * share)


def compass_word(heading: float) -> str:
    """The nearest of the eight compass words."""
    return COMPASS[math.floor((heading % 360.0) / 45.0 + 0.5) % 8]


def side_word(heading: float, target: float) -> str:
    """Where a target heading lies for someone facing `heading`: one of SIDES."""
    return SIDES[math.floor(((target - heading) % 360.0) / 45.0 + 0.5) % 8]


def relative_word(before: float, after: float) -> str:
    """How to turn from one heading to another: one of RELATIVE.

    The difference is wrapped to [-180, 180); below 45 degrees the turn is slight.
    A turn by 0 counts as slightly right.
    """
    turn = wrap(after - before)
    side = "left" if turn < 0 else "right"
    return f"slightly {side}" if abs(turn) < 45 else side


def relative_word_legacy(before: float, after: float) -> str:
    """The released code's turn word: the difference is not wrapped, 45 itself is slight."""
    turn = after - before
    if abs(turn) > 45:
        return "left" if turn < 0 else "right"
    return "slightly left" if turn <= 0 else "slightly right"


class Projection:
    """Local metres (east, north) around an origin; exact enough within a few kilometres."""

    def __init__(self, origin: Place) -> None:
        self.origin = origin
        self.north_m = EARTH_RADIUS_M * math.pi / 180
        self.east_m = self.north_m * math.cos(math.radians(origin[0]))

    def place(self, east: float, north: float) -> Place:
        """Metres to a place, rounded to 7 decimals (a centimetre), as in JSON files."""
        lat = self.origin[0] + north / self.north_m
        return (round(lat, 7), round(self.origin[1] + east / self.east_m, 7))

    def metres(self, place: Place) -> tuple[float, float]:
        """A place to metres east and north of the origin."""
        return (
            (place[1] - self.origin[1]) * self.east_m,
            (place[0] - self.origin[0]) * self.north_m,
        )


class PlaceIndex:
    """Finds the nearest of many places by haversine distance, through a grid of cells."""

    def __init__(self, places: Iterable[Place], radius_m: float) -> None:
        self.radius_m = radius_m
        self._lat_cell = max(radius_m, 1.0) / (EARTH_RADIUS_M * math.pi / 180)
        self._cells: dict[tuple[int, int], list[Place]] = defaultdict(list)
        self._lng_cell = self._lat_cell
        places = list(places)
        if places:
            # Cells must span the radius at the latitude where a degree of longitude is shortest.
            widest = max(abs(lat) for lat, _ in places)
            self._lng_cell = self._lat_cell / max(math.cos(math.radians(min(widest, 89.0))), 0.01)
        for place in places:
            self._cells[self._cell(place)].append(place)

    def _cell(self, place: Place) -> tuple[int, int]:
        return (math.floor(place[0] / self._lat_cell), math.floor(place[1] / self._lng_cell))

    def nearest(self, place: Place) -> Place | None:
        """The nearest indexed place within the radius, or None."""
        row, column = self._cell(place)
        best, best_m = None, self.radius_m
        for i in (row - 1, row, row + 1):
            for j in (column - 1, column, column + 1):
                for candidate in self._cells.get((i, j), ()):
                    metres = haversine(place, candidate)
                    if metres < best_m or (metres == best_m and best is None):
                        best, best_m = candidate, metres
        return best
