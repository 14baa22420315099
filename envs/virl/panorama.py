"""Views cut from panoramas, and the bounded store that keeps panoramas in memory.

Input: equirectangular pixels uint32 [H, 2H] and where north stands in them. Output: RGB pictures
of four views.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GAP = 5  # black pixels between views
LAYOUTS = {"cardinal": (0.0, 90.0, 180.0, -90.0), "legacy": (-135.0, -45.0, 45.0, 135.0)}


@dataclass(frozen=True)
class Panorama:
    """A picture of all directions.

    pixels: uint32 [H, W], red in the low byte, W = 2 H, the horizon in the middle row.
    rotation: degrees from the left edge to north.
    """

    pixels: NDArray[np.uint32]
    rotation: float


def panorama_width(image_size: int) -> int:
    """Columns of a panorama that is fine enough for views of `image_size` pixels."""
    width = 256
    while width < image_size * 4:
        width *= 2
    return min(width, 2048)


def yaw(heading: float, rotation: float) -> float:
    """Where a heading lies in a panorama, degrees right of its middle column."""
    return ((heading - 180.0) % 360.0 + rotation) % 360.0


@dataclass(frozen=True)
class _ViewMap:
    """Where the pixels of a 90-degree view at yaw 0 lie in a panorama, all [size, size].

    offset: int32, first pixel of the upper row; down: uint32, weight of the lower row in 256ths;
    column: float32.
    """

    offset: NDArray[np.int32]
    down: NDArray[np.uint32]
    column: NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def _view_map(size: int, height: int, width: int) -> _ViewMap:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    right, below = np.meshgrid(axis, axis)
    azimuth = np.arctan(right)
    elevation = np.arctan2(-below, np.hypot(1.0, right))
    row = np.clip((0.5 - elevation / np.pi) * height - 0.5, 0, height - 1.01)
    column = (azimuth / (2 * np.pi) + 0.5) * width - 0.5
    upper = row.astype(np.int32)
    return _ViewMap(
        upper * np.int32(width),
        ((row - upper) * 256).astype(np.uint32),
        column.astype(np.float32),
    )


@functools.lru_cache(maxsize=8)
def _ring(width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Column numbers up to three turns around, folded into one, and each one's right neighbour."""
    columns = np.arange(3 * width, dtype=np.int32) % width
    return columns, np.roll(np.arange(width, dtype=np.int32), -1)


def view(panorama: Panorama, heading: float, size: int) -> NDArray[np.uint32]:
    """The 90-degree perspective view in a direction, bilinear: uint32 [size, size]."""
    height, width = panorama.pixels.shape
    where = _view_map(size, height, width)
    shift = np.float32(yaw(heading, panorama.rotation) / 360 * width + width)
    flat = panorama.pixels.ravel()
    ring, ring_right = _ring(width)
    out = np.empty((size, size), np.uint32)
    for top in range(0, size, 64):  # strips that stay in the processor's cache
        strip = slice(top, top + 64)
        column = where.column[strip] + shift
        left = column.astype(np.int32)
        across = ((column - left) * 256).astype(np.uint32)
        left = ring[left]
        right = ring_right[left]
        left += where.offset[strip]
        right += where.offset[strip]
        upper = _mix(flat.take(left), flat.take(right), across)
        left += width
        right += width
        lower = _mix(flat.take(left), flat.take(right), across)
        out[strip] = _mix(upper, lower, where.down[strip])
    return out


_ODD = np.uint32(0x00FF00FF)  # red and blue; shifted by 8 bits, green and alpha


def _mix(
    first: NDArray[np.uint32], second: NDArray[np.uint32], weight: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """Blend packed pixels, two channels at a time; weight of the second in 256ths."""
    first_weight = np.uint32(256) - weight
    red_blue = ((first & _ODD) * first_weight + (second & _ODD) * weight) >> np.uint32(8)
    green = ((first >> np.uint32(8)) & _ODD) * first_weight + (
        (second >> np.uint32(8)) & _ODD
    ) * weight
    return (red_blue & _ODD) | (green & ~_ODD)


def four_views(panorama: Panorama, heading: float, size: int, layout: str) -> NDArray[np.uint8]:
    """The 2 x 2 grid that an observation shows: uint8 [2 size + GAP, 2 size + GAP, 3]."""
    side = 2 * size + GAP
    grid = np.zeros((side, side), np.uint32)
    for i, offset in enumerate(LAYOUTS[layout]):
        row, column = (i // 2) * (size + GAP), (i % 2) * (size + GAP)
        cut = view(panorama, heading + offset, size)
        grid[row : row + size, column : column + size] = cut
    return np.ascontiguousarray(grid.view(np.uint8).reshape(side, side, 4)[..., :3])


class PanoramaStore:
    """Keeps the panoramas used last, within a bound of bytes; threads may share it."""

    def __init__(self, bound_bytes: int) -> None:
        self.bound_bytes = bound_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[Hashable, Panorama] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Panorama]) -> Panorama:
        """The panorama of a key, made when it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        panorama = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = panorama
                self.held_bytes += panorama.pixels.nbytes
            while self.held_bytes > self.bound_bytes and len(self._kept) > 1:
                self.held_bytes -= self._kept.popitem(last=False)[1].pixels.nbytes
        return panorama
