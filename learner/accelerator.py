"""Which device DeepSpeed computes on, said before it is imported."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

GPU_LIBRARIES = ("libcuda.so.1", "libamdhip64.so")


def name_accelerator() -> None:
    """Have DeepSpeed use the CPU where no GPU can be; left to find that out, it warns of it.

    To be called before transformers' models are imported, for they import DeepSpeed.
    """
    for library in GPU_LIBRARIES:
        with suppress(OSError):
            ctypes.CDLL(library)
            return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
