"""Where things stand in a city: lots and shops along the walls, vehicles, trees, people.

Input: a City and its Look. Output: a Scene of arrays that the renderer reads. Equal cities make
equal scenes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.virl.city.graph import City, Sign
from envs.virl.drawing.look import CORNER_M, CORNERS, FRONT_M, FRONTS, Look
from envs.virl.drawing.props import Prop, place_props

SUN_HEADING = 215.0
SHOPS_SHARE = 0.55  # of house lots
SHOP_VIEW_M = 60.0  # no point sees two shops of one name nearer than this
ALIKE = 6  # how many fronts a row of houses draws from


@dataclass
class Scene:
    """A city ready to be rendered; arrays over walls [M], lots [L] and props [P].

    begin, edge: float32 [M, 2], first end and vector of each wall, metres.
    lots: number of lots of a wall; first_lot: its first one; fronts, shops: front and shop of
    each lot, shaded ones included; a lot without a shop has -1.
    """

    city: City
    look: Look
    begin: NDArray[np.float32]
    edge: NDArray[np.float32]
    lots: NDArray[np.int32]
    first_lot: NDArray[np.int32]
    fronts: NDArray[np.int32]
    shops: NDArray[np.int32]
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
    rows = [_row(rng, int(n), bool(c)) for n, c in zip(lots, corner, strict=True)]
    shaded = np.repeat(~lit, lots)
    fronts = (np.concatenate(rows) + shaded * look.fronts.count).astype(np.int32)
    shops = _shops(rng, _middles(begin, edge, lots), np.repeat(~corner, lots), look.shops.count)
    shops += (shaded & (shops >= 0)) * np.int32(look.shops.count)
    props = place_props(city, look, rng)
    xy = np.array([(p.x, p.y) for p in props], np.float32).reshape(-1, 2)
    sign_xy = np.array([s.centre for s in city.signs], np.float32).reshape(-1, 2)
    return Scene(
        city, look, begin, edge, lots, first_lot, fronts, shops, props, xy, city.signs, sign_xy
    )


def _row(rng: np.random.Generator, count: int, corner: bool) -> NDArray[np.int64]:
    """Fronts of a row of lots, no two neighbours alike, all of about one height.

    Fronts are sorted by height; a much taller neighbour would stand there like a screen.
    """
    if corner:
        return FRONTS + rng.integers(0, CORNERS, count)
    low = int(rng.integers(0, FRONTS - ALIKE + 1))
    steps = rng.integers(1, ALIKE, count)
    return low + np.cumsum(steps) % ALIKE


def _middles(
    begin: NDArray[np.float32], edge: NDArray[np.float32], lots: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Middle of each lot in local metres: [L, 2]."""
    shares = np.concatenate([(np.arange(n) + 0.5) / n for n in lots])
    return np.repeat(begin, lots, 0) + shares[:, None] * np.repeat(edge, lots, 0)


def _shops(
    rng: np.random.Generator, middles: NDArray[np.float64], houses: NDArray[np.bool_], count: int
) -> NDArray[np.int32]:
    """A shop for a share of the house lots: one of `count` with none of its name in view.

    A lot where every name is near stays without a shop.
    """
    shops = np.full(len(middles), -1, np.int32)
    shares = rng.random(len(middles))
    nearest = np.full((len(middles), count), np.inf)  # from each lot to each shop so far
    for lot in np.flatnonzero(houses & (shares < SHOPS_SHARE)):
        free = np.flatnonzero(nearest[lot] > 2 * SHOP_VIEW_M)
        if not len(free):
            continue
        shop = int(rng.choice(free))
        shops[lot] = shop
        away = np.hypot(*(middles - middles[lot]).T)
        np.minimum(nearest[:, shop], away, out=nearest[:, shop])
    return shops
