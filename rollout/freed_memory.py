"""Has the C library keep the memory that this process frees, for what is as large next time.

Large blocks else go back to the kernel, and new ones come from it a page at a time, zeroed. Of a
weight update on a CPU, which replaces all packed weights, that is more than the packing itself; a
learner's step gets all its activations anew. The process holds the most that it ever needed.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h
MOST = 2**31 - 1  # bytes of free memory above which some goes back; the largest value there is
MEDIUM = 32 * 2**20  # bytes; the largest threshold that malloc takes


def keep_freed_memory(up_to_medium: bool = False) -> bool:
    """Keep it from now on; False where the C library is none of GNU's.

    Args:
        up_to_medium: larger blocks go back, for a process whose large blocks differ in size: what
            is between those that it keeps may be too small for the next ones.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    sizes = mallopt(M_MMAP_THRESHOLD, MEDIUM) if up_to_medium else mallopt(M_MMAP_MAX, 0)
    return bool(sizes and mallopt(M_TRIM_THRESHOLD, MOST))


def return_freed_memory() -> None:
    """Give back what is free now; it keeps what is freed later as before."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
