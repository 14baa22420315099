"""Trees, vehicles, furniture and people, drawn from the side, as flat pictures in metres.

Input: a kind and a generator. Output: Brushes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.virl.city.style import Colour
from envs.virl.drawing.brush import Brush, shade

_LEAVES: dict[str, tuple[float, float, Colour]] = {
    # width and height in metres, colour of the leaves
    "round": (4.6, 6.6, (74, 118, 58)),
    "broad": (7.0, 7.4, (56, 98, 52)),
    "plane": (5.4, 8.4, (98, 128, 62)),
    "small": (3.0, 4.4, (86, 124, 72)),
    "jacaranda": (5.8, 7.2, (146, 112, 190)),
}


def draw_tree(kind: str, rng: np.random.Generator, ppm: float) -> Brush:
    """A tree of a kind; each draw differs a little."""
    if kind == "palm":
        return _palm(rng, ppm)
    width, height, leaf = _LEAVES[kind]
    b = Brush(width, height, ppm)
    middle = width / 2
    bark = (168, 158, 140) if kind == "plane" else (92, 72, 56)
    b.polygon(
        [
            (middle - 0.22, 0),
            (middle + 0.22, 0),
            (middle + 0.12, height * 0.6),
            (middle - 0.12, height * 0.6),
        ],
        bark,
    )
    for side in (-1, 1):
        b.line([(middle, height * 0.35), (middle + side * width * 0.25, height * 0.62)], bark, 0.14)
    for tone, count, spread in ((0.72, 26, 0.40), (0.9, 30, 0.38), (1.12, 24, 0.32)):
        for _ in range(count):
            angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1)) * spread
            x = middle + float(np.cos(angle) * reach) * width - (tone - 0.9) * 0.8
            z = height * 0.66 + float(np.sin(angle) * reach) * height * 0.72 + (tone - 0.9)
            size = float(rng.uniform(0.3, 0.55)) * width / 5
            b.ellipse(x, z, size, size * 0.85, shade(leaf, tone * float(rng.uniform(0.92, 1.08))))
    return b


def _palm(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(5.0, 8.5, ppm)
    lean = float(rng.uniform(-0.5, 0.5))
    b.polygon([(2.3, 0), (2.75, 0), (2.6 + lean, 6.6), (2.4 + lean, 6.6)], (132, 110, 84))
    for i in range(11):
        b.line([(2.3, i * 0.6), (2.75, i * 0.6)], (104, 84, 62), 0.05)
    for angle in np.linspace(-0.6, np.pi + 0.6, 11):
        tip = (2.5 + lean + 2.3 * float(np.cos(angle)), 6.5 + 1.9 * float(np.sin(angle)) - 0.5)
        mid = (2.5 + lean + 1.3 * float(np.cos(angle)), 6.9 + 1.5 * float(np.sin(angle)))
        green = shade((84, 126, 58), float(rng.uniform(0.7, 1.15)))
        b.polygon([(2.5 + lean, 6.5), mid, tip, (mid[0], mid[1] - 0.45)], green)
    return b


@dataclass(frozen=True)
class Vehicle:
    """Length, height, colours and build of a vehicle kind, lengths in metres."""

    length: float
    height: float
    body: Colour
    roof: Colour
    build: str = "car"
    stripe: Colour | None = None
    sign: Colour | None = None


VEHICLES = {
    "taxi": Vehicle(4.7, 1.5, (246, 196, 30), (246, 196, 30), sign=(250, 250, 244)),
    "sedan": Vehicle(4.6, 1.45, (150, 154, 160), (136, 140, 148)),
    "small": Vehicle(3.7, 1.5, (206, 208, 206), (180, 184, 186)),
    "van": Vehicle(5.2, 2.3, (232, 232, 228), (232, 232, 228), "van"),
    "danfo": Vehicle(4.9, 2.1, (244, 190, 28), (244, 190, 28), "van", (28, 28, 30)),
    "keke": Vehicle(2.7, 1.8, (236, 178, 34), (40, 110, 66), "van"),
    "rickshaw": Vehicle(2.7, 1.8, (42, 124, 74), (240, 204, 44), "van"),
    "bus_blue": Vehicle(9.0, 3.0, (48, 104, 176), (236, 236, 232), "bus", (236, 236, 232)),
    "taxi_red": Vehicle(4.6, 1.55, (206, 40, 40), (226, 226, 224), sign=(250, 250, 244)),
    "tram_tall": Vehicle(8.2, 4.3, (28, 112, 72), (244, 240, 228), "double", (244, 240, 228)),
    "minibus": Vehicle(6.4, 2.7, (240, 236, 222), (206, 44, 44), "bus"),
    "tram": Vehicle(12.0, 3.4, (40, 116, 76), (246, 214, 84), "bus", (246, 214, 84)),
    "tram_orange": Vehicle(11.0, 3.3, (230, 122, 36), (240, 232, 212), "bus", (240, 232, 212)),
    "scooter": Vehicle(1.8, 1.2, (64, 140, 130), (64, 140, 130), "scooter"),
    "bus_red": Vehicle(9.4, 4.3, (200, 30, 36), (200, 30, 36), "double", (248, 244, 236)),
    "cab": Vehicle(4.6, 1.75, (24, 24, 28), (24, 24, 28), sign=(250, 180, 40)),
    "cable_car": Vehicle(7.4, 3.2, (122, 40, 36), (236, 222, 186), "bus", (222, 176, 84)),
    "taxi_black": Vehicle(4.5, 1.5, (30, 30, 34), (246, 206, 40), sign=(250, 240, 160)),
}
_PAINTS: tuple[Colour, ...] = (
    (150, 154, 160),
    (60, 64, 72),
    (206, 208, 206),
    (150, 44, 44),
    (52, 80, 124),
    (108, 118, 96),
)
_PANE: Colour = (58, 72, 84)
_TYRE: Colour = (28, 28, 30)


def draw_vehicle(kind: str, rng: np.random.Generator, ppm: float, end_on: bool) -> Brush:
    """A vehicle from the side, or from its front or back."""
    v = VEHICLES[kind]
    body = v.body
    if kind in ("sedan", "small"):
        body = _PAINTS[int(rng.integers(len(_PAINTS)))]
        v = Vehicle(v.length, v.height, body, shade(body, 0.92))
    if end_on:
        return _end_on(v, ppm)
    b = Brush(v.length, v.height + 0.25, ppm)
    if v.build == "scooter":
        b.polygon([(0.2, 0.4), (1.5, 0.4), (1.4, 0.7), (0.8, 0.6), (0.2, 0.8)], body)
        b.line([(1.45, 0.5), (1.2, 1.1)], _TYRE, 0.07)
    elif v.build == "car":
        _car_side(b, v)
    else:
        _box_side(b, v)
    wheel = 0.24 if v.build == "scooter" else 0.34
    for x in (v.length * 0.19, v.length * 0.81):
        b.ellipse(x, wheel, wheel, wheel, _TYRE)
        b.ellipse(x, wheel, wheel * 0.5, wheel * 0.5, (150, 150, 150))
    return b


def _car_side(b: Brush, v: Vehicle) -> None:
    long, high = v.length, v.height
    b.polygon([(0, 0.3), (long, 0.3), (long, 0.75), (long * 0.96, 0.9), (0.05, 0.92)], v.body)
    b.polygon(
        [(long * 0.14, 0.88), (long * 0.3, high), (long * 0.68, high), (long * 0.86, 0.88)], v.roof
    )
    b.polygon(
        [
            (long * 0.2, 0.92),
            (long * 0.32, high - 0.1),
            (long * 0.48, high - 0.1),
            (long * 0.48, 0.92),
        ],
        _PANE,
    )
    b.polygon(
        [
            (long * 0.51, 0.92),
            (long * 0.51, high - 0.1),
            (long * 0.66, high - 0.1),
            (long * 0.79, 0.92),
        ],
        _PANE,
    )
    b.box(0, 0.3, long, 0.38, shade(v.body, 0.6))
    b.box(long * 0.95, 0.6, long, 0.72, (255, 244, 200))
    if v.sign is not None:
        b.box(long * 0.44, high, long * 0.56, high + 0.2, v.sign)


def _box_side(b: Brush, v: Vehicle) -> None:
    long, high = v.length, v.height
    b.box(0, 0.32, long, high, v.body)
    b.box(0.05, high - 0.18, long - 0.05, high, v.roof)
    decks = (0.5, 0.83) if v.build == "double" else (0.72,)
    for middle in decks:
        half = 0.1 if v.build == "double" else 0.16
        count = max(int(long / 1.15), 2)
        for i in range(count):
            x = 0.25 + i * (long - 0.4) / count
            b.box(
                x,
                high * (middle - half),
                x + (long - 0.4) / count - 0.14,
                high * (middle + half),
                _PANE,
            )
    if v.stripe is not None:
        for at in (0.34, 0.66) if v.build == "double" else (0.46,):
            b.box(0, high * at - 0.07, long, high * at + 0.07, v.stripe)
    b.box(0, 0.32, long, 0.42, shade(v.body, 0.6))


def _end_on(v: Vehicle, ppm: float) -> Brush:
    width = 0.8 if v.build == "scooter" else (2.5 if v.height > 2.4 else 1.85)
    b = Brush(width, v.height + 0.25, ppm)
    waist = 0.9 if v.build == "car" else v.height * 0.5
    b.box(0, 0.3, width, waist, v.body)
    b.polygon(
        [(0.03, waist), (width * 0.12, v.height), (width * 0.88, v.height), (width - 0.03, waist)],
        v.roof,
    )
    b.polygon(
        [
            (width * 0.12, waist + 0.05),
            (width * 0.18, v.height - 0.12),
            (width * 0.82, v.height - 0.12),
            (width * 0.88, waist + 0.05),
        ],
        _PANE,
    )
    for x in (0.08, width - 0.38):
        b.box(x, 0.58, x + 0.3, 0.74, (210, 60, 50))
        b.box(x, 0, x + 0.28, 0.32, _TYRE)
    b.box(width * 0.32, 0.42, width * 0.68, 0.56, (236, 236, 230))
    if v.sign is not None:
        b.box(width * 0.34, v.height, width * 0.66, v.height + 0.2, v.sign)
    return b


def draw_person(rng: np.random.Generator, ppm: float) -> Brush:
    """Someone who stands or walks."""
    b = Brush(0.7, 1.8, ppm)
    coat = tuple(int(c) for c in rng.integers(40, 220, 3))
    legs = shade((60, 62, 84), float(rng.uniform(0.5, 1.5)))
    skin = ((238, 200, 168), (198, 146, 108), (120, 80, 56))[int(rng.integers(3))]
    spread = float(rng.uniform(0.02, 0.16))
    b.polygon([(0.24 - spread, 0), (0.38 - spread, 0), (0.4, 0.85), (0.25, 0.85)], legs)
    b.polygon([(0.34 + spread, 0), (0.48 + spread, 0), (0.48, 0.85), (0.34, 0.85)], legs)
    b.polygon([(0.17, 0.8), (0.54, 0.8), (0.58, 1.42), (0.14, 1.42)], coat)  # type: ignore[arg-type]
    b.ellipse(0.36, 1.6, 0.12, 0.15, skin)
    b.ellipse(0.36, 1.69, 0.12, 0.08, (40, 32, 28))
    return b
