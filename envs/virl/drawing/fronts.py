"""Building fronts, each kind in the manner of its city, with shops on the ground floor.

Input: a CityStyle and a generator. Output: Brushes that hold one front, or one ground floor with a
shop, each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.virl.city.boards import BOARDS
from envs.virl.city.style import CityStyle, Colour
from envs.virl.drawing.brush import Brush, blend, shade

GROUND_M = 4.2  # height of the ground floor
GLASS: Colour = (70, 88, 104)
LIT: Colour = (236, 206, 140)


@dataclass
class Front:
    """What the painters of one front share."""

    brush: Brush
    style: CityStyle
    rng: np.random.Generator
    wall: Colour
    trim: Colour
    top: float  # metres, of the topmost full storey

    def pick(self, *colours: Colour) -> Colour:
        """One of some colours."""
        return colours[int(self.rng.integers(len(colours)))]


def draw_front(style: CityStyle, rng: np.random.Generator, width: float, ppm: float) -> Brush:
    """One front of a width in metres and a height that the style allows."""
    storeys = round((rng.uniform(*style.heights) - GROUND_M) / style.floor)
    top = GROUND_M + max(storeys, 1) * style.floor
    wall = style.walls[int(rng.integers(len(style.walls)))]
    trim = style.trims[int(rng.integers(len(style.trims)))]
    roof = {"painted": 3.0, "parisian": 3.4, "stucco": 1.6, "concrete": 0.8}.get(style.front, 1.1)
    brush = Brush(width, top + roof, ppm)
    brush.box(0, 0, width, top, wall)
    brush.speckle(rng, 4.0)
    front = Front(brush, style, rng, wall, trim, top)
    _PAINTERS[style.front](front)
    # A dark seam towards the neighbour sets the houses apart.
    brush.box(0, 0, 0.12, top, shade(wall, 0.62))
    _entrance(front)
    return brush


def draw_shop(
    style: CityStyle, rng: np.random.Generator, width: float, ppm: float, sign: str
) -> Brush:
    """A shop's ground floor, to be laid over a front: transparent where the wall shows."""
    brush = Brush(width, GROUND_M, ppm)
    front = Front(brush, style, rng, style.walls[0], style.trims[0], GROUND_M)
    _shop(front, sign)
    return brush


def _windows(
    front: Front,
    width: float,
    height: float,
    pitch: float,
    sill: float,
    around: Callable[[Front, float, float, float, float], None] | None = None,
) -> None:
    """Rows of windows, every `pitch` metres; `around` draws what belongs to each window."""
    count = max(int((front.brush.width - 0.8) / pitch), 1)
    margin = (front.brush.width - count * pitch) / 2
    z = GROUND_M
    while z + height + sill <= front.top:
        for i in range(count):
            x = margin + (i + 0.5) * pitch - width / 2
            _window(front, x, z + sill, width, height)
            if around is not None:
                around(front, x, z + sill, width, height)
        z += front.style.floor


def _window(front: Front, x: float, z: float, width: float, height: float) -> None:
    b, rng = front.brush, front.rng
    b.box(x - 0.12, z - 0.12, x + width + 0.12, z + height + 0.12, front.trim)
    glass = LIT if rng.random() < 0.07 else shade(GLASS, float(rng.uniform(0.65, 1.35)))
    b.box(x, z, x + width, z + height, glass)
    b.polygon(
        [(x, z + height), (x + width * 0.7, z + height), (x, z + height * 0.4)],
        blend(glass, front.style.sky[1], 0.4),
    )
    if rng.random() < 0.4:
        blind = float(rng.uniform(0.2, 0.7)) * height
        b.box(x, z + height - blind, x + width, z + height, blend(glass, (236, 230, 216), 0.7))
    b.box(x + width / 2 - 0.04, z, x + width / 2 + 0.04, z + height, front.trim)
    b.box(x, z + height * 0.5 - 0.04, x + width, z + height * 0.5 + 0.04, front.trim)


def _courses(front: Front, step: float, factor: float) -> None:
    """Thin horizontal joints, as of bricks or stones."""
    z = 0.0
    while z < front.top:
        front.brush.line([(0, z), (front.brush.width, z)], shade(front.wall, factor), 0.02)
        z += step


def _cornice(front: Front, height: float, colour: Colour) -> None:
    b, top = front.brush, front.top
    b.box(0, top - 0.3, b.width, top + height, colour)
    b.box(0, top - 0.5, b.width, top - 0.3, shade(colour, 0.6))
    x = 0.2
    while x < b.width:
        b.box(x, top - 0.3, x + 0.25, top, shade(colour, 0.75))
        x += 0.7


