"""Memory that was freed is used again, without new pages of the kernel's."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from configs.paths import ROOT
from rollout import freed_memory

SCRIPT = """
import ctypes, json, resource, sys
from rollout.freed_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def faults(size):
    \"\"\"New pages for a block that is filled and freed.\"\"\"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sizes = 16 * 2**20, 64 * 2**20
before = [[faults(size), faults(size)] for size in sizes]
kept = keep_freed_memory(*json.loads(sys.argv[1]))
print(json.dumps([kept, before, [[faults(size) for _ in range(3)] for size in sizes]]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not GNU's C library")
@pytest.mark.parametrize(("up_to_medium", "large_kept"), [([], True), ([True], False)])
def test_a_block_of_the_same_size_takes_no_new_pages(up_to_medium, large_kept):
    """16 MiB, and 64, which is more than medium."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(up_to_medium)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept, before, after = json.loads(out)
    assert kept
    assert min(before[1]) >= 32, "else there is nothing to keep"
    (_, *medium), (_, *large) = after
    assert max(medium) < 8
    assert max(large) < 32 if large_kept else min(large) >= 32


RETURN = """
import ctypes
from pathlib import Path
from rollout.freed_memory import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
keep_freed_memory(up_to_medium=True)
begin = resident()
blocks = [ctypes.c_void_p(libc.malloc(16 << 20)) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, 16 << 20)
for block in blocks:
    libc.free(block)
kept = resident() - begin
return_freed_memory()
print(kept, resident() - begin)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not GNU's C library")
def test_what_is_kept_can_be_given_back():
    command = [sys.executable, "-c", RETURN]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept, left = map(int, out.split())  # MiB
    assert kept >= 120, "else there is nothing to give back"
    assert left < 16


def test_another_c_library_keeps_what_it_keeps(monkeypatch):
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: object())
    assert not freed_memory.keep_freed_memory()
    freed_memory.return_freed_memory()
