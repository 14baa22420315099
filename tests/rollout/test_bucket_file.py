"""Buckets through shared memory: what is written is what is there, in room for two of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rollout import bucket_file
from rollout.bucket import BucketHeader, pack, unpack
from rollout.bucket_file import BucketFile

SIZES = (3000, 10, 7000, 2000, 1)  # of float32: some of several pages, none of a whole number


def many():
    return [pack([("a", torch.full((size,), float(i)))]) for i, size in enumerate(SIZES)]


def test_each_bucket_is_there_until_the_one_after_the_next():
    buckets = many()
    with BucketFile([bucket.header for bucket in buckets]) as file:
        before = None
        for index, bucket in enumerate(buckets):
            file.write(index, bucket)
            message = file.message(index, bucket.header)
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
    with BucketFile([bucket.header]) as file:
        file.write(0, bucket)
        path = Path(file.message(0, bucket.header)["path"])
        assert path.stat().st_size == 3 * 4096
        assert path.parent == Path("/dev/shm")


def test_the_file_is_removed_where_the_update_fails():
    buckets = many()
    with pytest.raises(KeyError), BucketFile([b.header for b in buckets]) as file:  # noqa: PT012
        path = Path(file.message(0, buckets[0].header)["path"])
        raise KeyError("an update that fails")
    assert not path.exists()


@pytest.fixture
def shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(bucket_file, "_shared_memory", lambda: str(tmp_path))
    return tmp_path


def test_what_a_killed_actor_left_goes_and_what_a_living_one_has_stays(shared_memory):
    headers = [bucket.header for bucket in many()]
    with BucketFile(headers) as living:
        orphan, other = shared_memory / "cardinal-w-left", shared_memory / "of-others"
        orphan.write_bytes(b"x")
        other.write_bytes(b"x")
        with BucketFile(headers) as file:
            assert not orphan.exists()
            paths = {Path(f.message(0, headers[0])["path"]) for f in (living, file)}
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
    headers = [bucket.header for bucket in many()]
    with BucketFile(headers) as file:
        assert Path(file.message(0, headers[0])["path"]).exists()
    assert len(locked) == 2
