"""What a route is: a start, legs between key points, and the landmark at each leg's end.

Both worlds make these and the rail reads them. Places are (latitude, longitude) in degrees,
headings whole degrees.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

from envs.virl.geometry import Place

NO_LANDMARK = "No landmark nearby"
DESTINATION = "The destination "
IS_ON = " is on your "


def name_and_side(expression: str) -> tuple[str, str]:
    """The landmark's name and its side; `The destination Red Bank is on your left` has both.

    >>> name_and_side("The destination Red Bank is on your right front")
    ('Red Bank', 'right front')
    """
    name, is_on, side = expression.rpartition(IS_ON)
    return (name.removeprefix(DESTINATION), side) if is_on else (side, "")


@dataclass(frozen=True)
class Landmark:
    """A shop or building with a name that directions may mention."""

    name: str
    place: Place


@dataclass(frozen=True)
class Leg:
    """One straight walk from a key point to the next.

    heading: degrees, whole; compass: its word, as the data set states it.
    end: the key point where the leg ends.
    landmark: at the end; None where there is none.
    expression: what directions say of it, such as "Golden Bakery is on your left"; at the last
        leg "The destination ... is on your ..."; NO_LANDMARK where there is none.
    distance_m: length in whole metres.
    """

    heading: int
    compass: str
    end: Place
    landmark: Landmark | None
    expression: str
    distance_m: int


@dataclass(frozen=True)
class Route:
    """A way to walk; the last leg's landmark is the destination.

    init_heading: degrees; 0 means a random heading from the episode's seed.
    human_heading: what the first milestone states as the heading before the first turn.
    """

    name: str
    city: str
    start: Place
    init_heading: int
    legs: tuple[Leg, ...]
    human_heading: int = 0

    @functools.cached_property
    def way(self) -> str:
        """A hash of where the route leads; routes of other numbers may lead the same way."""
        places = (self.start, *(leg.end for leg in self.legs))
        return hashlib.blake2b(repr(places).encode(), digest_size=6).hexdigest()

    @property
    def destination(self) -> Landmark:
        """The place at the end of the last leg."""
        landmark = self.legs[-1].landmark
        assert landmark is not None, f"route {self.name} has no destination"
        return landmark

    @property
    def landmarks(self) -> list[Landmark]:
        """All landmarks that the directions mention, in order."""
        return [leg.landmark for leg in self.legs if leg.landmark is not None]
