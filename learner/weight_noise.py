"""Noise on weights that can be undone exactly, though nothing of them is kept.

It flips a bit of the mantissas of about half of them, which changes those by 12 to 25 %; flipped
again, they are what they were. A counter draws which: each rank does its own share of a parameter,
and any number of ranks does the same to all of it.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray

MANTISSAS = {  # the integer of the same size, and bits of the mantissa
    torch.float32: (torch.int32, 23),
    torch.bfloat16: (torch.int16, 7),
    torch.float16: (torch.int16, 10),
}
DRAWN_BITS = 256  # of one step of Philox's counter
PIECE = 2**22  # weights that are changed at once; a multiple of DRAWN_BITS


@torch.no_grad()
def flip(weights: torch.Tensor, first: int, name: str, seed: int) -> None:
    """Add the noise to weights, or take it away again.

    Args:
        weights: [N], one after another in memory; changed in place.
        first: index of the first of them in their parameter.
        name: of the parameter; each has a noise of its own.
        seed: of the noise.
    """
    integer, mantissa = MANTISSAS[weights.dtype]
    bits, key = weights.view(integer), (seed % 2**64) << 32 | zlib.crc32(name.encode())
    for begin in range(0, len(bits), PIECE):
        piece = bits[begin : begin + PIECE]
        chosen = torch.from_numpy(_draw(key, first + begin, len(piece)))
        piece.bitwise_xor_(chosen.to(piece.device, integer) << (mantissa - 2))


def _draw(key: int, first: int, count: int) -> NDArray[np.uint8]:
    """Random bits uint8 [count], those from index `first` on of all that belong to the key."""
    skipped = first % DRAWN_BITS
    words = -(-(skipped + count) // 64)
    drawn = np.random.Philox(key=key, counter=first // DRAWN_BITS).random_raw(words)
    return np.unpackbits(drawn.astype("<u8").view(np.uint8))[skipped : skipped + count]
