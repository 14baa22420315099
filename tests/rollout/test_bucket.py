"""Weight buckets: what is packed is what is unpacked, within the size that was set."""

import tempfile

import numpy as np
import pytest
import torch

from rollout.bucket import BucketHeader, buckets, pack, unpack, write


def tensors():
    torch.manual_seed(0)
    return [
        ("a", torch.randn(3, 5)),
        ("b", torch.randn(7).to(torch.bfloat16)),
        ("c", torch.tensor(2, dtype=torch.int64)),
        ("d", torch.randn(4, 4).t()),  # not contiguous
    ]


def flat(bucket, begin=0):
    """The bytes of a bucket."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(begin + bucket.header.bytes))
        write(bucket, file, begin)
        file.seek(begin)
        return np.frombuffer(bytearray(file.read()), np.uint8)


@pytest.mark.parametrize("begin", [0, 4096])
def test_round_trip(begin):
    bucket = pack(tensors())
    header, data = bucket.header, flat(bucket, begin)
    back = unpack(BucketHeader(**header.to_dict()), data)
    assert [n for n, _ in back] == ["a", "b", "c", "d"]
    for (_, x), (_, y) in zip(tensors(), back, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def test_wrong_length_is_refused():
    bucket = pack(tensors())
    header, data = bucket.header, flat(bucket)
    with pytest.raises(ValueError, match=f"{header.bytes}"):
        unpack(header, np.concatenate([data, data[:1]]))


def test_buckets_respect_the_limit_and_the_order():
    many = [(str(i), torch.zeros(n)) for i, n in enumerate((10, 10, 100, 1, 1, 30))]
    groups = list(buckets(many, limit_bytes=120))
    assert [[n for n, _ in g] for g in groups] == [["0", "1"], ["2"], ["3", "4"], ["5"]]
    assert all(sum(t.nbytes for _, t in g) <= 120 or len(g) == 1 for g in groups)


def test_a_sum_of_exactly_the_limit_is_one_bucket():
    tensors = [("a", torch.zeros(10)), ("b", torch.zeros(20, dtype=torch.bfloat16))]
    assert [len(bucket) for bucket in buckets(tensors, 80)] == [2]
    assert [len(bucket) for bucket in buckets(tensors, 79)] == [1, 1]
    assert list(buckets([], 79)) == []


def test_a_new_bucket_begins_empty_and_none_stays_empty():
    sizes = (30, 2, 2, 1, 30)  # in float32; the first and the last are larger than a bucket
    tensors = [(str(i), torch.zeros(n)) for i, n in enumerate(sizes)]
    groups = [[name for name, _ in bucket] for bucket in buckets(tensors, 12)]
    assert groups == [["0"], ["1"], ["2", "3"], ["4"]]


def test_views_are_aligned():
    header, _ = pack(tensors())
    assert header.offsets == [0, 64, 128, 192]
    assert header.bytes == 256


def test_bytes_of_contiguous_tensors_are_not_copied():
    tensor = torch.zeros(5)
    (part,) = pack([("a", tensor)]).parts
    tensor += 1.0
    assert part.view(np.float32).tolist() == [1.0] * 5
