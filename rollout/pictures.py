"""Pictures keyed by content: RGB pixels are compressed under their hash, and read back.

The codec is Zstandard, from pyarrow: about as small as PNG on drawn cards and streets, and
decoded several times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

CODEC = pa.Codec("zstd", compression_level=3)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("data", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class Picture:
    """One picture: equal pixels have equal keys.

    key: hash of size and pixels, 32 hexadecimal digits.
    height, width: pixels.
    data: the compressed uint8 [height, width, 3]; an Arrow buffer when it is part of a block.
    """

    key: str
    height: int
    width: int
    data: bytes | pa.Buffer

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Picture:
        """The picture of uint8 [height, width, 3] pixels.

        Raises:
            ValueError: another shape or dtype.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(
                f"a picture is {pixels.dtype} {list(pixels.shape)}; "
                "it must be uint8 [height, width, 3]"
            )
        pixels = np.ascontiguousarray(pixels)
        height, width, _ = pixels.shape
        digest = blake2b(f"{height}x{width}:".encode(), digest_size=16)
        digest.update(pixels.data)
        return cls(digest.hexdigest(), height, width, CODEC.compress(pixels, asbytes=True))

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], read-only."""
        raw = CODEC.decompress(self.data, self.height * self.width * 3)
        return np.frombuffer(raw, np.uint8).reshape(self.height, self.width, 3)

    def to_pil(self) -> Image.Image:
        """The same picture as a Pillow image."""
        return Image.fromarray(self.pixels())


def to_arrow(pictures: dict[str, Picture]) -> pa.RecordBatch:
    """A table of pictures, a row each."""
    rows = pictures.values()
    ends = np.cumsum([0, *(len(memoryview(p.data)) for p in rows)])
    data = pa.py_buffer(b"".join(memoryview(p.data) for p in rows))
    return pa.RecordBatch.from_arrays(
        [
            pa.array([p.key for p in rows], pa.string()),
            pa.array([p.height for p in rows], pa.int32()),
            pa.array([p.width for p in rows], pa.int32()),
            pa.Array.from_buffers(
                pa.large_binary(), len(rows), [None, pa.py_buffer(ends.astype(np.int64)), data]
            ),
        ],
        schema=SCHEMA,
    )


def from_arrow(batch: pa.RecordBatch) -> dict[str, Picture]:
    """Pictures by key; their data are views of the table's buffers, not copies."""
    keys, heights, widths = (batch.column(i).to_pylist() for i in range(3))
    data = batch.column("data")
    _, offsets, buffer = data.buffers()
    ends = np.frombuffer(offsets, np.int64)[data.offset :].tolist() if keys else []
    return {
        key: Picture(key, heights[i], widths[i], buffer.slice(ends[i], ends[i + 1] - ends[i]))
        for i, key in enumerate(keys)
    }