def _brick(front: Front) -> None:
    _courses(front, 0.4, 0.88)
    _windows(front, 1.2, 1.9, 2.5, 0.9)
    _cornice(front, 0.9, front.pick((96, 84, 70), (70, 78, 72), front.trim))
    if front.rng.random() < 0.45:
        _fire_escape(front)


def _fire_escape(front: Front) -> None:
    b, iron = front.brush, (38, 38, 42)
    left = float(front.rng.uniform(0.12, 0.4)) * b.width
    right = left + 4.4
    z, flip = GROUND_M + 0.7, False
    while z + front.style.floor < front.top:
        b.box(left, z - 0.1, right, z + 0.08, iron)
        b.line([(left, z + 1.0), (right, z + 1.0)], iron, 0.06)
        for i in range(12):
            x = left + i * 0.4
            b.line([(x, z), (x, z + 1.0)], iron, 0.03)
        ends = (right - 0.5, left + 0.9) if flip else (left + 0.5, right - 0.9)
        b.line([(ends[0], z), (ends[1], z + front.style.floor)], iron, 0.16)
        z, flip = z + front.style.floor, not flip


def _concrete(front: Front) -> None:
    b, rng = front.brush, front.rng

    def louvre(front: Front, x: float, z: float, w: float, h: float) -> None:
        if rng.random() < 0.5:
            for i in range(5):
                b.box(x, z + i * h / 5, x + w, z + i * h / 5 + 0.07, front.trim)

    _windows(front, 1.5, 1.2, 3.0, 1.0, louvre)
    z = GROUND_M
    while z < front.top - 1:
        b.box(0, z - 0.2, b.width, z + 0.1, shade(front.wall, 1.12))
        if rng.random() < 0.6:
            for i in range(int(b.width / 0.3)):
                b.box(i * 0.3, z + 0.1, i * 0.3 + 0.12, z + 0.9, front.trim)
            b.box(0, z + 0.9, b.width, z + 1.0, front.trim)
        z += front.style.floor
    for _ in range(7):  # rain stains below the roof
        x, long = float(rng.uniform(0, b.width)), float(rng.uniform(0.8, 2.5))
        b.box(x, front.top - long, x + 0.25, front.top, shade(front.wall, 0.82))
    rust = front.pick((150, 84, 52), (168, 104, 66), (126, 120, 116))
    for i in range(int(b.width / 0.25) + 1):
        b.box(
            i * 0.25, front.top, i * 0.25 + 0.25, front.top + 0.8, shade(rust, 1 - 0.25 * (i % 2))
        )


def _sandstone(front: Front) -> None:
    b = front.brush
    _courses(front, 0.6, 0.93)

    def arch(front: Front, x: float, z: float, w: float, h: float) -> None:
        b.ellipse(x + w / 2, z + h, w / 2 + 0.15, 0.55, front.trim)
        b.ellipse(x + w / 2, z + h, w / 2 - 0.02, 0.4, shade(GLASS, 0.8))
        b.box(x - 0.5, z - 0.5, x + w + 0.5, z - 0.2, shade(front.wall, 1.14))
        for i in range(6):
            b.box(x - 0.4 + i * 0.38, z - 0.2, x - 0.25 + i * 0.38, z + 0.5, front.trim)

    _windows(front, 1.3, 1.5, 2.9, 0.9, arch)
    for i in range(int(b.width / 0.8)):
        b.box(i * 0.8, front.top, i * 0.8 + 0.5, front.top + 0.9, front.wall)
    b.box(0, front.top - 0.1, b.width, front.top + 0.3, front.trim)


def _tower(front: Front) -> None:
    b, rng = front.brush, front.rng
    for x in np.arange(0, b.width, 3.0):
        b.box(float(x), GROUND_M, float(x) + 0.5, front.top, shade(front.wall, 0.8))

    def cooler(front: Front, x: float, z: float, w: float, h: float) -> None:
        if rng.random() < 0.5:
            b.box(x + 0.1, z - 0.75, x + 0.9, z - 0.2, (214, 214, 208))
            b.box(x + 0.2, z - 0.65, x + 0.6, z - 0.3, (120, 124, 124))
        if rng.random() < 0.12:
            b.box(
                x - 0.1, z + h, x + w + 0.1, z + h + 0.35, front.pick((88, 130, 96), (70, 96, 140))
            )

    _windows(front, 1.5, 1.35, 2.0, 1.05, cooler)
    b.box(0, front.top - 0.2, b.width, front.top + 1.1, shade(front.wall, 0.85))


