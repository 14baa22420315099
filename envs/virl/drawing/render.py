"""Renders what a viewer sees all around, as an equirectangular panorama, with numpy alone.

Input: a Scene, a place, a rotation. Output: uint32 pixels [width / 2, width]; the column of heading
h is (h + rotation) / 360 * width. One ray a column finds the house wall; shops, props and signs
are laid over it, the farthest first.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from envs.virl.city.graph import Sign
from envs.virl.city.style import STYLES, Colour
from envs.virl.drawing.brush import HAZE, LEVELS, AreaTexture, Texture, blend
from envs.virl.drawing.ground import REACH_M, ground_patch
from envs.virl.drawing.look import Fronts, board
from envs.virl.drawing.props import Prop
from envs.virl.drawing.scene import Scene
from envs.virl.drawing.signs import Mount

EYE_M = 2.5  # height of the viewer
FAR_M = 320.0  # farthest wall
PROPS_M, SIGNS_M, NEAREST_M = 85.0, 110.0, 2.2

Pixels = NDArray[np.uint32]
Floats = NDArray[np.float32]


def render(scene: Scene, place: tuple[float, float], rotation: float, width: int) -> Pixels:
    """One panorama from a place in local metres; `rotation` is where north stands, degrees."""
    x, y = scene.city.projection.metres(place)
    shift = rotation / 360 * width
    headings = np.radians((np.arange(width, dtype=np.float32) + 0.5 - shift) / width * 360)
    rays = np.stack([np.sin(headings), np.cos(headings)]).astype(np.float32)
    wall, metres, along, slant = _cast(scene, x, y, rays)
    out = np.empty((width // 2, width), np.uint32)
    out[: width // 4] = np.roll(_sky(scene.city.name, width), round(shift), 1)
    patch = ground_patch(scene.city, x, y, _ground_ppm(width)).ravel()
    out[width // 4 :] = patch[np.roll(_ground_map(width), round(shift), 1)]
    _draw_fronts(scene, out, wall, metres, along, slant)
    _draw_things(scene, out, x, y, rays, metres, shift)
    return out


@functools.lru_cache(maxsize=16)
def tangents(width: int, at: float = 0.5) -> Floats:
    """Tangent of the elevation of each row of a panorama: float32 [width / 2].

    at: where in the row, 0 its upper edge, 1 its lower one.
    """
    rows = width // 2
    return np.tan((0.5 - (np.arange(rows) + at) / rows) * math.pi).astype(np.float32)


def _ground_ppm(width: int) -> int:
    return max(width // 128, 2)


@functools.lru_cache(maxsize=8)
def _ground_map(width: int) -> NDArray[np.int32]:
    """Which pixel of the ground patch each pixel below the horizon shows, for rotation 0."""
    ppm = _ground_ppm(width)
    side = int(2 * REACH_M * ppm)
    below = tangents(width)[width // 4 :, None]
    distance = np.minimum(-EYE_M / below, REACH_M - 1)
    heading = (np.arange(width) + 0.5) / width * 2 * math.pi
    column = side / 2 + distance * np.sin(heading) * ppm
    row = side / 2 - distance * np.cos(heading) * ppm
    return (row.astype(np.int32) * side + column.astype(np.int32)).astype(np.int32)


@functools.lru_cache(maxsize=18)
def _sky(name: str, width: int) -> Pixels:
    """The upper half without houses: a gradient, clouds, a hazy skyline; column 0 is north."""
    style = STYLES[name]
    rng = np.random.default_rng([len(name), 7])
    rows = width // 4
    share = np.linspace(0, 1, rows)[:, None, None] ** 0.8
    colours = np.array(style.sky[0]) * (1 - share) + np.array(style.sky[1]) * share
    colours = np.repeat(colours, width, 1)
    cloud = np.zeros((rows, width))
    for scale, weight in ((4, 0.5), (9, 0.3), (20, 0.2)):
        coarse = rng.normal(0, 1, (scale + 1, scale * 3))
        coarse = np.concatenate([coarse, coarse[:, :1]], 1)  # closes around the horizon
        at_row = np.linspace(0, scale - 1e-6, rows)
        at_column = np.linspace(0, scale * 3 - 1e-6, width)
        i, j = at_row.astype(int), at_column.astype(int)
        fi, fj = (at_row - i)[:, None], (at_column - j)[None]
        top = coarse[i][:, j] * (1 - fj) + coarse[i][:, j + 1] * fj
        bottom = coarse[i + 1][:, j] * (1 - fj) + coarse[i + 1][:, j + 1] * fj
        cloud += weight * (top * (1 - fi) + bottom * fi)
    cover = np.clip((cloud + style.clouds - 0.35) * 1.6, 0, 0.85)[..., None]
    colours = colours * (1 - cover) + np.array(blend(style.sky[1], (255, 255, 255), 0.5)) * cover
    haze = np.array(blend(style.haze, style.sky[1], 0.35))
    steps = rng.integers(1, max(round(rows * style.heights[1] / 260), 2), 90)
    for number, step in enumerate(steps):
        left = number * width // 90
        colours[rows - int(step) :, left : left + width // 90 + 1] = haze * 0.94
    rgba = np.full((rows, width, 4), 255, np.uint8)
    rgba[..., :3] = np.clip(colours, 0, 255)
    return rgba.view("<u4")[..., 0]


def _cast(
    scene: Scene, x: float, y: float, rays: Floats
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Follow one ray a column to the nearest wall that faces the viewer.

    Returns: wall number, metres, share along the wall, |cosine| of incidence, each [width].
    """
    to = scene.begin - np.array([x, y], np.float32)
    edge = scene.edge
    facing = edge[:, 0] * to[:, 1] - edge[:, 1] * to[:, 0] > 0
    middle = to + edge / 2
    near = np.flatnonzero(facing & (np.hypot(middle[:, 0], middle[:, 1]) < FAR_M))
    to, edge = to[near], edge[near]
    # place + t * ray = begin + s * edge, solved by cross products.
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1.0 / (rays[0] * edge[:, 1:] - rays[1] * edge[:, :1])
        t = (to[:, 0] * edge[:, 1] - to[:, 1] * edge[:, 0])[:, None] * inverse
        s = (to[:, :1] * rays[1] - to[:, 1:] * rays[0]) * inverse
        t[~((t > 0.2) & (s > -1e-3) & (s < 1.001))] = FAR_M
    hit = t.argmin(0)
    columns = np.arange(rays.shape[1])
    metres = t[hit, columns]
    along = np.clip(np.nan_to_num(s[hit, columns]), 0, 0.9999).astype(np.float32)
    normal = edge[hit] / np.hypot(edge[hit, 0], edge[hit, 1])[:, None]
    slant = np.abs(rays[0] * normal[:, 1] - rays[1] * normal[:, 0])
    return near[hit], metres.astype(np.float32), along, slant


