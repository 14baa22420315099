"""Pictures of users' demonstrations: encoded bytes to the pixels that a person would see.

Turned as EXIF says, transparency over white, 16 bits scaled to 8; what has no such pixels (several
frames, numbers without a range, damage, a decompression bomb) is refused in one sentence.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from configs.text import one_line
from envs.base import MAX_PIXELS

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
UNBOUNDED = ("I", "F")  # 32 bits; nothing says which number is white


def picture_bytes(picture: object, folder: Path) -> bytes:
    """The encoded bytes of a picture: bytes, a path, or an object with one of them.

    Raises:
        ValueError: it is none of these, or its file cannot be read.
    """
    given = _bytes_or_path(picture)
    if isinstance(given, bytes):
        return given
    if not isinstance(given, str) or not given:
        kind = type(given).__name__
        raise ValueError(f"a picture is of type {kind}; it must be bytes or a path")
    try:
        return (folder / given).read_bytes()
    except (OSError, ValueError) as error:
        raise ValueError(f"picture {given} cannot be read: {one_line(error)}") from error


def picture_path(picture: object) -> str | None:
    """The path that names a picture, as it is written; None where it holds its bytes."""
    given = _bytes_or_path(picture)
    return given if isinstance(given, str) else None


def _bytes_or_path(picture: object) -> object:
    if not isinstance(picture, Mapping):
        return picture
    inside = [picture.get(name) for name in ("bytes", "path")]
    return next((one for one in inside if one is not None), None)


def read_picture(data: bytes) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, 3] of an encoded picture.

    Raises:
        ValueError: it is damaged, no picture, too large, or of a kind that has no such pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data))
        with opened:
            _refuse(opened)
            return np.asarray(_rgb(ImageOps.exif_transpose(opened)))
    except _RefusedError as error:
        raise ValueError(f"a picture {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError("a picture cannot be read: Pillow knows no such format") from error
    except Exception as error:  # the boundary to Pillow, whose decoders raise all kinds
        raise ValueError(f"a picture cannot be read: {one_line(error)}") from error


class _RefusedError(ValueError):
    """A picture that can be read has no pixels of 8 bits that say what it shows."""


def _refuse(opened: Image.Image) -> None:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise _RefusedError(f"is {width} x {height} pixels; at most {MAX_PIXELS:,} are read")
    # A phone's JPEG in MPO holds its preview or depth behind the picture, which comes first.
    if opened.format != "MPO" and (frames := getattr(opened, "n_frames", 1)) > 1:
        raise _RefusedError(f"has {frames} frames; it must have one")
    if opened.mode in UNBOUNDED:
        raise _RefusedError(
            f"is of mode {opened.mode}, 32 bits a pixel without a range; save it with 8 or 16"
        )


def _rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB, as it looks on white paper."""
    if picture.mode in SIXTEEN_BITS:
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        shown = picture.convert("RGBA")
        paper = Image.new("RGBA", shown.size, "white")
        return Image.alpha_composite(paper, shown).convert("RGB")
    return picture.convert("RGB")
