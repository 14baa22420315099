"""Where things stand in a city: house lots along the walls, trees, vehicles, furniture, people.

In: a City and its Look. Out: a Scene of arrays that the renderer reads. Equal cities make equal
scenes. It draws nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.virl.city.graph import City, Sign
from envs.virl.drawing.brush import Texture
from envs.virl.drawing.look import CORNER_M, FRONT_M, FRONTS, Look

SUN_HEADING = 215.0
CLEAR_OF_CROSSING_M = 22.0  # no tree or vehicle nearer to an intersection: signs stay visible
CLEAR_OF_SIGN_M = 13.0
ALIKE = 6  # how many fronts a row of houses draws from


@dataclass(frozen=True)
class Prop:
    """A flat picture that stands at a place in local metres and turns towards the viewer.

    along: unit vector of its street; seen along it, a vehicle shows its end.
    """

    x: float
    y: float
    along: tuple[float, float]
    side: Texture
    end: Texture


@dataclass
class Scene:
    """A city ready to be rendered; arrays over walls [M], lots [L] and props [P].

    begin, edge: float32 [M, 2], first end and vector of each wall, metres.
    lots: number of lots of a wall; first_lot: its first one; fronts: front of each lot,
    shaded ones included.
    """

    city: City
    look: Look
    begin: NDArray[np.float32]
    edge: NDArray[np.float32]
    lots: NDArray[np.int32]
    first_lot: NDArray[np.int32]
    fronts: NDArray[np.int32]
    props: list[Prop]
    prop_xy: NDArray[np.float32]
    signs: list[Sign]
    sign_xy: NDArray[np.float32]


def make_scene(city: City, look: Look) -> Scene:
    """Fill a city's streets."""
    rng = np.random.default_rng([city.seed, 2])
    walls = city.plan.walls
    begin = np.array([w.begin for w in walls], np.float32)
    edge = np.array([w.end for w in walls], np.float32) - begin
    length = np.hypot(edge[:, 0], edge[:, 1])
    corner = np.array([w.street < 0 for w in walls])
    lots = np.maximum(np.round(length / np.where(corner, CORNER_M, FRONT_M)), 1).astype(np.int32)
    first_lot = np.concatenate([[0], np.cumsum(lots)[:-1]]).astype(np.int32)
    # The street lies on the right of begin -> end, and so does the wall's outward normal.
    sun = math.radians(SUN_HEADING)
    lit = edge[:, 1] * math.sin(sun) - edge[:, 0] * math.cos(sun) > 0
    count = FRONTS + look.fronts.corners
    fronts = np.concatenate(
        [
            _row(rng, int(n), bool(c)) + (0 if is_lit else count)
            for n, c, is_lit in zip(lots, corner, lit, strict=True)
        ]
    ).astype(np.int32)
    props = _props(city, look, rng)
    xy = np.array([(p.x, p.y) for p in props], np.float32).reshape(-1, 2)
    sign_xy = np.array([s.centre for s in city.signs], np.float32).reshape(-1, 2)
    return Scene(city, look, begin, edge, lots, first_lot, fronts, props, xy, city.signs, sign_xy)


def _row(rng: np.random.Generator, count: int, corner: bool) -> NDArray[np.int64]:
    """Fronts of a row of lots, no two neighbours alike, all of about one height.

    Fronts are sorted by height; a much taller neighbour would stand there like a screen.
    """
    if corner:
        return FRONTS + rng.integers(0, 3, count)
    low = int(rng.integers(0, FRONTS - ALIKE + 1))
    steps = rng.integers(1, ALIKE, count)
    return low + np.cumsum(steps) % ALIKE


def _props(city: City, look: Look, rng: np.random.Generator) -> list[Prop]:
    style = look.style
    signs = np.array([s.centre for s in city.signs], np.float32).reshape(-1, 2)
    props: list[Prop] = []

    def put(street: int, along: float, left: float, kind: str, clear: float) -> None:
        x, y = city.on_street(street, along, left)
        if clear and len(signs) and np.hypot(signs[:, 0] - x, signs[:, 1] - y).min() < clear:
            return
        drawn = look.sprites[kind]
        side, end = drawn[int(rng.integers(len(drawn)))]
        direction = city.plan.direction(street, city.plan.streets[street].a)
        props.append(Prop(x, y, direction, side, end))

    for number, street in enumerate(city.plan.streets):
        usable = street.length - 2 * CLEAR_OF_CROSSING_M
        for side in (-1, 1):
            curb = street.half_width - 3.2
            if usable > 0:
                for _ in range(rng.poisson(style.trees * usable / 100)):
                    at = CLEAR_OF_CROSSING_M + float(rng.uniform(0, usable))
                    put(number, at, side * (curb + 0.9), "tree", CLEAR_OF_SIGN_M)
                for _ in range(rng.poisson(5.0 * usable / 100)):
                    at = CLEAR_OF_CROSSING_M + float(rng.uniform(0, usable))
                    kind = style.vehicles[int(rng.integers(len(style.vehicles)))]
                    put(number, at, side * (curb - 1.4), kind, CLEAR_OF_SIGN_M)
            for _ in range(rng.poisson(4.0 * street.length / 100)):
                at = float(rng.uniform(9, street.length - 9))
                kind = style.furniture[int(rng.integers(len(style.furniture)))]
                put(number, at, side * (curb + 0.7), kind, 6.0)
            for _ in range(rng.poisson(4.0 * street.length / 100)):
                at = float(rng.uniform(9, street.length - 9))
                put(number, at, side * (curb + float(rng.uniform(1.2, 2.6))), "person", 0.0)
    return props