def _victorian(front: Front) -> None:
    b = front.brush
    if front.wall[0] - front.wall[2] > 60:
        _courses(front, 0.35, 0.9)

    def crown(front: Front, x: float, z: float, w: float, h: float) -> None:
        b.ellipse(x + w / 2, z + h, w / 2 + 0.14, 0.5, front.trim)
        b.ellipse(x + w / 2, z + h, w / 2, 0.38, shade(GLASS, 0.9))

    _windows(front, 1.2, 2.0, 2.6, 0.8, crown)
    _cornice(front, 0.5, front.trim)
    middle = b.width / 2
    b.polygon(
        [
            (middle - 2.2, front.top + 0.4),
            (middle + 2.2, front.top + 0.4),
            (middle, front.top + 1.1),
        ],
        shade(front.wall, 1.1),
    )


def _stucco(front: Front) -> None:
    b, shutter = front.brush, front.pick((58, 92, 66), (74, 104, 82), (96, 72, 54))

    def shutters(front: Front, x: float, z: float, w: float, h: float) -> None:
        for side in (x - 0.72, x + w + 0.12):
            b.box(side, z, side + 0.6, z + h, shutter)
            for i in range(8):
                b.line(
                    [(side, z + i * h / 8), (side + 0.6, z + i * h / 8)], shade(shutter, 0.7), 0.03
                )
        if front.rng.random() < 0.25:
            b.box(x - 0.7, z - 0.35, x + w + 0.7, z - 0.15, front.trim)
            for i in range(9):
                b.box(x - 0.6 + i * 0.3, z - 0.15, x - 0.55 + i * 0.3, z + 0.75, (50, 50, 52))

    _windows(front, 1.1, 2.1, 3.1, 0.9, shutters)
    b.box(0, GROUND_M - 0.1, b.width, GROUND_M + 0.25, shade(front.wall, 1.12))
    b.box(0, front.top - 0.4, b.width, front.top, shade(front.wall, 0.7))
    for i in range(int(b.width / 0.3) + 1):
        tile = shade((176, 92, 62), 1.0 if i % 2 else 0.84)
        b.box(i * 0.3, front.top, i * 0.3 + 0.3, front.top + 1.6, tile)


def _terrace(front: Front) -> None:
    b = front.brush
    _courses(front, 0.32, 0.9)
    white: Colour = (240, 238, 230)
    front.trim = white

    def sash(front: Front, x: float, z: float, w: float, h: float) -> None:
        b.box(x - 0.25, z + h + 0.1, x + w + 0.25, z + h + 0.4, shade(white, 0.95))
        b.box(x - 0.2, z - 0.25, x + w + 0.2, z - 0.1, shade(white, 0.85))

    _windows(front, 1.15, 1.9, 2.4, 0.8, sash)
    b.box(0, front.top - 0.2, b.width, front.top + 0.4, white)
    b.box(0, front.top - 0.35, b.width, front.top - 0.2, shade(white, 0.65))
    for x in (0.6, b.width - 2.0):  # chimneys
        b.box(x, front.top + 0.4, x + 1.4, front.top + 0.85, shade(front.wall, 0.8))
        b.box(x + 0.2, front.top + 0.85, x + 0.5, front.top + 1.1, (186, 104, 72))
        b.box(x + 0.8, front.top + 0.85, x + 1.1, front.top + 1.1, (186, 104, 72))


def _painted(front: Front) -> None:
    b = front.brush
    _courses(front, 0.25, 0.95)
    third = b.width / 3
    bay = shade(front.wall, 1.08)
    for x in (third * 0.25, third * 1.9):  # two bays under gables
        b.box(x, GROUND_M, x + third, front.top, bay)
        b.box(x, GROUND_M, x + 0.3, front.top, shade(front.wall, 0.78))
        b.box(x + third - 0.3, GROUND_M, x + third, front.top, shade(front.wall, 0.9))
        b.polygon(
            [(x - 0.3, front.top), (x + third + 0.3, front.top), (x + third / 2, front.top + 2.8)],
            front.trim,
        )
        b.polygon(
            [
                (x + 0.3, front.top + 0.2),
                (x + third - 0.3, front.top + 0.2),
                (x + third / 2, front.top + 2.2),
            ],
            bay,
        )
    _windows(front, 1.0, 1.9, third / 2.05, 0.8)
    z = GROUND_M
    while z <= front.top:
        b.box(0, z - 0.12, b.width, z + 0.12, front.trim)
        z += front.style.floor
    b.box(0, front.top, b.width, front.top + 0.5, front.trim)


