"""Drawing in metres: a Pillow canvas whose y axis points up, and the textures made from it.

Input: shapes and text in metres. Output: RGBA images, and textures that the renderer samples.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.virl.city.style import Colour

Floats = NDArray[np.float32] | NDArray[np.float64]
LEVELS = 6  # copies of a texture, each half as fine as the one before


HAZE = (0.0, 0.0, 0.06, 0.18, 0.36, 0.55)  # share of a city's haze in each of these copies
STRETCH = 1.5  # how much taller than its typeface says a line may be drawn


@functools.lru_cache(maxsize=1)
def _typefaces() -> Path:
    """Where matplotlib keeps its typefaces; matplotlib itself is not imported."""
    package = importlib.util.find_spec("matplotlib")
    assert package is not None and package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


@functools.lru_cache(maxsize=64)
def font(pixels: int, face: str = "aileron") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A typeface at a size: Pillow's own, `aileron`, or one that comes with matplotlib."""
    if face == "aileron":
        return ImageFont.load_default(max(pixels, 4))
    return ImageFont.truetype(str(_typefaces() / f"{face}.ttf"), max(pixels, 4))


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made lighter (above 1) or darker."""
    r, g, b = (max(0, min(255, round(c * factor))) for c in colour)
    return (r, g, b)


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """A mix with `share` of the second colour."""
    r, g, b = (round(a * (1 - share) + c * share) for a, c in zip(first, second, strict=True))
    return (r, g, b)


class Brush:
    """A canvas of width x height metres at `ppm` pixels a metre; x to the right, z upwards."""

    def __init__(self, width: float, height: float, ppm: float, fill: Colour | None = None) -> None:
        self.width, self.height, self.ppm = width, height, ppm
        size = (max(round(width * ppm), 1), max(round(height * ppm), 1))
        self.image = Image.new("RGBA", size, (0, 0, 0, 0) if fill is None else (*fill, 255))
        self._draw = ImageDraw.Draw(self.image)

    def _xy(self, x: float, z: float) -> tuple[float, float]:
        return (x * self.ppm, (self.height - z) * self.ppm)

    def box(self, x0: float, z0: float, x1: float, z1: float, fill: Colour) -> None:
        """A filled rectangle between two corners; nothing where it is thinner than a pixel."""
        left, bottom = self._xy(x0, z0)
        right, top = self._xy(x1, z1)
        if right - left >= 0.5 and bottom - top >= 0.5:
            corner = (max(right - 1, left), max(bottom - 1, top))
            self._draw.rectangle(((left, top), corner), fill=(*fill, 255))

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([self._xy(*p) for p in points], fill=(*fill, 255))

    def ellipse(self, x: float, z: float, rx: float, rz: float, fill: Colour) -> None:
        """A filled ellipse around a centre."""
        left, top = self._xy(x - rx, z + rz)
        right, bottom = self._xy(x + rx, z - rz)
        self._draw.ellipse((left, top, right, bottom), fill=(*fill, 255))

    def line(self, points: list[tuple[float, float]], fill: Colour, width: float) -> None:
        """A line of a width in metres, at least one pixel."""
        pixels = max(round(width * self.ppm), 1)
        self._draw.line([self._xy(*p) for p in points], fill=(*fill, 255), width=pixels)

    def text(
        self,
        centre: tuple[float, float],
        box: tuple[float, float],
        text: str,
        fill: Colour,
        face: str = "aileron",
        weight: float = 0.0,
    ) -> None:
        """One line of text, as large as fits a box (width, height) around a centre.

        A long line is drawn up to STRETCH times taller than its width asks for. weight: share
        of the height by which strokes are thickened.
        """
        size = max(round(box[1] * self.ppm * 1.5), 64)  # so that proportions stay
        letters, stroke = font(size, face), round(size * weight)
        left, top, right, bottom = (int(v) for v in letters.getbbox(text, stroke_width=stroke))
        mask = Image.new("L", (right - left + 2, bottom - top + 2))
        ImageDraw.Draw(mask).text(
            (1 - left, 1 - top), text, fill=255, font=letters, stroke_width=stroke
        )
        width = min(box[0], box[1] * mask.width / mask.height)
        height = min(box[1], width * mask.height / mask.width * STRETCH)
        fitted = (round(width * self.ppm), round(height * self.ppm))
        if min(fitted) < 3:
            return
        mask = mask.resize(fitted, Image.Resampling.BOX)
        x, z = self._xy(*centre)
        corner = (round(x - fitted[0] / 2), round(z - fitted[1] / 2))
        self.image.paste((*fill, 255), corner, mask)

    def speckle(self, rng: np.random.Generator, strength: float) -> None:
        """Roughen all that is drawn so far, so that flat colours look like material."""
        pixels = np.asarray(self.image).astype(np.float32)
        h, w = pixels.shape[:2]
        fine = rng.normal(0, strength, (h, w))
        coarse = rng.normal(0, strength, (h // 24 + 2, w // 24 + 2))
        size = (coarse.shape[1] * 24, coarse.shape[0] * 24)
        smooth = np.asarray(
            Image.fromarray(coarse.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        )[:h, :w]
        pixels[..., :3] += (fine + 1.5 * smooth)[..., None]
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")
        self._draw = ImageDraw.Draw(self.image)


def pack(image: Image.Image) -> NDArray[np.uint32]:
    """RGBA image to uint32 [H, W] (red in the low byte); fully transparent pixels become 0."""
    rgba = np.ascontiguousarray(np.asarray(image.convert("RGBA")))
    rgba = np.where(rgba[..., 3:] >= 128, rgba | np.array([0, 0, 0, 255], np.uint8), 0)
    return np.ascontiguousarray(rgba.astype(np.uint8)).view("<u4")[..., 0]


@dataclass(frozen=True)
class Texture:
    """A picture in metres with LEVELS ever coarser copies, each hazier than the last.

    levels: uint32 [columns, rows from the ground up]; pixels of 0 are transparent.
    """

    width: float
    height: float
    levels: tuple[NDArray[np.uint32], ...]


def texture(brush: Brush, haze: Colour, light: float = 1.0) -> Texture:
    """A Texture of what a brush drew; light darkens it, haze is mixed in with distance."""
    rgba = brush.image
    levels = []
    for level in range(LEVELS):
        size = (max(rgba.width >> level, 1), max(rgba.height >> level, 1))
        small = rgba.resize(size, Image.Resampling.BOX) if level else rgba
        pixels = np.asarray(small).astype(np.float32)
        share = HAZE[level]
        colours = pixels[..., :3] * light * (1 - share) + np.array(haze, np.float32) * share
        opaque = np.concatenate([colours, pixels[..., 3:]], 2)
        packed = pack(Image.fromarray(np.clip(opaque, 0, 255).astype(np.uint8), "RGBA"))
        levels.append(np.ascontiguousarray(packed[::-1].T))
    return Texture(brush.width, brush.height, tuple(levels))


@dataclass(frozen=True)
class AreaTexture:
    """A picture in metres from which the mean colour of any rectangle is read: for letters.

    sums: int32 [columns + 1, rows + 1 from the ground up, RGBA], summed over all pixels to the
    left and below; colours are multiplied by their opacity.
    """

    width: float
    height: float
    sums: NDArray[np.int32]

    def mean(
        self, left: Floats, right: Floats, lower: Floats, upper: Floats
    ) -> NDArray[np.float32]:
        """Mean RGBA of rectangles in shares of width and height; outside is transparent.

        left, right: [columns]; lower, upper: [rows, columns]. Returns float32 [rows, columns, 4].
        """
        wide, tall = self.sums.shape[0] - 1, self.sums.shape[1] - 1
        u0, v0 = np.rint(left * wide).astype(np.int32), np.rint(lower * tall).astype(np.int32)
        u1 = np.maximum(np.rint(right * wide).astype(np.int32), u0 + 1)
        v1 = np.maximum(np.rint(upper * tall).astype(np.int32), v0 + 1)
        area = ((u1 - u0) * (v1 - v0)).astype(np.float32)
        u0, u1 = np.clip(u0, 0, wide), np.clip(u1, 0, wide)
        v0, v1 = np.clip(v0, 0, tall), np.clip(v1, 0, tall)
        sums = self.sums
        inside = sums[u1, v1] - sums[u0, v1] - sums[u1, v0] + sums[u0, v0]
        return inside.astype(np.float32) / area[..., None]


def area_texture(brush: Brush) -> AreaTexture:
    """An AreaTexture of what a brush drew."""
    rgba = np.asarray(brush.image)[::-1].swapaxes(0, 1).astype(np.int32)
    rgba[..., :3] = rgba[..., :3] * rgba[..., 3:] // 255
    sums = np.zeros((rgba.shape[0] + 1, rgba.shape[1] + 1, 4), np.int32)
    sums[1:, 1:] = rgba.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    return AreaTexture(brush.width, brush.height, sums)
