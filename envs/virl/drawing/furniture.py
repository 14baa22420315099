"""Street furniture, one small drawing a kind.

Input: a kind and a generator. Output: Brushes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.virl.city.style import Colour
from envs.virl.drawing.brush import Brush, shade

_IRON: Colour = (52, 54, 58)


def draw_furniture(kind: str, rng: np.random.Generator, ppm: float) -> Brush:
    """A piece of street furniture."""
    return _KINDS[kind](rng, ppm)


def _hydrant(colour: Colour) -> Callable[[np.random.Generator, float], Brush]:
    def draw(rng: np.random.Generator, ppm: float) -> Brush:
        b = Brush(0.6, 0.9, ppm)
        b.box(0.18, 0, 0.42, 0.75, colour)
        b.box(0.08, 0.42, 0.52, 0.56, shade(colour, 0.8))
        b.ellipse(0.3, 0.75, 0.14, 0.12, shade(colour, 1.15))
        return b

    return draw


def _lamp(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(2.0, 7.0, ppm)
    b.box(0.9, 0, 1.05, 6.6, (120, 124, 126))
    b.line([(0.97, 6.6), (1.9, 6.85)], (120, 124, 126), 0.1)
    b.box(1.5, 6.7, 2.0, 6.9, (232, 228, 206))
    return b


def _lamp_old(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(0.8, 4.6, ppm)
    b.box(0.33, 0, 0.47, 3.7, _IRON)
    b.box(0.22, 0, 0.58, 0.5, _IRON)
    b.polygon([(0.22, 3.7), (0.58, 3.7), (0.68, 4.25), (0.12, 4.25)], (250, 226, 160))
    b.polygon([(0.08, 4.25), (0.72, 4.25), (0.4, 4.55)], _IRON)
    return b


def _signal(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(0.8, 4.0, ppm)
    b.box(0.34, 0, 0.46, 3.0, _IRON)
    b.box(0.18, 2.8, 0.62, 4.0, (206, 164, 40))
    for z, colour in ((3.75, (220, 60, 50)), (3.4, (90, 80, 40)), (3.05, (40, 70, 48))):
        b.ellipse(0.4, z, 0.14, 0.14, colour)
    return b


def _bin(colour: Colour) -> Callable[[np.random.Generator, float], Brush]:
    def draw(rng: np.random.Generator, ppm: float) -> Brush:
        b = Brush(0.8, 1.1, ppm)
        b.box(0.1, 0, 0.7, 0.95, colour)
        b.box(0.05, 0.9, 0.75, 1.05, shade(colour, 0.7))
        return b

    return draw


def _umbrella(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(3.2, 2.9, ppm)
    cloth = ((206, 60, 54), (60, 130, 90), (240, 190, 60), (70, 100, 170))[int(rng.integers(4))]
    b.box(1.55, 0, 1.65, 2.6, (110, 90, 70))
    for i in range(6):
        x0, x1 = 0.1 + i * 0.5, 0.6 + i * 0.5
        colour = cloth if i % 2 else (244, 240, 230)
        b.polygon([(x0, 2.0), (x1, 2.0), (1.6, 2.85)], colour)
    b.box(0.5, 0, 2.7, 0.75, (140, 104, 70))
    for i in range(6):
        fruit = ((222, 120, 40), (186, 50, 44), (110, 150, 60))[int(rng.integers(3))]
        b.ellipse(0.75 + i * 0.34, 0.85, 0.17, 0.17, fruit)
    return b


def _pole(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(3.0, 8.0, ppm)
    b.box(1.42, 0, 1.58, 7.8, (110, 92, 76))
    for z in (7.5, 6.9):
        b.box(0.6, z, 2.4, z + 0.12, (90, 74, 60))
        b.line([(0, z - 0.2), (0.7, z + 0.15), (2.3, z + 0.15), (3.0, z - 0.2)], _IRON, 0.04)
    b.box(1.2, 5.6, 1.8, 6.4, (132, 134, 132))
    return b


def _crates(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(1.8, 1.3, ppm)
    for i in range(3):
        for j in range(2):
            tone = float(rng.uniform(0.8, 1.15))
            b.box(
                i * 0.6 + 0.02, j * 0.6, i * 0.6 + 0.56, j * 0.6 + 0.55, shade((176, 132, 82), tone)
            )
    return b


def _bench(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(2.0, 1.0, ppm)
    for x in (0.2, 1.7):
        b.box(x, 0, x + 0.1, 0.95, _IRON)
    for z in (0.42, 0.62, 0.8):
        b.box(0.05, z, 1.95, z + 0.12, (142, 96, 60))
    return b


def _pots(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(1.4, 1.4, ppm)
    for x in (0.35, 1.05):
        b.polygon([(x - 0.2, 0), (x + 0.2, 0), (x + 0.3, 0.5), (x - 0.3, 0.5)], (186, 104, 70))
        for _ in range(10):
            at = (x + float(rng.uniform(-0.25, 0.25)), 0.8 + float(rng.uniform(-0.25, 0.4)))
            b.ellipse(*at, 0.13, 0.13, shade((80, 130, 64), float(rng.uniform(0.8, 1.2))))
    return b


def _neon(rng: np.random.Generator, ppm: float) -> Brush:
    """An upright neon sign on a bracket: bars of light, no words."""
    b = Brush(1.5, 10.0, ppm)
    glow = ((255, 70, 90), (80, 220, 230), (255, 210, 70), (240, 90, 220))[int(rng.integers(4))]
    b.box(0.1, 4.6, 1.4, 9.8, (34, 30, 40))
    b.box(0.2, 4.7, 1.3, 9.7, shade(glow, 0.35))
    for i in range(4):
        z = 5.0 + i * 1.2
        b.box(0.4, z, 1.1, z + 0.14, glow)
        b.box(0.4, z + 0.5, 1.1, z + 0.64, glow)
        b.box(0.4 if i % 2 else 0.96, z, 0.54 if i % 2 else 1.1, z + 0.64, glow)
    return b


def _rail(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(3.0, 1.1, ppm)
    for i in range(7):
        b.box(i * 0.48, 0, i * 0.48 + 0.06, 1.05, (190, 192, 190))
    for z in (0.5, 1.0):
        b.box(0, z, 3.0, z + 0.06, (190, 192, 190))
    return b


def _cafe(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(2.6, 2.7, ppm)
    b.box(1.26, 0, 1.34, 2.4, (120, 110, 100))
    b.polygon([(0.05, 2.0), (2.55, 2.0), (1.3, 2.65)], (244, 236, 216))
    b.box(0.7, 0.68, 1.9, 0.76, (90, 70, 56))
    for x in (0.3, 2.0):
        b.box(x, 0, x + 0.34, 0.46, (120, 84, 58))
        b.box(
            x if x < 1 else x + 0.26, 0.46, (x if x < 1 else x + 0.26) + 0.08, 0.95, (120, 84, 58)
        )
    return b


def _bollard(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(0.3, 1.0, ppm)
    b.box(0.07, 0, 0.23, 0.9, (34, 36, 40))
    b.box(0.07, 0.7, 0.23, 0.78, (226, 226, 220))
    return b


def _phone_box(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(1.0, 2.6, ppm)
    red = (196, 28, 34)
    b.box(0, 0, 1.0, 2.45, red)
    b.polygon([(0.05, 2.45), (0.95, 2.45), (0.5, 2.6)], shade(red, 0.85))
    b.box(0.12, 2.18, 0.88, 2.36, (244, 240, 230))
    for i in range(3):
        for j in range(6):
            b.box(
                0.14 + i * 0.25, 0.35 + j * 0.29, 0.34 + i * 0.25, 0.58 + j * 0.29, (150, 170, 176)
            )
    return b


def _kiosk(rng: np.random.Generator, ppm: float) -> Brush:
    b = Brush(2.6, 2.9, ppm)
    b.box(0.1, 0, 2.5, 2.5, (44, 84, 62))
    b.box(0, 2.4, 2.6, 2.7, (34, 64, 48))
    for i in range(5):
        for j in range(3):
            colour = tuple(int(c) for c in rng.integers(90, 240, 3))
            b.box(0.3 + i * 0.42, 0.6 + j * 0.6, 0.62 + i * 0.42, 1.05 + j * 0.6, colour)  # type: ignore[arg-type]
    return b


_KINDS: dict[str, Callable[[np.random.Generator, float], Brush]] = {
    "hydrant": _hydrant((196, 44, 40)),
    "hydrant_white": _hydrant((236, 234, 226)),
    "lamp": _lamp,
    "lamp_old": _lamp_old,
    "signal": _signal,
    "bin": _bin((70, 76, 74)),
    "bin_green": _bin((50, 104, 66)),
    "umbrella": _umbrella,
    "pole": _pole,
    "crates": _crates,
    "bench": _bench,
    "pots": _pots,
    "neon": _neon,
    "rail": _rail,
    "cafe": _cafe,
    "bollard": _bollard,
    "phone_box": _phone_box,
    "kiosk": _kiosk,
}
