"""The boards of landmarks: large, a word a line, readable from the key point.

Input: a name, a city's BoardStyle, a number that picks the colours. Output: a Brush.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from envs.virl.city.boards import BoardStyle
from envs.virl.city.style import Colour
from envs.virl.drawing.brush import Brush, shade
from envs.virl.drawing.ornaments import Box, draw_ornament

BOARD_M = (3.8, 9.7)  # lower and upper edge of a board above the ground
CROWN_M = 0.7  # what an arched board rises above that
FRAME_M = 0.3


@dataclass(frozen=True)
class Mount:
    """How a board stands.

    width: metres. shop: on a house with the shop below; else on one post, `post` metres to the
    reader's right of the board's middle.
    """

    width: float
    shop: bool
    post: float = 0.0


def draw_board(name: str, style: BoardStyle, paint: int, mount: Mount, ppm: float) -> Brush:
    """A landmark's board over its shop front or on a post; equal arguments, equal pictures."""
    ground, ink = style.paints[paint % len(style.paints)]
    low, high = BOARD_M
    brush = Brush(mount.width, high + CROWN_M, ppm)
    if mount.shop:
        _shop_below(brush, ground, ink)
    else:
        post = min(max(mount.width / 2 + mount.post, 0.3), mount.width - 0.3)
        brush.box(post - 0.2, 0, post + 0.2, low, (58, 60, 64))
    _panel(brush, style, ground, ink)
    inside = (FRAME_M + 0.1, low + FRAME_M + 0.1, mount.width - FRAME_M - 0.1, high - FRAME_M - 0.1)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    box = draw_ornament(style.ornament, brush, inside, (ground, ink), rng)
    _letters(brush, style, name, box, ink)
    return brush


def _letters(brush: Brush, style: BoardStyle, name: str, box: Box, ink: Colour) -> None:
    """The name, a word a line, as large as the box allows."""
    x0, z0, x1, z1 = box
    words = (name.upper() if style.upper else name).split()
    tall = (z1 - z0) / len(words)
    for row, word in enumerate(words):
        z = z1 - (row + 0.5) * tall
        brush.text(((x0 + x1) / 2, z), (x1 - x0, tall * 0.92), word, ink, style.face, style.weight)


def _panel(brush: Brush, style: BoardStyle, ground: Colour, ink: Colour) -> None:
    """The board without its name: an outline in the style's shape, and its frame."""
    if style.frame == "none":
        layers = [(0.0, ground)]
    elif style.frame == "single":
        layers = [(0.0, ink), (0.14, ground)]
    elif style.frame == "double":
        layers = [(0.0, shade(ground, 0.55)), (0.1, ink), (0.22, ground)]
    else:  # lamps stand on a dark edge
        layers = [(0.0, shade(ground, 0.5)), (FRAME_M, ground)]
    for inset, colour in layers:
        _outline(brush, style.shape, inset, colour)
    low, high = BOARD_M
    if style.frame == "neon":
        at = FRAME_M / 2
        left, right, foot, top = at, brush.width - at, low + at, high - at
        corners = [(left, foot), (right, foot), (right, top), (left, top), (left, foot)]
        brush.line(corners, ink, 0.12)
    elif style.frame == "bulbs":
        for x in np.arange(0.7, brush.width - 0.5, 0.6):
            for z in (low + FRAME_M / 2, high - FRAME_M / 2):
                brush.ellipse(float(x), z, 0.11, 0.11, (255, 244, 190))


def _outline(brush: Brush, shape: str, inset: float, fill: Colour) -> None:
    """A board's area in one colour, `inset` metres smaller on each side."""
    low, high = BOARD_M
    x0, z0, x1, z1 = inset, low + inset, brush.width - inset, high - inset
    if shape == "notched":
        cut = 0.6
        lower = [(x0, z0 + cut), (x0 + cut, z0), (x1 - cut, z0), (x1, z0 + cut)]
        upper = [(x1, z1 - cut), (x1 - cut, z1), (x0 + cut, z1), (x0, z1 - cut)]
        brush.polygon(lower + upper, fill)
        return
    if shape == "rounded":
        radius = 0.5
        brush.box(x0 + radius, z0, x1 - radius, z1, fill)
        brush.box(x0, z0 + radius, x1, z1 - radius, fill)
        for x in (x0 + radius, x1 - radius):
            for z in (z0 + radius, z1 - radius):
                brush.ellipse(x, z, radius, radius, fill)
        return
    brush.box(x0, z0, x1, z1, fill)
    if shape == "arched":
        brush.ellipse(brush.width / 2, z1, (x1 - x0) * 0.4, CROWN_M - inset, fill)
    elif shape == "scalloped":
        count = 10
        step = (x1 - x0) / count
        for i in range(count):
            brush.ellipse(x0 + (i + 0.5) * step, z0, step / 2, 0.4, fill)


def _shop_below(brush: Brush, ground: Colour, ink: Colour) -> None:
    """A shop front in the board's colours: windows, a door, a striped awning."""
    width = brush.width
    brush.box(0, 0, width, BOARD_M[0], shade(ground, 0.7))
    for x0, x1 in ((0.4, width * 0.4), (width * 0.6, width - 0.4)):
        brush.box(x0, 0.6, x1, 2.6, (244, 220, 160))
        brush.box(x0 + 0.1, 0.7, x1 - 0.1, 2.5, (150, 140, 116))
        brush.polygon([(x0 + 0.1, 2.5), (x0 + 1.4, 2.5), (x0 + 0.1, 1.1)], (206, 214, 214))
    brush.box(width * 0.43, 0, width * 0.57, 2.6, (60, 44, 36))
    brush.box(width * 0.45, 1.0, width * 0.55, 2.4, (150, 160, 160))
    stripes = int((width - 0.4) / 0.6)
    for i in range(stripes):
        x = 0.2 + i * (width - 0.4) / stripes
        brush.box(x, 2.7, x + 0.62, 3.7, ground if i % 2 else ink)
