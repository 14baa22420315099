"""A seeded street plan: intersections, streets, and the house walls that line them.

Input: a CityStyle and a seed. Output: a StreetPlan in local metres (east, north).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.virl.city.style import CityStyle

Point = tuple[float, float]
SIZE = 11  # intersections a side
CUT = 2.5  # metres cut off each block corner


@dataclass(frozen=True)
class Street:
    """A straight street between two intersections, by their numbers.

    half_width: metres from the middle to the house walls.
    """

    a: int
    b: int
    length: float
    half_width: float


@dataclass(frozen=True)
class Wall:
    """A stretch of house fronts; the street lies on the right of begin -> end.

    street: number of the street that it lines, -1 for a cut block corner.
    """

    begin: Point
    end: Point
    street: int


@dataclass
class StreetPlan:
    """Intersections [N, 2] in metres, streets, walls, and the streets at each intersection.

    diagonals: numbers of the streets that cut a block.
    """

    nodes: NDArray[np.float64]
    streets: list[Street]
    diagonals: frozenset[int] = frozenset()
    walls: list[Wall] = field(default_factory=list)
    incident: dict[int, list[int]] = field(default_factory=dict)

    def direction(self, street: int, node: int) -> Point:
        """Unit vector of a street as it leaves a node."""
        s = self.streets[street]
        other = s.b if node == s.a else s.a
        delta = self.nodes[other] - self.nodes[node]
        return (float(delta[0]) / s.length, float(delta[1]) / s.length)

    def heading(self, street: int, node: int) -> float:
        """Heading of a street as it leaves a node, degrees."""
        east, north = self.direction(street, node)
        return math.degrees(math.atan2(east, north)) % 360.0

    def other(self, street: int, node: int) -> int:
        """The intersection at the street's other end."""
        s = self.streets[street]
        return s.b if node == s.a else s.a


def plan_streets(style: CityStyle, rng: np.random.Generator) -> StreetPlan:
    """Draw a street plan: an irregular grid, turned, shaken, thinned, with some diagonals."""
    nodes = _intersections(style, rng)
    pairs = _thin(_grid_pairs(style, rng), style.removed, rng)
    streets = []
    for a, b in pairs:
        length = float(np.hypot(*(nodes[b] - nodes[a])))
        avenue = (a % SIZE == b % SIZE) and (a % SIZE) % 3 == 1
        streets.append(Street(a, b, length, style.half_width[int(avenue)]))
    cuts = frozenset(i for i, s in enumerate(streets) if abs(s.a - s.b) not in (1, SIZE))
    plan = StreetPlan(nodes, streets, cuts)
    for number, street in enumerate(streets):
        plan.incident.setdefault(street.a, []).append(number)
        plan.incident.setdefault(street.b, []).append(number)
    plan.walls = _walls(plan)
    return plan


def _intersections(style: CityStyle, rng: np.random.Generator) -> NDArray[np.float64]:
    def lines() -> NDArray[np.float64]:
        steps = rng.uniform(*style.block, SIZE)
        return np.cumsum(steps) - steps.sum() / 2

    across, along = np.meshgrid(lines(), lines())
    grid = np.stack([across.ravel(), along.ravel()], 1)
    if style.jitter:
        grid = grid + rng.normal(0, style.jitter, grid.shape)
    # Streets bend where they cross the middle lines, so that a city has more than two headings.
    shear = math.tan(math.radians(style.bend))
    south, west = np.minimum(grid[:, 1], 0), np.minimum(grid[:, 0], 0)
    grid = grid + np.stack([south * shear, -west * shear], 1)
    turn = math.radians(style.grid_heading)
    cos, sin = math.cos(turn), math.sin(turn)
    return np.stack([grid[:, 0] * cos + grid[:, 1] * sin, grid[:, 1] * cos - grid[:, 0] * sin], 1)


def _grid_pairs(style: CityStyle, rng: np.random.Generator) -> list[tuple[int, int]]:
    pairs = []
    for row in range(SIZE):
        for column in range(SIZE):
            here = row * SIZE + column
            if column + 1 < SIZE:
                pairs.append((here, here + 1))
            if row + 1 < SIZE:
                pairs.append((here, here + SIZE))
            if column + 1 < SIZE and row + 1 < SIZE and rng.random() < style.diagonals:
                up = rng.random() < 0.5
                pairs.append((here, here + SIZE + 1) if up else (here + 1, here + SIZE))
    return pairs


def _thin(
    pairs: list[tuple[int, int]], share: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Leave out a share of the streets, keeping at least three at each end of a removed one."""
    degree: dict[int, int] = {}
    for pair in pairs:
        for node in pair:
            degree[node] = degree.get(node, 0) + 1
    kept = []
    for a, b in pairs:
        if rng.random() < share and degree[a] > 3 and degree[b] > 3:
            degree[a] -= 1
            degree[b] -= 1
        else:
            kept.append((a, b))
    return kept


def _walls(plan: StreetPlan) -> list[Wall]:
    """House walls on both sides of each street, joined across each block corner.

    Around an intersection, the wall on the left of one street meets the wall on the right of
    the next one counter-clockwise; both stop CUT metres before that corner.
    """
    stops: dict[tuple[int, int, str], Point] = {}
    walls = []
    for node, numbers in plan.incident.items():
        here = plan.nodes[node]
        ordered = sorted(numbers, key=lambda s: math.atan2(*reversed(plan.direction(s, node))))
        for first, second in zip(ordered, ordered[1:] + ordered[:1], strict=True):
            d1, d2 = plan.direction(first, node), plan.direction(second, node)
            w1, w2 = plan.streets[first].half_width, plan.streets[second].half_width
            sin = d1[0] * d2[1] - d1[1] * d2[0]
            cos = d1[0] * d2[0] + d1[1] * d2[1]
            s1, s2 = 0.0, 0.0
            if abs(sin) > 0.15:
                s1, s2 = (w2 + w1 * cos) / sin, (w1 + w2 * cos) / sin
            left = _beside(here, d1, s1 + CUT, w1)
            right = _beside(here, d2, s2 + CUT, -w2)
            stops[(node, first, "left")] = left
            stops[(node, second, "right")] = right
            # Seen from the intersection, the corner runs from the second street's wall to the
            # first's with the open ground on its right.
            walls.append(Wall(right, left, -1))
    for number, street in enumerate(plan.streets):
        # Left of a -> b is right of b -> a.
        walls.append(
            Wall(stops[(street.a, number, "left")], stops[(street.b, number, "right")], number)
        )
        walls.append(
            Wall(stops[(street.b, number, "left")], stops[(street.a, number, "right")], number)
        )
    return walls


def _beside(origin: NDArray[np.float64], direction: Point, along: float, left: float) -> Point:
    """The point `along` metres in a direction and `left` metres to its left."""
    return (
        float(origin[0]) + direction[0] * along - direction[1] * left,
        float(origin[1]) + direction[1] * along + direction[0] * left,
    )
