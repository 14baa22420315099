"""Where shared memory lies in a file: a second process would read it there."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rollout.mapped_memory import MappedMemory

PAGE = mmap.PAGESIZE


def address(array):
    return array.ctypes.data, array.ctypes.data + array.nbytes


@pytest.fixture
def nameless():
    """A file without a name, as Ray's object store is: its number, and its second page on."""
    number = os.memfd_create("store")
    os.ftruncate(number, 4 * PAGE)
    memory = np.frombuffer(mmap.mmap(number, 3 * PAGE, offset=PAGE), np.uint8)
    yield number, memory
    os.close(number)


def read(place, size):
    with Path(place.path).open("rb") as file:
        file.seek(place.offset)
        return file.read(size)


def test_another_process_finds_the_same_bytes(nameless):
    _, memory = nameless
    memory[PAGE + 5 : PAGE + 9] = [1, 2, 3, 4]
    place = MappedMemory().place(*address(memory[PAGE + 5 : PAGE + 9]))
    assert place.offset == 2 * PAGE + 5
    program = "import sys; f = open(sys.argv[1], 'rb'); f.seek(int(sys.argv[2])); print(*f.read(4))"
    command = [sys.executable, "-c", program, place.path, str(place.offset)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == [*"1234"]


def test_what_the_parent_keeps_open_is_found_there(nameless):
    """A Ray worker closes the object store's file once it is mapped; its parent has it open."""
    _, memory = nameless
    memory[:2] = [7, 8]
    child = os.fork()
    if not child:
        for name in os.listdir("/proc/self/fd"):
            path = Path(f"/proc/self/fd/{name}")
            if path.is_symlink() and "memfd:store" in str(path.readlink()):
                os.close(int(name))
        place = MappedMemory().place(*address(memory[:2]))
        found = place is not None and read(place, 2) == b"\x07\x08"
        os._exit(0 if found and f"/{os.getppid()}/" in place.path else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_of_this_process_alone_is_in_no_file(nameless):
    number, memory = nameless
    found = MappedMemory()
    assert found.place(*address(np.zeros(10))) is None
    private = np.frombuffer(mmap.mmap(number, PAGE, flags=mmap.MAP_PRIVATE), np.uint8)
    assert MappedMemory().place(*address(private)) is None  # what is written there stays there
    shared = np.frombuffer(mmap.mmap(-1, PAGE), np.uint8)
    assert MappedMemory().place(*address(shared)) is None  # nobody has its file open
    begin, end = address(memory)
    assert found.place(begin, end) is not None
    assert found.place(begin, end + PAGE) is None  # no part of it ends beyond the mapping
    assert found.place(begin - 1, end) is None


def test_a_file_that_is_closed_meanwhile_hides_no_other(nameless, monkeypatch):
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: ["999999", *listed(folder)])
    assert MappedMemory().place(*address(nameless[1])) is not None


@pytest.mark.parametrize(
    "name", [b"B\xfccher", b"a b", *(f"a{c}b".encode() for c in "\u2028\x85\f\r\n")]
)
def test_other_mapped_files_have_any_name(nameless, tmp_path, name):
    other = os.fsencode(tmp_path) + b"/" + name
    with open(other, "wb+") as file:
        file.truncate(PAGE)
        mapped = np.frombuffer(mmap.mmap(file.fileno(), PAGE), np.uint8)
        found = MappedMemory()
        assert found.place(*address(nameless[1])) is not None
        assert found.place(*address(mapped)).offset == 0