def _level(ppm: float, metres: Floats, slant: Floats, rows: int) -> NDArray[np.int64]:
    """How coarse a texture copy to take so that its pixels are about the screen's."""
    screen = rows / math.pi / metres * np.sqrt(np.maximum(slant, 0.05))
    return np.clip(np.round(np.log2(ppm / screen) + 0.15), 0, LEVELS - 1).astype(np.int64)


def _draw_fronts(
    scene: Scene, out: Pixels, wall: NDArray[np.int64], metres: Floats, along: Floats, slant: Floats
) -> None:
    """House fronts, and over their ground floors the shops."""
    lots = along * scene.lots[wall]
    lot = lots.astype(np.int32)
    number, across = scene.first_lot[wall] + lot, lots - lot
    level = _level(scene.look.ppm, metres, slant, out.shape[0])
    columns = np.flatnonzero(metres < FAR_M)
    for fronts, drawn in ((scene.look.fronts, scene.fronts), (scene.look.shops, scene.shops)):
        columns = columns[drawn[number[columns]] >= 0]
        if len(columns):
            front = drawn[number[columns]]
            _lay_walls(
                out, fronts, columns, front, across[columns], metres[columns], level[columns]
            )


def _lay_walls(
    out: Pixels,
    fronts: Fronts,
    columns: NDArray[np.int64],
    front: NDArray[np.int32],
    across: NDArray[np.float32],
    metres: Floats,
    level: NDArray[np.int64],
) -> None:
    """Copy the opaque pixels of one front a column; across in [0, 1) is along it."""
    rows = out.shape[0]
    tall, height = fronts.rows[front, level], fronts.heights[front]
    column = (across * fronts.columns[front, level]).astype(np.int32)
    base = fronts.offsets[front, level] + column * tall
    top = _row_of((height - EYE_M) / metres, rows)
    foot = _row_of(-EYE_M / metres, rows)
    first, last = max(int(top.min()), 0), min(int(foot.max()) + 1, rows)
    z = EYE_M + tangents(2 * rows)[first:last, None] * metres
    index = (z * (tall / height).astype(np.float32)).astype(np.int32)
    np.clip(index, 0, tall - 1, out=index)
    index += base
    pixels = fronts.pixels[index]
    seen = (z >= 0) & (z < height) & (pixels != 0)
    if len(columns) == out.shape[1]:
        np.copyto(out[first:last], pixels, where=seen)
    else:
        out[first:last, columns] = np.where(seen, pixels, out[first:last, columns])


