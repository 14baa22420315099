"""Vehicles, trees, furniture and people along the streets, none of them upon another.

Input: a City, its Look, a generator. Output: Props in local metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.virl.city.graph import City
from envs.virl.drawing.brush import Texture
from envs.virl.drawing.ground import PAVEMENT_M
from envs.virl.drawing.look import Look

CLEAR_OF_CROSSING_M = 22.0  # no tree or vehicle nearer to an intersection: signs stay visible
CLEAR_OF_SIGN_M = 13.0
VEHICLES_100_M, TRIES = 5.0, 4  # vehicles a hundred metres of kerb; tries to place each
APART_M = 4.0  # least distance of two vehicles, middle to middle
GAP_M = 0.5  # least distance of their circles
VEHICLE_WIDTH_M = 2.5


@dataclass(frozen=True)
class Prop:
    """A flat picture that stands at a place in local metres and turns towards the viewer.

    kind: as in the city's style. along: unit vector of its street; seen along it, a vehicle
    shows its end.
    """

    kind: str
    x: float
    y: float
    along: tuple[float, float]
    side: Texture
    end: Texture


@dataclass
class _Vehicles:
    """Where vehicles stand: rows of x, y, east and north of the street, half length."""

    rows: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    table: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 5)))

    def add(self, prop: Prop) -> None:
        self.rows.append((prop.x, prop.y, *prop.along, prop.side.width / 2))
        self.table = np.array(self.rows)

    def room_for_another(self, x: float, y: float, half_length: float) -> bool:
        """Whether a vehicle touches no other one, whichever way their pictures turn."""
        apart = np.hypot(self.table[:, 0] - x, self.table[:, 1] - y)
        least = np.maximum(self.table[:, 4] + half_length + GAP_M, APART_M)
        return bool((apart >= least).all())

    def clear(self, x: float, y: float, margin: float) -> bool:
        """Whether a point lies outside every vehicle, by a margin."""
        dx, dy = self.table[:, 0] - x, self.table[:, 1] - y
        east, north, half_length = self.table[:, 2:].T
        along, across = np.abs(dx * east + dy * north), np.abs(dx * north - dy * east)
        beside = across >= VEHICLE_WIDTH_M / 2 + margin
        return bool((beside | (along >= half_length + margin)).all())


class _Placer:
    """Puts props beside and on the streets of a city."""

    def __init__(self, city: City, look: Look, rng: np.random.Generator) -> None:
        self.city, self.look, self.rng = city, look, rng
        self.signs = np.array([s.centre for s in city.signs], np.float32).reshape(-1, 2)
        self.vehicles = _Vehicles()
        self.props: list[Prop] = []

    def _prop(self, street: int, along: float, left: float, kind: str, clear: float) -> Prop | None:
        """A prop of a kind, or None where a sign is nearer than `clear` metres."""
        x, y = self.city.on_street(street, along, left)
        near = np.hypot(self.signs[:, 0] - x, self.signs[:, 1] - y) < clear
        if near.any():
            return None
        drawn = self.look.sprites[kind]
        side, end = drawn[int(self.rng.integers(len(drawn)))]
        direction = self.city.plan.direction(street, self.city.plan.streets[street].a)
        return Prop(kind, x, y, direction, side, end)

    def park(self, number: int, side: int) -> None:
        """Vehicles along one kerb of a street, clear of its crossings."""
        street, style = self.city.plan.streets[number], self.look.style
        left = side * (street.half_width - PAVEMENT_M - 1.4)
        room = max(street.length - 2 * CLEAR_OF_CROSSING_M, 0)
        for _ in range(self.rng.poisson(VEHICLES_100_M * room / 100)):
            kind = style.vehicles[int(self.rng.integers(len(style.vehicles)))]
            for _ in range(TRIES):
                half = self.look.sprites[kind][0][0].width / 2
                ends = CLEAR_OF_CROSSING_M + half, street.length - CLEAR_OF_CROSSING_M - half
                if ends[0] > ends[1]:
                    break
                prop = self._prop(
                    number, float(self.rng.uniform(*ends)), left, kind, CLEAR_OF_SIGN_M
                )
                if prop and self.vehicles.room_for_another(prop.x, prop.y, half):
                    self.props.append(prop)
                    self.vehicles.add(prop)
                    break

    def stand(
        self,
        number: int,
        side: int,
        kinds: tuple[str, ...],
        share: float,
        end: float,
        kerb: tuple[float, float],
        clear: float,
    ) -> None:
        """Props on one pavement of a street: `share` a hundred metres, `end` metres from its
        ends, `kerb` (least, greatest) metres from the kerb.
        """
        street = self.city.plan.streets[number]
        inner = street.half_width - PAVEMENT_M
        room = max(street.length - 2 * end, 0)
        for _ in range(self.rng.poisson(share * room / 100)):
            kind = kinds[int(self.rng.integers(len(kinds)))]
            along = end + float(self.rng.uniform(0, room))
            left = side * (inner + float(self.rng.uniform(*kerb)))
            prop = self._prop(number, along, left, kind, clear)
            if prop and self.vehicles.clear(prop.x, prop.y, 0.3):
                self.props.append(prop)


def place_props(city: City, look: Look, rng: np.random.Generator) -> list[Prop]:
    """Fill a city's streets; equal cities and generators give equal props."""
    placer, style = _Placer(city, look, rng), look.style
    kerbs = [(n, side) for n in range(len(city.plan.streets)) for side in (-1, 1)]
    for number, side in kerbs:
        placer.park(number, side)
    for number, side in kerbs:
        trees = (("tree",), style.trees, CLEAR_OF_CROSSING_M, (0.9, 0.9), CLEAR_OF_SIGN_M)
        placer.stand(number, side, *trees)
        placer.stand(number, side, style.furniture, 4.0, 9.0, (0.7, 0.7), 6.0)
        placer.stand(number, side, ("person",), 4.0, 9.0, (1.2, 2.6), 0.0)
    return placer.props
