"""Drawing in metres: a Pillow canvas whose y axis points up, and textures with smaller copies.

In: shapes in metres. Out: RGBA images, and Textures that the renderer samples. It knows
nothing of cities.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.virl.city.style import Colour

LEVELS = 6  # copies of a texture, each half as fine as the one before


@functools.lru_cache(maxsize=64)
def font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font at a size."""
    return ImageFont.load_default(max(pixels, 4))


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
        self, x: float, z: float, width: float, height: float, text: str, fill: Colour,
        weight: float = 0.0,
    ) -> None:  # fmt: skip
        """One line of text, as large as fits a box around a centre; weight thickens the strokes."""
        size = height * self.ppm
        stroke = round(size * weight)
        for _ in range(2):
            left, top, right, bottom = font(round(size)).getbbox(text, stroke_width=stroke)
            fit = min(width * self.ppm / (right - left), height * self.ppm / (bottom - top))
            size, stroke = size * fit, round(size * fit * weight)
        if size < 4:
            return
        x_px, z_px = self._xy(x, z)
        self._draw.text(
            (x_px, z_px), text, fill=(*fill, 255), font=font(int(size)), anchor="mm",
            stroke_width=stroke, stroke_fill=(*fill, 255),
        )  # fmt: skip

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
        share = (0.0, 0.0, 0.06, 0.18, 0.36, 0.55)[level]
        colours = pixels[..., :3] * light * (1 - share) + np.array(haze, np.float32) * share
        opaque = np.concatenate([colours, pixels[..., 3:]], 2)
        packed = pack(Image.fromarray(np.clip(opaque, 0, 255).astype(np.uint8), "RGBA"))
        levels.append(np.ascontiguousarray(packed[::-1].T))
    return Texture(brush.width, brush.height, tuple(levels))
