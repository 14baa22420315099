"""The ground around a place, seen from above: roadways, pavements, markings, crossings.

Input: a City, a place in local metres, a fineness. Output: uint32 pixels, north up, REACH_M from
the middle to each side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.virl.city.graph import City
from envs.virl.city.streets import Point
from envs.virl.city.style import STYLES
from envs.virl.drawing.brush import shade

REACH_M = 40.0
DETAIL_M = 30.0  # slabs are drawn this far; beyond it they would be finer than a pixel
PAVEMENT_M = 3.2


@functools.lru_cache(maxsize=18)
def _grain(name: str, side: int) -> NDArray[np.uint8]:
    """Roughness of the ground, around 6: uint8 [side, side, 1]."""
    rng = np.random.default_rng(len(name))
    fine = rng.normal(6, 2.0, (side, side))
    coarse = Image.fromarray(rng.normal(0, 3.0, (side // 32, side // 32)).astype(np.float32))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return np.clip(fine + smooth, 0, 12).astype(np.uint8)[..., None]


class _Patch:
    """A canvas in local metres around a place, with the streets that cross it."""

    def __init__(self, city: City, x: float, y: float, ppm: int) -> None:
        self.city, self.x, self.y, self.ppm = city, x, y, ppm
        self.style = STYLES[city.name]
        self.side = int(2 * REACH_M * ppm)
        # The grain only brightens; its mean is taken off here.
        self.image = Image.new("RGB", (self.side, self.side), shade(self.style.pavement, 0.96))
        self.draw = ImageDraw.Draw(self.image)
        a = np.array([city.plan.nodes[s.a] for s in city.plan.streets]) - (x, y)
        b = np.array([city.plan.nodes[s.b] for s in city.plan.streets]) - (x, y)
        along = b - a
        share = np.clip(-(a * along).sum(1) / (along**2).sum(1), 0, 1)[:, None]
        near = np.flatnonzero(np.hypot(*(a + share * along).T) < REACH_M * 1.42)
        self.streets = [int(number) for number in near]

    def pixel(self, point: Point) -> Point:
        """Canvas coordinates of local metres."""
        middle = self.side / 2
        return (middle + (point[0] - self.x) * self.ppm, middle - (point[1] - self.y) * self.ppm)

    def frame(self, number: int) -> tuple[Callable[[float, float], Point], float]:
        """A function from (metres along, metres left) of a street to canvas coordinates, and
        how far along the street its nearest point to the viewer is.
        """
        street = self.city.plan.streets[number]
        ax, ay = (float(v) for v in self.city.plan.nodes[street.a])
        east, north = self.city.plan.direction(number, street.a)

        def at(along: float, left: float) -> Point:
            return self.pixel((ax + east * along - north * left, ay + north * along + east * left))

        return at, (self.x - ax) * east + (self.y - ay) * north


def ground_patch(city: City, x: float, y: float, ppm: int) -> NDArray[np.uint32]:
    """Draw the ground within REACH_M of a place at `ppm` pixels a metre."""
    patch = _Patch(city, x, y, ppm)
    for number in patch.streets:
        _slabs(patch, number)
    _roadways(patch, shade(patch.style.pavement, 0.72), 0.4)
    _roadways(patch, shade(patch.style.road, 0.95), 0.0)
    for number in patch.streets:
        _markings(patch, number)
    packed = np.empty((patch.side, patch.side, 4), np.uint8)
    np.add(np.asarray(patch.image), _grain(city.name, patch.side), out=packed[..., :3])
    packed[..., 3] = 255
    return packed.view("<u4")[..., 0]


def _roadways(patch: _Patch, fill: tuple[int, int, int], margin: float) -> None:
    """The carriageways with their crossings, `margin` metres wider on each side."""
    nodes: dict[int, list[float]] = {}
    for number in patch.streets:
        street = patch.city.plan.streets[number]
        half = street.half_width - PAVEMENT_M + margin
        ends = [patch.pixel(tuple(patch.city.plan.nodes[n])) for n in (street.a, street.b)]
        patch.draw.line(ends, fill=fill, width=round(2 * half * patch.ppm))
        for node in (street.a, street.b):
            nodes.setdefault(node, []).append(half)
    for node, halves in nodes.items():
        px, py = patch.pixel(tuple(patch.city.plan.nodes[node]))
        # Rounds the corners, yet leaves the narrowest street's pavement across a T-junction.
        reach = min(max(halves) * 1.12, min(halves) + PAVEMENT_M / 3) * patch.ppm
        patch.draw.ellipse((px - reach, py - reach, px + reach, py + reach), fill=fill)


def _slabs(patch: _Patch, number: int) -> None:
    """Joints between the pavement's slabs, near the viewer."""
    street = patch.city.plan.streets[number]
    at, middle = patch.frame(number)
    fill = shade(patch.style.pavement, 0.88)
    first = max(int((middle - DETAIL_M) / 1.8), 0)
    last = int(min(middle + DETAIL_M, street.length) / 1.8)
    for i in range(first, last):
        for side in (-1, 1):
            inner = at(i * 1.8, side * (street.half_width - PAVEMENT_M))
            patch.draw.line([inner, at(i * 1.8, side * street.half_width)], fill=fill, width=1)


def _markings(patch: _Patch, number: int) -> None:
    """A dashed middle line, and a zebra crossing at each end, short of the patch's edge.

    What lies at the edge stands for all beyond it, so no paint may lie there.
    """
    street = patch.city.plan.streets[number]
    at, _ = patch.frame(number)

    def stripe(along: float, left: float, long: float, wide: float) -> None:
        corners = [
            at(along, left),
            at(along + long, left),
            at(along + long, left + wide),
            at(along, left + wide),
        ]
        x, y = corners[0]
        if np.hypot(x - patch.side / 2, y - patch.side / 2) < (REACH_M - 5) * patch.ppm:
            patch.draw.polygon(corners, fill=patch.style.marking)

    along = 17.0
    while along < street.length - 19.0:
        stripe(along, -0.1, 2.5, 0.2)
        along += 5.5
    half = street.half_width - PAVEMENT_M
    for near in (11.5, street.length - 14.5):
        left = -half + 0.5
        while left < half - 0.6:
            stripe(near, left, 3.0, 0.6)
            left += 1.2
