"""Has the C library keep the memory that this process frees, for what is as large next time.

Large blocks else go back to the kernel, and new ones come from it a page at a time, zeroed: of a
weight update on a CPU, which replaces all packed weights, that is more than the packing itself.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
MOST = 2**31 - 1  # bytes of free memory above which some goes back; the largest value there is


def keep_freed_memory() -> bool:
    """Keep it from now on; False where the C library is none of GNU's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, MOST))