def _row_of(tangent: Floats, rows: int) -> Floats:
    return ((0.5 - np.arctan(tangent) / math.pi) * rows).astype(np.float32)


def _draw_things(
    scene: Scene, out: Pixels, x: float, y: float, rays: Floats, walls: Floats, shift: float
) -> None:
    """Lay props and signs over the picture, the farthest first."""
    things: list[tuple[float, Prop | Sign]] = []
    props, signs = (scene.props, scene.prop_xy, PROPS_M), (scene.signs, scene.sign_xy, SIGNS_M)
    for kind, places, reach in (props, signs):
        distance = np.hypot(places[:, 0] - x, places[:, 1] - y)
        for i in np.flatnonzero((distance < reach) & (distance > NEAREST_M)):
            things.append((float(distance[i]), kind[i]))
    things.sort(key=lambda pair: -pair[0])
    for distance, thing in things:
        if isinstance(thing, Prop):
            _draw_prop(out, thing, x, y, distance, walls, shift)
        else:
            _draw_sign(scene, out, thing, x, y, rays, walls, shift)


def _draw_prop(
    out: Pixels, prop: Prop, x: float, y: float, distance: float, walls: Floats, shift: float
) -> None:
    """A picture that faces the viewer, across its line of sight."""
    width = out.shape[1]
    dx, dy = (prop.x - x) / distance, (prop.y - y) / distance
    end_on = abs(dx * prop.along[0] + dy * prop.along[1]) > 0.8
    picture = prop.end if end_on else prop.side
    middle = math.atan2(dx, dy) / (2 * math.pi) * width + shift
    half = math.atan(picture.width / 2 / distance) / (2 * math.pi) * width
    columns = np.arange(math.ceil(middle - half - 0.5), math.floor(middle + half - 0.5) + 1)
    if not len(columns):
        return
    wrapped = columns % width
    visible = walls[wrapped] > distance
    if not visible.any():
        return
    across = np.tan((columns + 0.5 - middle) * (2 * math.pi / width)) * distance
    u = across / picture.width + 0.5
    metres = np.full(len(columns), distance, np.float32)
    _lay(out, picture, wrapped[visible], u[visible], metres[visible], distance)


