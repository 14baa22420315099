"""Pictures of hands: playing cards on a green table, drawn here, legible at any size.

Input: ranks, suits, a size in pixels. Output: uint8 [size, size, 3]. Places and the colour of the
table are the study's (1200 x 1200: cards of 270 x 378 at x = 5, 302, 599, 896).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from envs.general_points.rules import rank_name

TABLE = (0x35, 0x65, 0x4D)
PAPER, EDGE = (253, 252, 248), (176, 174, 166)
INK = {0: (24, 26, 32), 1: (196, 18, 48), 2: (196, 18, 48), 3: (24, 26, 32)}
"""Colour of each suit (0 to 3: spades, hearts, diamonds, clubs)."""
TINT = {0: (232, 234, 240), 1: (250, 229, 228), 2: (250, 229, 228), 3: (232, 234, 240)}
GOLD = (201, 152, 46)

COMPACT = 84
"""Cards narrower than this, pixels, show one large rank and one suit instead of pips."""

Point = tuple[float, float]


def card_places(size: int, num_cards: int) -> tuple[int, int, list[Point]]:
    """Card width and height and the top left corners (x, y), pixels."""
    width = int(size / num_cards * 0.9)
    height = int(width * 7 / 5)
    left = max(1, round(size * 5 / 1200))
    return (
        width,
        height,
        [(left + int(i * width * 1.1), int((size - height) / 2)) for i in range(num_cards)],
    )


def picture(ranks: tuple[int, ...], suits: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """The hand on its table, uint8 [size, size, 3]."""
    canvas = _table(size).copy()
    width, height, corners = card_places(size, len(ranks))
    margin = max(1, round(size * 5 / 1200))
    for rank, suit, (x, y) in zip(ranks, suits, corners, strict=True):
        tile = card(rank, suit, width, height, margin)
        x, y = int(x) - margin, int(y) - margin
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


@lru_cache(maxsize=8)
def _table(size: int) -> NDArray[np.uint8]:
    table = np.empty((size, size, 3), np.uint8)
    table[:] = TABLE
    return table


@lru_cache(maxsize=512)
def card(rank: int, suit: int, width: int, height: int, margin: int) -> NDArray[np.uint8]:
    """One card on the table with its shadow, uint8 [height + 2 margin, width + 2 margin, 3].

    Drawn at several times its size and reduced, so that all edges are smooth.
    """
    scale = max(2, math.ceil((320 if width < COMPACT else 640) / width))
    w, h, m = width * scale, height * scale, margin * scale
    face = _compact_face(rank, suit, w, h) if width < COMPACT else _full_face(rank, suit, w, h)
    image = Image.new("RGB", (w + 2 * m, h + 2 * m), TABLE)
    radius = round(w * 0.065)
    shape = Image.new("L", image.size, 0)
    ImageDraw.Draw(shape).rounded_rectangle((m, m, m + w - 1, m + h - 1), radius, fill=255)
    shadow = ImageChops.offset(shape, m // 4, m // 2).filter(ImageFilter.GaussianBlur(m * 0.35))
    image.paste((22, 44, 33), (0, 0), shadow.point(lambda value: value * 3 // 5))
    framed = Image.new("RGB", image.size, PAPER)
    framed.paste(face, (m, m))
    line = max(scale // 2, round(w * 0.004))
    ImageDraw.Draw(framed).rounded_rectangle(
        (m, m, m + w - 1, m + h - 1), radius, outline=EDGE, width=line
    )
    image.paste(framed, (0, 0), shape)
    tile = image.resize((width + 2 * margin, height + 2 * margin), Image.Resampling.LANCZOS)
    array = np.asarray(tile).copy()
    array.flags.writeable = False
    return array


def _compact_face(rank: int, suit: int, w: int, h: int) -> Image.Image:
    """A large rank above a large suit."""
    face = Image.new("RGB", (w, h), PAPER)
    _glyph(face, rank_name(rank), (0.5 * w, 0.31 * h), 0.84 * w, 0.46 * h, INK[suit])
    _suit(face, suit, (0.5 * w, 0.77 * h), 0.25 * w)
    return face


def _full_face(rank: int, suit: int, w: int, h: int) -> Image.Image:
    """Indices in two corners, and pips, an ace, a court card or a number between them."""
    face = Image.new("RGB", (w, h), PAPER)
    if 11 <= rank <= 13:
        _court(face, rank, suit)
    elif rank == 1:
        _suit(face, suit, (0.5 * w, 0.5 * h), 0.27 * w)
    elif rank <= 10:
        _pips(face, rank, suit)
    else:
        _glyph(face, rank_name(rank), (0.5 * w, 0.5 * h), 0.5 * w, 0.32 * h, INK[suit])
    for _ in range(2):
        _glyph(face, rank_name(rank), (0.11 * w, 0.1 * h), 0.145 * w, 0.105 * h, INK[suit])
        _suit(face, suit, (0.11 * w, 0.207 * h), 0.06 * w)
        face = face.rotate(180)
    return face


_ROWS = {
    2: ((0.5, (0.2, 0.8)),),
    3: ((0.5, (0.2, 0.5, 0.8)),),
    4: ((0.335, (0.2, 0.8)), (0.665, (0.2, 0.8))),
    5: ((0.335, (0.2, 0.8)), (0.665, (0.2, 0.8)), (0.5, (0.5,))),
    6: ((0.335, (0.2, 0.5, 0.8)), (0.665, (0.2, 0.5, 0.8))),
    7: ((0.335, (0.2, 0.5, 0.8)), (0.665, (0.2, 0.5, 0.8)), (0.5, (0.35,))),
    8: ((0.335, (0.2, 0.5, 0.8)), (0.665, (0.2, 0.5, 0.8)), (0.5, (0.35, 0.65))),
    9: ((0.335, (0.2, 0.4, 0.6, 0.8)), (0.665, (0.2, 0.4, 0.6, 0.8)), (0.5, (0.5,))),
    10: ((0.335, (0.2, 0.4, 0.6, 0.8)), (0.665, (0.2, 0.4, 0.6, 0.8)), (0.5, (0.3, 0.7))),
}
"""Columns of pips for each rank: (x, ys) as shares of the card."""


def _pips(face: Image.Image, rank: int, suit: int) -> None:
    w, h = face.size
    for x, ys in _ROWS[rank]:
        for y in ys:
            _suit(face, suit, (x * w, y * h), 0.088 * w, upside_down=y > 0.5)


def _court(face: Image.Image, rank: int, suit: int) -> None:
    """A tinted panel with the letter, a crown above it and below, upside down."""
    w, h = face.size
    draw = ImageDraw.Draw(face)
    box = (0.235 * w, 0.11 * h, 0.765 * w, 0.89 * h)
    draw.rounded_rectangle(box, 0.03 * w, fill=TINT[suit], outline=INK[suit], width=w // 130)
    inset = 0.018 * w
    inner = (box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset)
    draw.rounded_rectangle(inner, 0.02 * w, outline=GOLD, width=w // 160)
    _glyph(face, rank_name(rank), (0.5 * w, 0.5 * h), 0.34 * w, 0.24 * h, INK[suit])
    for _ in range(2):
        _crown(face, rank, (0.5 * w, 0.315 * h))
        _suit(face, suit, (0.32 * w, 0.185 * h), 0.05 * w)
        _suit(face, suit, (0.68 * w, 0.185 * h), 0.05 * w)
        face.paste(face.rotate(180))


def _crown(face: Image.Image, rank: int, foot: Point) -> None:
    """Jack: a cap of two points, queen: five pearls, king: three high points and a cross."""
    w = face.size[0]
    draw = ImageDraw.Draw(face)
    x, y = foot
    half, band = 0.115 * w, 0.03 * w
    heights = {11: (0.07, 0.07), 12: (0.075, 0.095, 0.105, 0.095, 0.075), 13: (0.1, 0.135, 0.1)}
    tops = heights[rank]
    points = [(x - half, y - band)]
    for i, top in enumerate(tops):
        at = x - half + 2 * half * i / (len(tops) - 1)
        points.append((at, y - band - top * w))
        if i + 1 < len(tops):
            points.append((at + half / (len(tops) - 1), y - band - 0.035 * w))
    points.append((x + half, y - band))
    draw.polygon(points, fill=GOLD)
    draw.rounded_rectangle((x - half, y - band, x + half, y), 0.01 * w, fill=GOLD)
    pearl = 0.016 * w
    for px, py in points[1:-1:2]:
        draw.ellipse((px - pearl, py - pearl, px + pearl, py + pearl), fill=GOLD)


def _glyph(
    face: Image.Image, text: str, center: Point, width: float, height: float, ink: tuple[int, ...]
) -> None:
    """Text of the given height, narrowed where it is wider than `width`; pixels."""
    mask = _letters(text)
    scale = height / mask.height
    size = (max(1, round(min(width, mask.width * scale))), max(1, round(height)))
    mask = mask.resize(size, Image.Resampling.LANCZOS)
    corner = (round(center[0] - size[0] / 2), round(center[1] - size[1] / 2))
    face.paste(ink, (*corner, corner[0] + size[0], corner[1] + size[1]), mask)


@lru_cache(maxsize=32)
def _letters(text: str) -> Image.Image:
    """A mask that the text fills from edge to edge, in Pillow's own font, made bolder."""
    font = ImageFont.load_default(400)
    mask = Image.new("L", (400 * (len(text) + 1), 700), 0)
    ImageDraw.Draw(mask).text((60, 60), text, fill=255, font=font, stroke_width=12)
    return mask.crop(mask.getbbox())


