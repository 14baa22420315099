"""Buckets through shared memory: what is written is what is there, in room for two of them."""

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.paths import ROOT
from rollout import bucket_file
from rollout.bucket import BucketHeader, pack, unpack
from rollout.bucket_file import BucketFile, MappedFiles

SIZES = (3000, 10, 7000, 2000, 1)  # of float32: some of several pages, none of a whole number


@pytest.fixture
def store():
    """A function that puts a bucket into a file without a name, as Ray's object store is."""
    number = os.memfd_create("store")
    os.ftruncate(number, 2**20)
    memory = np.frombuffer(mmap.mmap(number, 2**20), np.uint8)
    end = 100 * 64  # the object store has other objects too

    def put(bucket, align=64):
        nonlocal end
        parts = []
        for part in bucket.parts:
            parts.append(memory[end : end + part.nbytes])
            parts[-1][:] = part
            end += -(-part.nbytes // align) * align
        end = -(-end // 64) * 64
        return bucket._replace(parts=parts)

    yield put
    os.close(number)


def load(file, index, files):
    """What an engine loads of a bucket, and whether its file lasts."""
    message = file.message(index)
    header = BucketHeader(**message["header"])
    data = files.read(message["path"], message["offset"], header.bytes, message["lasts"])
    return {name: tensor.tolist() for name, tensor in unpack(header, data)}, message["lasts"]


def named(value):
    """A bucket of several tensors, one of them empty."""
    tensors = {"a": torch.full((3, 5), value), "b": torch.zeros(0), "c": torch.tensor([value, 1.0])}
    return pack(tensors.items()), {name: tensor.tolist() for name, tensor in tensors.items()}


def many():
    return [pack([("a", torch.full((size,), float(i)))]) for i, size in enumerate(SIZES)]


def test_each_bucket_is_there_until_the_one_after_the_next():
    buckets = many()
    with BucketFile(buckets) as file:
        before = None
        for index in range(len(buckets)):
            file.write(index)
            message = file.message(index)
            memory = np.memmap(message["path"], np.uint8, mode="r+")
            begin = message["offset"]
            header = BucketHeader(**message["header"])
            ((_, tensor),) = unpack(header, memory[begin : begin + header.bytes])
            assert tensor.tolist() == [float(index)] * SIZES[index]
            if before is not None:
                assert before.tolist() == [index - 1.0] * SIZES[index - 1]
            before = tensor
        path = Path(message["path"])
        assert path.stat().st_size == (7 + 2) * 4096  # the largest of each side, in pages
    assert not path.exists()


def test_one_bucket_takes_the_room_of_one():
    (bucket,) = many()[:1]
    with BucketFile([bucket]) as file:
        file.write(0)
        path = Path(file.message(0)["path"])
        assert path.stat().st_size == 3 * 4096
        assert path.parent == Path("/dev/shm")


def test_the_file_is_removed_where_the_update_fails():
    buckets = many()
    with pytest.raises(KeyError), BucketFile(buckets) as file:  # noqa: PT012
        path = Path(file.message(0)["path"])
        raise KeyError("an update that fails")
    assert not path.exists()


@pytest.fixture
def shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(bucket_file, "_shared_memory", lambda: str(tmp_path))
    return tmp_path


def test_what_a_killed_actor_left_goes_and_what_a_living_one_has_stays(shared_memory):
    with BucketFile(many()) as living:
        orphan, other = shared_memory / "cardinal-w-left", shared_memory / "of-others"
        orphan.write_bytes(b"x")
        other.write_bytes(b"x")
        with BucketFile(many()) as file:
            assert not orphan.exists()
            paths = {Path(f.message(0)["path"]) for f in (living, file)}
            assert {*shared_memory.iterdir()} == paths | {other}
    assert [*shared_memory.iterdir()] == [other]


def test_a_file_that_was_taken_for_an_orphan_is_made_again(shared_memory, monkeypatch):
    lock, locked = bucket_file.fcntl.flock, []

    def late(number, how):
        if not locked:
            (path,) = shared_memory.iterdir()
            path.unlink()
        locked.append(number)
        lock(number, how)

    monkeypatch.setattr(bucket_file.fcntl, "flock", late)
    with BucketFile(many()) as file:
        assert Path(file.message(0)["path"]).exists()
    assert len(locked) == 2


def test_what_lies_in_the_object_store_is_loaded_from_there(store, shared_memory):
    bucket, expected = named(2.0)
    files = MappedFiles()
    with BucketFile([store(named(1.0)[0]), store(bucket)]) as file:
        file.write(1)
        assert [*shared_memory.iterdir()] == []
        assert load(file, 1, files) == (expected, True)
        assert load(file, 0, files) == (named(1.0)[1], True)


def test_others_pass_through_the_file_between_them(store, shared_memory):
    kinds = [store, lambda bucket: bucket, store, lambda b: b, lambda b: b, lambda b: b]
    made = [named(float(index)) for index in range(len(kinds))]
    buckets = [kind(bucket) for kind, (bucket, _) in zip(kinds, made, strict=True)]
    files = MappedFiles()
    with BucketFile(buckets) as file:
        for index in (0, 1):
            file.write(index)
        for index, (_, expected) in enumerate(made):  # as the engine has them loaded
            if 0 < index < len(buckets) - 1:
                file.write(index + 1)
            assert load(file, index, files) == (expected, kinds[index] is store)
        (path,) = shared_memory.iterdir()
        assert path.stat().st_size == 2 * mmap.PAGESIZE


def test_parts_that_are_not_aligned_pass_through_the_file(store, shared_memory):
    bucket, expected = named(3.0)
    with BucketFile([store(bucket, align=4)]) as file:
        file.write(0)
        assert load(file, 0, MappedFiles()) == (expected, False)


def open_files(path):
    """How often this process has mapped a file."""
    return Path("/proc/self/maps").read_text().count(str(path))


def test_the_object_store_stays_mapped_and_a_file_does_not(store, shared_memory):
    files = MappedFiles()
    mapped = []
    for value in (1.0, 2.0):
        other, expected = named(value + 10)
        with BucketFile([store(named(value)[0]), other]) as file:
            file.write(1)
            path = file.message(1)["path"]
            assert load(file, 0, files) == (named(value)[1], True)
            assert load(file, 1, files) == (expected, False)
            mapped.append(files._mapped[file.message(0)["path"]].ctypes.data)
            assert open_files(path) == 1
        files.close()
        assert open_files(path) == 0
    assert mapped[0] == mapped[1]  # no page of it is faulted in anew


def test_a_path_that_is_another_file_by_now_is_mapped_anew(tmp_path):
    files, paths = MappedFiles(), [tmp_path / "1", tmp_path / "2"]
    for value, path in enumerate(paths):
        path.write_bytes(bytes([value]) * 64)
    link = tmp_path / "link"
    for value, path in enumerate(paths):
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        assert files.read(str(link), 0, 1, True).tolist() == [value]
        files.close()
        assert open_files(path) == 1
        assert open_files(paths[0]) == 1 - value  # what is loaded from no more is let go


def committed(number):
    """Bytes of the mappings of an open file that count against what processes may reserve."""
    inode, total, counts = str(os.fstat(number).st_ino), 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            counts = rest[3:4] == [inode]
            begin, end = (int(address, 16) for address in key.split("-"))
        elif counts and key == "VmFlags:" and "ac" in rest:
            total += end - begin
    return total


def test_what_is_mapped_reserves_no_memory():
    """The whole object store is, in every process of an engine."""
    number = os.memfd_create("store")
    os.ftruncate(number, 2**20)
    private = mmap.mmap(number, 2**20, flags=mmap.MAP_PRIVATE)
    assert committed(number) == 2**20, "else it cannot be seen"
    private.close()
    files = MappedFiles()
    files.read(f"/proc/self/fd/{number}", 64, 1, True)
    assert committed(number) == 0
    os.close(number)


WRITE = """
import sys
from rollout.bucket import BucketHeader, unpack
from rollout.bucket_file import MappedFiles

header = BucketHeader(["a"], ["uint8"], [[1]], [0], 1)
((_, tensor),) = unpack(header, MappedFiles().read(sys.argv[1], 1, 1, True))
print(tensor.item(), flush=True)
tensor[0] = 0
print("written")
"""


def test_a_loader_that_writes_to_what_it_loads_is_found_at_once(tmp_path):
    """Its page would else be what the next update loads, in place of new weights."""
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    command = [sys.executable, "-W", "error", "-c", WRITE, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("98\n", -signal.SIGSEGV), done.stderr
    assert path.read_bytes() == b"abc"
    with pytest.raises(ValueError, match="read-only"):
        MappedFiles().read(str(path), 1, 1, True)[:] = 0
