"""Adapters that travel alone: merged exactly, each with its weight, never without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rollout.adapters import Adapter, holds_adapters, named_adapter, with_adapters
from rollout.bucket import PackedBucket, pack

DTYPES = [torch.float32, torch.bfloat16]


def stored(named) -> PackedBucket:
    """A bucket as it comes out of Ray's object store: nobody may write to it."""
    bucket = pack(named)
    parts = [part.copy() for part in bucket.parts]
    for part in parts:
        part.flags.writeable = False
    return PackedBucket(bucket.header, parts)


def adapter(dtype, out=6, inputs=4, scaling=2.0):
    return Adapter(torch.randn(2, inputs).to(dtype), torch.randn(out, 2).to(dtype), scaling)


def tensors(bucket):
    described = zip(bucket.header.dtypes, bucket.header.shapes, bucket.parts, strict=True)
    return [
        torch.from_numpy(part.copy()).view(getattr(torch, dtype)).view(shape)
        for dtype, shape, part in described
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_weight_gets_its_own_adapter_and_the_others_none(dtype):
    a, b, norm = (torch.randn(shape).to(dtype) for shape in ((6, 4), (3, 4), (4,)))
    of_a, of_b = adapter(dtype), adapter(dtype, out=3, scaling=0.3)
    plain = [stored([("a", a), ("norm", norm)]), stored([("b", b)])]
    sent = [stored(named_adapter("b", of_b)), stored(named_adapter("a", of_a))]
    first, second = with_adapters([*plain, *sent])
    assert [first.header, second.header] == [bucket.header for bucket in plain]
    for _ in range(2):  # each time anew, from plain weights that stay
        merged_a, same = tensors(first)
        (merged_b,) = tensors(second)
        for merged, weight, x in ((merged_a, a, of_a), (merged_b, b, of_b)):
            product = x.lora_B.double() @ x.lora_A.double() * x.scaling
            expected = weight + product.to(dtype)
            assert torch.allclose(merged.double(), expected.double(), rtol=1e-2, atol=1e-6)
            assert not torch.allclose(merged, weight, rtol=0.1)
        assert torch.equal(same, norm)
    assert first.parts[1] is plain[0].parts[1], "what needs no adapter is not copied"
    assert np.array_equal(plain[0].parts[0], pack([("a", a)]).parts[0])


def test_the_next_adapters_take_the_place_of_the_last():
    weight, one, two = torch.randn(6, 4), adapter(torch.float32), adapter(torch.float32)
    plain = stored([("a", weight)])
    for own in (one, two):
        (bucket,) = with_adapters([plain, stored(named_adapter("a", own))])
        (merged,) = tensors(bucket)
        assert torch.allclose(merged, weight + own.scaling * own.lora_B @ own.lora_A, atol=1e-6)


def test_plain_weights_are_copied_when_they_are_written_and_not_before():
    class Kept(np.ndarray):
        def copy(self):
            raise MemoryError

    bucket = stored([("a", torch.randn(6, 4))])
    plain = PackedBucket(bucket.header, [part.view(Kept) for part in bucket.parts])
    (merged,) = with_adapters([plain, stored(named_adapter("a", adapter(torch.float32)))])
    with pytest.raises(MemoryError):
        list(merged.parts)


def test_buckets_without_adapters_stay_as_they_are():
    buckets = [stored([("a", torch.ones(3))]), stored([("b", torch.ones(2))])]
    assert with_adapters(buckets) == buckets
    assert with_adapters([]) == []
    assert not any(map(holds_adapters, buckets))
    assert holds_adapters(stored(named_adapter("a", adapter(torch.float32))))


def test_an_adapter_without_its_weight_is_refused():
    sent = stored(named_adapter("b", adapter(torch.float32)))
    with pytest.raises(ValueError, match="an adapter of b came, and no such weight"):
        with_adapters([stored([("a", torch.ones(6, 4))]), sent])


def test_bytes_are_those_of_the_two_factors():
    assert adapter(torch.bfloat16, out=6, inputs=4).nbytes == 2 * (2 * 4 + 6 * 2)