def _parisian(front: Front) -> None:
    b, iron = front.brush, (44, 46, 50)
    _courses(front, 0.7, 0.94)

    def balcony(front: Front, x: float, z: float, w: float, h: float) -> None:
        b.box(x - 0.45, z - 0.25, x + w + 0.45, z - 0.05, shade(front.wall, 1.1))
        for i in range(10):
            at = x - 0.4 + i * (w + 0.8) / 9
            b.box(at, z - 0.05, at + 0.05, z + 0.85, iron)
        b.box(x - 0.45, z + 0.8, x + w + 0.45, z + 0.9, iron)

    _windows(front, 1.2, 2.3, 2.8, 0.6, balcony)
    _cornice(front, 0.2, shade(front.wall, 1.08))
    slate: Colour = (86, 92, 104)
    b.polygon(
        [
            (0, front.top + 0.2),
            (b.width, front.top + 0.2),
            (b.width - 0.5, front.top + 3.4),
            (0.5, front.top + 3.4),
        ],
        slate,
    )
    for i in range(int(b.width / 3)):  # dormers
        x = 0.8 + i * 3.0
        b.box(x, front.top + 0.5, x + 1.2, front.top + 2.6, shade(front.wall, 1.1))
        b.box(x + 0.2, front.top + 0.7, x + 1.0, front.top + 2.3, GLASS)


_PAINTERS: dict[str, Callable[[Front], None]] = {
    "brick": _brick,
    "concrete": _concrete,
    "sandstone": _sandstone,
    "tower": _tower,
    "victorian": _victorian,
    "stucco": _stucco,
    "terrace": _terrace,
    "painted": _painted,
    "parisian": _parisian,
}


def _shop(front: Front, sign: str) -> None:
    """A shop window, a door, a fascia with an ordinary word, perhaps an awning."""
    b, rng = front.brush, front.rng
    frame = front.pick((52, 46, 44), (92, 34, 36), (30, 62, 58), (40, 48, 84), (70, 60, 40))
    b.box(0.2, 0, b.width - 0.2, GROUND_M - 0.25, frame)
    door = b.width * float(rng.uniform(0.3, 0.6))
    for x0, x1 in ((0.5, door - 0.2), (door + 1.3, b.width - 0.5)):
        b.box(x0, 0.5, x1, 2.75, blend(GLASS, LIT, 0.28))
        for i in range(int((x1 - x0) / 0.7)):  # goods in the window
            goods = front.pick((206, 96, 74), (222, 184, 92), (120, 156, 96), (232, 226, 210))
            x = x0 + 0.15 + i * 0.7
            b.box(x, 0.55, x + 0.45, 0.55 + float(rng.uniform(0.3, 1.1)), goods)
        b.polygon(
            [(x0, 2.75), (x0 + (x1 - x0) * 0.5, 2.75), (x0, 1.2)],
            blend(GLASS, front.style.sky[1], 0.45),
        )
    b.box(door, 0.05, door + 1.1, 2.6, shade(frame, 1.5))
    b.box(door + 0.15, 0.9, door + 0.95, 2.4, GLASS)
    fascia = front.pick((232, 226, 208), (40, 44, 52), (128, 38, 40), (36, 78, 70), (226, 186, 84))
    b.box(0.2, 2.85, b.width - 0.2, 3.75, fascia)
    light = sum(fascia) > 420
    ink = (40, 36, 34) if light else (244, 238, 220)
    face = BOARDS[front.style.name].face
    b.text((b.width / 2, 3.3), (b.width * 0.6, 0.6), sign, ink, face)
    if rng.random() < 0.4:
        stripe = front.pick((186, 60, 54), (58, 108, 86), (60, 84, 140), (206, 150, 60))
        for i in range(int((b.width - 0.6) / 0.5)):
            x = 0.3 + i * 0.5
            colour = stripe if i % 2 else (240, 236, 226)
            b.polygon([(x, 2.1), (x + 0.5, 2.1), (x + 0.5, 2.85), (x, 2.85)], colour)


def _entrance(front: Front) -> None:
    """A plain ground floor: one door, and windows beside it where there is room."""
    b = front.brush
    b.box(0, 0, b.width, GROUND_M, front.wall)
    b.box(0, 0, b.width, 0.6, shade(front.wall, 0.7))
    b.box(0, GROUND_M - 0.3, b.width, GROUND_M, shade(front.wall, 0.85))
    middle = b.width / 2
    b.box(middle - 0.8, 0, middle + 0.8, 3.0, front.trim)
    b.box(middle - 0.6, 0, middle + 0.6, 2.8, shade(front.trim, 0.55))
    for x in np.arange(middle + 1.8, b.width - 1.4, 2.3):
        for left in (float(x), b.width - float(x) - 1.2):
            _window(front, left, 1.2, 1.2, 1.8)