def _draw_sign(
    scene: Scene,
    out: Pixels,
    sign: Sign,
    x: float,
    y: float,
    rays: Floats,
    walls: Floats,
    shift: float,
) -> None:
    """A board that stands as it stands; it reads left to right from either side."""
    width = out.shape[1]
    fx, fy = sign.facing
    cx, cy = sign.centre[0] - x, sign.centre[1] - y
    front = -(cx * fx + cy * fy)  # how far the viewer is before the board
    if abs(front) < 0.3:
        return
    # As seen by the reader before the board, its right is to the left of `facing`.
    side = 1.0 if front > 0 else -1.0
    rx, ry = -fy * side, fx * side
    half = sign.width / 2
    middle = math.atan2(cx, cy) / (2 * math.pi) * width + shift
    span = width // 4
    columns = np.arange(math.floor(middle) - span, math.floor(middle) + span) % width
    dx, dy = rays[0, columns], rays[1, columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -front / (dx * fx + dy * fy)
        across = (t * dx - cx) * rx + (t * dy - cy) * ry
        seen = (t > 0.2) & (np.abs(across) < half) & (t < walls[columns] + 0.9)
    if not seen.any():
        return
    post = 0.0 if sign.post is None else sign.post * side
    mount = Mount(sign.width, sign.post is None, post)
    picture = board(sign.landmark.name, scene.city.name, sign.paint, mount, scene.look.ppm)
    wide = np.abs(np.gradient(across))[seen]  # metres that a column covers
    _lay_board(out, picture, columns[seen], across[seen], wide, t[seen], scene.look.style.haze)


def _lay_board(
    out: Pixels,
    picture: AreaTexture,
    columns: NDArray[np.int64],
    across: NDArray[np.float32],
    wide: NDArray[np.float32],
    metres: Floats,
    haze: Colour,
) -> None:
    """Blend a board into some columns: each pixel takes the mean of what it covers."""
    rows = out.shape[0]
    near = float(metres.min())
    first = max(int((0.5 - math.atan((picture.height - EYE_M) / near) / math.pi) * rows), 1)
    last = min(int((0.5 - math.atan(-EYE_M / near) / math.pi) * rows) + 1, rows - 1)
    upper, lower = (
        (EYE_M + tangents(2 * rows, at)[first:last, None] * metres) / picture.height
        for at in (0.0, 1.0)
    )
    middle = across / picture.width + 0.5
    half = wide / picture.width / 2
    rgba = picture.mean(middle - half, middle + half, lower, upper)
    share = np.interp(np.log2(metres * (2 * math.pi / 64)), range(LEVELS), HAZE)[:, None]
    cover = rgba[..., 3:] / 255
    colours = rgba[..., :3] * (1 - share) + cover * np.array(haze) * share
    kept = np.ascontiguousarray(out[first:last, columns])
    mixed = kept.view(np.uint8).reshape(*kept.shape, 4)
    mixed[..., :3] = np.rint(colours + mixed[..., :3] * (1 - cover))
    out[first:last, columns] = kept


def _lay(
    out: Pixels,
    picture: Texture,
    columns: NDArray[np.int64],
    u: NDArray[np.float64],
    metres: Floats,
    distance: float,
) -> None:
    """Copy a picture's opaque pixels into some columns; u in [0, 1] is across it."""
    rows = out.shape[0]
    ppm = picture.levels[0].shape[0] / picture.width
    level = int(_level(ppm, np.array([distance], np.float32), np.ones(1, np.float32), rows)[0])
    pixels = picture.levels[level]
    wide, tall = pixels.shape
    near, far = float(metres.min()), float(metres.max())
    highest = (picture.height - EYE_M) / (near if picture.height > EYE_M else far)
    first = max(int((0.5 - math.atan(highest) / math.pi) * rows), 0)
    last = min(int((0.5 - math.atan(-EYE_M / near) / math.pi) * rows) + 1, rows)
    z = EYE_M + tangents(2 * rows)[first:last, None] * metres
    v = (z * (tall / picture.height)).astype(np.int32)
    inside = (z >= 0) & (v < tall)
    np.clip(v, 0, tall - 1, out=v)
    column = np.clip((u * wide).astype(np.int32), 0, wide - 1)
    drawn = pixels[column, v]
    kept = out[first:last, columns]
    out[first:last, columns] = np.where(inside & (drawn != 0), drawn, kept)