def _suit(
    face: Image.Image, suit: int, center: Point, radius: float, upside_down: bool = False
) -> None:
    """A suit of half height `radius` around `center`, pixels."""
    turn = -1 if upside_down else 1
    cx, cy = center
    draw = ImageDraw.Draw(face)
    for outline in _outlines(suit):
        draw.polygon(
            [(cx + turn * px * radius, cy + turn * py * radius) for px, py in outline],
            fill=INK[suit],
        )


@lru_cache(maxsize=4)
def _outlines(suit: int) -> tuple[tuple[Point, ...], ...]:
    """Closed curves of a suit in the square [-1, 1], y downwards."""
    turns = [2 * math.pi * i / 120 for i in range(120)]
    heart = tuple(
        (
            16 * math.sin(t) ** 3 / 16.5,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5)
            / 14.5,
        )
        for t in turns
    )
    stem = ((-0.07, 0.2), (-0.13, 0.68), (-0.42, 1.0), (0.42, 1.0), (0.13, 0.68), (0.07, 0.2))
    if suit == 0:
        return tuple((0.93 * x, -0.87 * y - 0.13) for x, y in heart), stem
    if suit == 1:
        return (heart,)
    if suit == 2:
        return (tuple((0.76 * _power(math.cos(t)), _power(math.sin(t))) for t in turns),)
    leaves = [
        tuple((x + 0.44 * math.cos(t), y + 0.44 * math.sin(t)) for t in turns)
        for x, y in ((0, -0.54), (-0.5, 0.16), (0.5, 0.16))
    ]
    return (*leaves, ((-0.25, -0.3), (0.25, -0.3), (0.25, 0.3), (-0.25, 0.3)), stem)


def _power(x: float) -> float:
    """Power 2 makes the sides of a diamond straight; a little more bends them inwards."""
    return math.copysign(abs(x) ** 2.25, x)
