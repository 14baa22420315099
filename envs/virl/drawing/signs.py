"""The boards of landmarks: large, in two lines, readable from the key point.

In: a name. Out: a Brush. The same name always looks the same; where it hangs is not known here.
"""

from __future__ import annotations

import zlib

from envs.virl.city.style import Colour
from envs.virl.drawing.brush import Brush, shade

BOARD_M = (4.0, 8.4)  # lower and upper edge of a board above the ground

_BOARDS: tuple[tuple[Colour, Colour], ...] = (
    ((176, 32, 40), (255, 250, 236)),
    ((24, 72, 150), (255, 250, 236)),
    ((18, 104, 72), (255, 246, 210)),
    ((250, 206, 60), (34, 30, 28)),
    ((252, 250, 244), (160, 24, 36)),
    ((28, 30, 38), (255, 214, 92)),
    ((252, 250, 244), (20, 60, 130)),
    ((110, 40, 120), (255, 250, 236)),
    ((226, 104, 32), (255, 252, 240)),
)


def draw_board(name: str, width: float, shop: bool, ppm: float) -> Brush:
    """A landmark's board, over its shop front, or on two posts.

    width: metres. shop: a board on a house, with the shop below; else one that hangs free.
    """
    number = zlib.crc32(name.encode())
    ground, ink = _BOARDS[number % len(_BOARDS)]
    low, high = BOARD_M
    brush = Brush(width, high, ppm)
    if shop:
        _shop_below(brush, ground, ink)
    else:
        for x in (width * 0.12, width * 0.88):
            brush.box(x - 0.09, 0, x + 0.09, low, (58, 60, 64))
    brush.box(0, low, width, high, shade(ground, 0.55))
    brush.box(0.12, low + 0.12, width - 0.12, high - 0.12, ink)
    brush.box(0.26, low + 0.26, width - 0.26, high - 0.26, ground)
    first, last = name.upper().rsplit(" ", 1) if " " in name else ("", name.upper())
    middle, half = (low + high) / 2, (high - low) / 4
    if first:
        brush.text(width / 2, middle + half * 0.92, width - 1.0, 1.5, first, ink, 0.03)
        brush.text(width / 2, middle - half * 0.92, width - 1.0, 1.5, last, ink, 0.03)
    else:
        brush.text(width / 2, middle, width - 1.0, 2.2, last, ink, 0.03)
    return brush


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
