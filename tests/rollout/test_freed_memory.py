"""Memory that was freed is used again, without new pages of the kernel's."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from configs.paths import ROOT

SIZE = 2**26
SCRIPT = f"""
import ctypes, json, resource
from rollout.freed_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    \"\"\"New pages for a block that is filled and freed.\"\"\"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc({SIZE}))
    ctypes.memset(block, 1, {SIZE})
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = [faults(), faults()]
kept = keep_freed_memory()
print(json.dumps([kept, before, [faults(), faults(), faults()]]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not GNU's C library")
def test_a_block_of_the_same_size_takes_no_new_pages():
    command = [sys.executable, "-c", SCRIPT]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept, before, (_, *after) = json.loads(out)
    assert kept
    assert min(before) >= SIZE // 2**21, "else there is nothing to keep"
    assert max(after) < 100
