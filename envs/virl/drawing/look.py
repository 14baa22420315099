"""A city's stock of textures: fronts and shops in sun and shade, and sprites, once per process.

Input: a CityStyle and a fineness in pixels a metre. Output: a Look.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.virl.city.boards import BOARDS
from envs.virl.city.style import STYLES, CityStyle
from envs.virl.drawing.brush import LEVELS, AreaTexture, Brush, Texture, area_texture, texture
from envs.virl.drawing.fronts import draw_front, draw_shop
from envs.virl.drawing.furniture import draw_furniture
from envs.virl.drawing.signs import Mount, draw_board
from envs.virl.drawing.sprites import draw_person, draw_tree, draw_vehicle
from envs.virl.names import shop_signs

FRONTS = 16  # different house fronts a city
CORNERS = 3  # different narrow fronts
FRONT_M, CORNER_M = 12.0, 3.6
SHADED = 0.74  # brightness of fronts away from the sun


BOARD_PPM = 24.0  # finest boards, pixels a metre


@dataclass(frozen=True)
class Fronts:
    """Fronts or shops of a city in one flat array, so that one gather draws all walls.

    pixels: uint32. heights: metres [2 * count]. offsets, columns, rows: int32 [2 * count, LEVELS],
    shaded ones after those in the sun; a texture column is contiguous from the ground up.
    """

    count: int
    pixels: NDArray[np.uint32]
    heights: NDArray[np.float32]
    offsets: NDArray[np.int32]
    columns: NDArray[np.int32]
    rows: NDArray[np.int32]


@dataclass(frozen=True)
class Look:
    """Everything drawn for one city at one fineness.

    fronts: FRONTS of ascending height, then CORNERS narrow ones for cut corners.
    shops: ground floors, one for each of the city's shop signs.
    sprites: (seen from the side, seen end-on) by kind, several draws each.
    """

    style: CityStyle
    ppm: float
    fronts: Fronts
    shops: Fronts
    sprites: dict[str, list[tuple[Texture, Texture]]]


@functools.lru_cache(maxsize=9)
def make_look(name: str, ppm: float) -> Look:
    """Draw a city's stock; the same name gives the same pictures."""
    style = STYLES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fronts = [draw_front(style, rng, FRONT_M, ppm) for _ in range(FRONTS)]
    fronts.sort(key=lambda brush: brush.height)
    fronts += [draw_front(style, rng, CORNER_M, ppm) for _ in range(CORNERS)]
    shops = [draw_shop(style, rng, FRONT_M, ppm, sign) for sign in shop_signs(name)]
    flat = (_flatten(fronts, style), _flatten(shops, style))
    return Look(style, ppm, *flat, _sprites(style, rng, ppm))


def _flatten(brushes: list[Brush], style: CityStyle) -> Fronts:
    textures = [texture(b, style.haze) for b in brushes]
    textures += [texture(b, style.haze, SHADED) for b in brushes]
    shapes = np.array([[level.shape for level in t.levels] for t in textures], np.int32)
    sizes = shapes[..., 0] * shapes[..., 1]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    return Fronts(
        len(brushes),
        np.concatenate([level.ravel() for t in textures for level in t.levels]),
        np.array([t.height for t in textures], np.float32),
        offsets.reshape(len(textures), LEVELS),
        shapes[..., 0],
        shapes[..., 1],
    )


def _sprites(
    style: CityStyle, rng: np.random.Generator, ppm: float
) -> dict[str, list[tuple[Texture, Texture]]]:
    sprites: dict[str, list[tuple[Texture, Texture]]] = {}

    def both(side: Texture, end: Texture | None = None) -> tuple[Texture, Texture]:
        return (side, end or side)

    haze = style.haze
    sprites["tree"] = [both(texture(draw_tree(style.tree, rng, ppm), haze)) for _ in range(4)]
    sprites["person"] = [both(texture(draw_person(rng, ppm), haze)) for _ in range(8)]
    for kind in dict.fromkeys(style.vehicles):
        sprites[kind] = [
            both(*(texture(draw_vehicle(kind, rng, ppm, end), haze) for end in (False, True)))
            for _ in range(4 if kind in ("sedan", "small") else 1)
        ]
    for kind in dict.fromkeys(style.furniture):
        sprites[kind] = [both(texture(draw_furniture(kind, rng, ppm), haze)) for _ in range(2)]
    return sprites


@functools.lru_cache(maxsize=128)
def board(name: str, city: str, paint: int, mount: Mount, ppm: float) -> AreaTexture:
    """A landmark's board as a texture, at twice the fineness of the rest: letters are fine."""
    return area_texture(draw_board(name, BOARDS[city], paint, mount, min(2 * ppm, BOARD_PPM)))
