"""Ornaments of boards, in the look of a city's script or sign painters.

Input: a Brush, a box in metres, colours and a generator. Output: the box that is left for the
name. Strokes that look like a script spell nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from envs.virl.city.style import Colour
from envs.virl.drawing.brush import Brush, blend

Box = tuple[float, float, float, float]
Painter = Callable[[Brush, Box, Colour, Colour, np.random.Generator], Box]


def draw_ornament(
    kind: str, brush: Brush, box: Box, paint: tuple[Colour, Colour], rng: np.random.Generator
) -> Box:
    """Draw an ornament at the edge of a box (left, lower, right, upper); returns what is left."""
    return _KINDS[kind](brush, box, *paint, rng)


def _none(brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator) -> Box:
    return box


def _stripes(brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator) -> Box:
    """Two painted bands below the name, as along a danfo."""
    x0, z0, x1, z1 = box
    brush.box(x0, z0, x1, z0 + 0.28, ink)
    brush.box(x0, z0 + 0.42, x1, z0 + 0.56, blend(ink, ground, 0.3))
    return (x0, z0 + 0.7, x1, z1)


def _headline(brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator) -> Box:
    """A line of letters that hang from a common bar, as in Devanagari."""
    x0, z0, x1, z1 = box
    pen, bar = 0.13, z1 - 0.16
    x = x0 + 0.6
    while x < x1 - 1.0:
        wide = float(rng.uniform(0.55, 0.8))
        brush.line([(x - 0.1, bar), (x + wide + 0.12, bar)], ink, pen)
        brush.line([(x + wide, bar), (x + wide, bar - 0.8)], ink, pen)
        if rng.random() < 0.5:  # a bowl that opens to the left
            middle = bar - float(rng.uniform(0.3, 0.5))
            bowl = [(x + wide, middle), (x + 0.1, middle), (x + 0.2, middle - 0.35)]
            brush.line(bowl, ink, pen)
        else:
            hook = [(x + 0.1, bar), (x + 0.1, bar - 0.4), (x + wide, bar - 0.6)]
            brush.line(hook, ink, pen)
        if rng.random() < 0.3:  # a vowel sign above
            brush.line([(x + wide * 0.4, bar + 0.24), (x + wide, bar)], ink, pen * 0.8)
        x += wide + (0.2 if rng.random() < 0.75 else 0.6)
    return (x0, z0, x1, z1 - 1.0)


def _column(brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator) -> Box:
    """Square characters of straight strokes, one above the other at the left, as in Chinese."""
    x0, z0, x1, z1 = box
    count, wide = 4, 1.15
    tall = (z1 - z0) / count
    for i in range(count):
        left, right = x0 + 0.15, x0 + wide - 0.1
        low, high = z0 + i * tall + 0.14, z0 + (i + 1) * tall - 0.14
        for z in np.linspace(low, high, 3)[: int(rng.integers(2, 4))]:
            brush.line([(left, float(z)), (right, float(z))], ink, 0.12)
        middle = (left + right) / 2
        brush.line([(middle, low), (middle, high)], ink, 0.12)
        if rng.random() < 0.5:
            for x in (left, right):
                brush.line([(x, low), (x, high)], ink, 0.12)
        else:
            brush.line([(middle, (low + high) / 2), (left, low)], ink, 0.12)
            brush.line([(middle, (low + high) / 2), (right, low)], ink, 0.12)
    brush.line([(x0 + wide + 0.1, z0), (x0 + wide + 0.1, z1)], blend(ink, ground, 0.4), 0.08)
    return (x0 + wide + 0.3, z0, x1, z1)


def _tricolour(
    brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator
) -> Box:
    x0, z0, x1, z1 = box
    for i, colour in enumerate(((0, 130, 70), (250, 250, 246), (200, 36, 48))):
        brush.box(x0 + i * 0.22, z0, x0 + (i + 1) * 0.22, z1, colour)
    return (x0 + 0.85, z0, x1, z1)


def _roundel(brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator) -> Box:
    """A ring between two rules above the name."""
    x0, z0, x1, z1 = box
    x, z = (x0 + x1) / 2, z1 - 0.35
    brush.line([(x0, z), (x1, z)], ink, 0.08)
    brush.ellipse(x, z, 0.4, 0.4, (206, 40, 44))
    brush.ellipse(x, z, 0.22, 0.22, ground)
    return (x0, z0, x1, z1 - 0.8)


def _scrolls(brush: Brush, box: Box, ground: Colour, ink: Colour, rng: np.random.Generator) -> Box:
    """Curls of the fileteado below the name, mirrored around a flower."""
    x0, z0, x1, z1 = box
    middle, base = (x0 + x1) / 2, z0 + 0.4
    tones = (ink, blend(ink, (220, 60, 60), 0.5), blend(ink, (70, 160, 90), 0.5))
    for side in (-1, 1):
        for number, centre in enumerate(np.linspace(0.9, (x1 - x0) / 2 - 0.5, 4)):
            turn = np.linspace(0, 1.7 * math.pi, 10)
            radius = np.linspace(0.38, 0.1, 10)
            curl = [
                (middle + side * (centre + float(r * math.cos(a))), base + float(r * math.sin(a)))
                for a, r in zip(turn, radius, strict=True)
            ]
            brush.line(curl, tones[number % 3], 0.1)
    brush.ellipse(middle, base, 0.34, 0.34, tones[1])
    brush.ellipse(middle, base, 0.14, 0.14, ink)
    return (x0, z0 + 0.85, x1, z1)


_KINDS: dict[str, Painter] = {
    "none": _none,
    "stripes": _stripes,
    "headline": _headline,
    "column": _column,
    "tricolour": _tricolour,
    "roundel": _roundel,
    "scrolls": _scrolls,
}
