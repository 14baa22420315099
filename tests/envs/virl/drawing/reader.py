"""A reader of boards that knows typefaces but not colours: which of all names is on a board.

Input: a view as an observation shows it, and where the board stands in it. Output: a name.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image

from envs.virl.city.boards import BOARDS
from envs.virl.city.graph import City, Sign
from envs.virl.drawing.render import EYE_M
from envs.virl.drawing.signs import BOARD_M, FRAME_M, Mount, draw_board
from envs.virl.geometry import bearing, wrap
from envs.virl.names import landmark_names
from envs.virl.panorama import view

COLUMNS, ROWS = 48, 24  # samples of a board's inside
PPM = 16.0


def key_points(city: City, routes: range):
    """(place, heading, sign) of each key point with a landmark, each place and sign once."""
    signs = {s.landmark: s for s in city.signs}
    seen = set()
    for index in routes:
        for leg in city.route(index).legs:
            if leg.landmark is not None and (leg.end, leg.landmark) not in seen:
                seen.add((leg.end, leg.landmark))
                yield leg.end, leg.heading, signs[leg.landmark]


def view_heading(city: City, place, heading: float, sign: Sign) -> float:
    """Heading of the cardinal view that shows a sign."""
    return heading + round(wrap(bearing(place, sign.landmark.place) - heading) / 90) * 90


def project(city: City, place, heading: float, sign: Sign, size: int, across, z):
    """Pixels (x, y) in a 90-degree view of points on a board; across: metres to its right."""
    x, y = city.projection.metres(place)
    fx, fy = sign.facing
    dx, dy = sign.centre[0] - fy * across - x, sign.centre[1] + fx * across - y
    angle = math.radians(heading)
    ahead = dx * math.sin(angle) + dy * math.cos(angle)
    right = dx * math.cos(angle) - dy * math.sin(angle)
    return (1 + right / ahead) * size / 2 - 0.5, (1 - (z - EYE_M) / ahead) * size / 2 - 0.5


def inside(sign: Sign):
    """Sample points of a board without its frame: metres across, metres above the ground."""
    half = sign.width / 2 - FRAME_M - 0.1
    across = (np.arange(COLUMNS) + 0.5) / COLUMNS * 2 - 1
    low, high = BOARD_M[0] + FRAME_M + 0.1, BOARD_M[1] - FRAME_M - 0.1
    z = high - (np.arange(ROWS) + 0.5) / ROWS * (high - low)
    return np.meshgrid(across * half, z)


def grey(pixels):
    return pixels.view(np.uint8).reshape(*pixels.shape, 4)[..., :3] @ np.array([0.3, 0.6, 0.1])


def crop(city: City, panorama, place, heading: float, sign: Sign, size: int):
    """A board's inside as the view of a size shows it, brought to [ROWS, COLUMNS]."""
    ahead = view_heading(city, place, heading, sign)
    shown = grey(view(panorama, ahead, size))
    x, y = project(city, place, ahead, sign, size, *inside(sign))
    x, y = np.clip(x, 0, size - 1.001), np.clip(y, 0, size - 1.001)
    i, j = y.astype(int), x.astype(int)
    down, right = y - i, x - j
    upper = shown[i, j] * (1 - right) + shown[i, j + 1] * right
    lower = shown[i + 1, j] * (1 - right) + shown[i + 1, j + 1] * right
    return upper * (1 - down) + lower * down


@functools.lru_cache(maxsize=40)
def templates(city: str, width: float, look: str):
    """(names, one unit vector a name): boards with a city's names in the look of another."""
    names = landmark_names(city)
    rows = []
    for name in names:
        image = draw_board(name, BOARDS[look], 0, Mount(width, True), PPM).image.convert("RGB")
        metres = image.height / PPM
        edge = (FRAME_M + 0.1) * PPM
        upper, lower = ((metres - z) * PPM for z in reversed(BOARD_M))
        box = (edge, upper + edge, image.width - edge, lower - edge)
        small = image.crop(tuple(round(v) for v in box)).resize((40, 20), Image.Resampling.BOX)
        rows.append(np.asarray(small.resize((COLUMNS, ROWS), Image.Resampling.BILINEAR)))
    return names, unit(np.stack(rows) @ np.array([0.3, 0.6, 0.1]))


def unit(pictures):
    """Pictures without their mean and scale: [N, ROWS * COLUMNS]."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def read(city: str, width: float, picture, look: str | None = None) -> str:
    """The name whose letters are most like a crop's, dark on light or light on dark.

    look: the city whose boards the reader has seen; None: the very city.
    """
    names, known = templates(city, width, look or city)
    return names[int(np.abs(known @ unit(picture[None])[0]).argmax())]
