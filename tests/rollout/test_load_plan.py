"""A recorded load is repeated by copies, and only where copies give the same."""

import numpy as np
import pytest
import torch
from torch import nn

from rollout.bucket import pack, unpack
from rollout.load_plan import CopyRecorder

HIDDEN, VOCABULARY, PADDED = 16, 6, 8


class Fused(nn.Module):
    """Query, key and value in one weight; as an engine on a CPU it keeps a packed copy only."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3 * HIDDEN, HIDDEN), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(3 * HIDDEN), requires_grad=False)
        self.packed = None

    def load(self, name, tensor, part):
        getattr(self, name).data.narrow(0, part * HIDDEN, HIDDEN).copy_(tensor)

    def pack(self, weight=None):
        self.packed = (self.weight.data if weight is None else weight).t().contiguous()
        self.weight = nn.Parameter(torch.zeros(0), requires_grad=False)


class Norm(nn.Module):
    """May keep its weight plus one, as some families do, or scale it afterwards."""

    def __init__(self, what="plain"):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(HIDDEN), requires_grad=False)
        self.what = what

    def load(self, tensor):
        if self.what == "transformed":
            self.weight.data.copy_(tensor + 1)
            return
        self.weight.data.copy_(tensor)
        if self.what == "scaled":
            self.weight.data.mul_(2)
        if self.what == "indexed":
            self.weight.data.index_fill_(0, torch.tensor([3]), 7.0)


def test_a_bias_that_is_put_back_where_it_was_is_no_other_value():
    """VLLM leaves biases live, and copies each onto itself when it ends a reload."""
    model = Model()
    recorder = CopyRecorder(model)
    with recorder:
        model.qkv.bias.data.copy_(model.qkv.bias.data)
    assert recorder._targets == {}
    with recorder:
        model.qkv.bias.data.copy_(torch.ones(3 * HIDDEN))
    (target,) = recorder._targets.values()
    assert target.foreign


class Model(nn.Module):
    """Loads as an inference engine does: names are mapped, weights fused, a vocabulary padded."""

    def __init__(self, norm="plain"):
        super().__init__()
        self.embedding = nn.Embedding(PADDED, HIDDEN).requires_grad_(False)
        self.head = nn.Linear(HIDDEN, PADDED, bias=False).requires_grad_(False)
        self.head.weight = self.embedding.weight  # tied
        self.qkv, self.norm = Fused(), Norm(norm)

    def load_weights(self, named):
        for name, tensor in named:
            if name == "embed":
                self.embedding.weight.data[:VOCABULARY].copy_(tensor)
                self.embedding.weight.data[VOCABULARY:].fill_(0)
            elif name == "norm":
                self.norm.load(tensor)
            elif name != "ignored":
                letter, kind = name.split(".")
                self.qkv.load(kind, tensor, "qkv".index(letter))

    def values(self):
        weights = [self.embedding.weight, self.qkv.packed, self.qkv.bias, self.norm.weight]
        return [weight.clone() for weight in weights]


def weights(seed, dtype=torch.float32, kinds=("weight", "bias")):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed": (VOCABULARY, HIDDEN), "norm": (HIDDEN,), "ignored": (3,)}
    for kind in kinds:
        shape = (HIDDEN, HIDDEN) if kind == "weight" else (HIDDEN,)
        shapes.update({f"{letter}.{kind}": shape for letter in "qkv"})
    return [(n, torch.randn(s, generator=generator).to(dtype)) for n, s in shapes.items()]


def buckets(named, count=1):
    """Views of memory that holds something else as soon as the next one is asked for."""
    for part in range(count):
        bucket = pack(named[part::count])
        data = np.zeros(bucket.header.bytes, np.uint8)
        for offset, tensor in zip(bucket.header.offsets, bucket.parts, strict=True):
            data[offset : offset + tensor.nbytes] = tensor
        yield data, unpack(bucket.header, data)
        data[:] = 255


def record(model, named):
    recorder = CopyRecorder(model)
    for data, views in buckets(named):
        recorder.add_sources(data, views)
        with recorder:
            model.load_weights(views)
    model.qkv.pack()
    return recorder.plan(lambda module: True, repacked)


def repacked(target):
    return isinstance(target.module, Fused) and target.name == "weight"


def load(plan, model, named, count=1):
    for _, views in buckets(named, count):
        plan.load(views, lambda module, weight: module.pack(weight))
    plan.finish()


def expected(named):
    model = Model()
    model.load_weights(named)
    model.qkv.pack()
    return model.values()


@pytest.mark.parametrize("count", [1, 2, 5])  # of buckets: with several, a fused weight is cut
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # of the learner
def test_the_next_update_is_loaded_like_the_first(count, dtype):
    model = Model()
    plan = record(model, weights(0, dtype))
    assert all(map(torch.equal, model.values(), expected(weights(0, dtype))))
    for seed in (1, 2):
        load(plan, model, weights(seed, dtype), count)
        assert all(map(torch.equal, model.values(), expected(weights(seed, dtype))))
    assert model.head.weight is model.embedding.weight


def test_parts_that_lie_together_are_packed_where_they_are():
    model = Model()
    plan = record(model, weights(0, kinds=("weight",)))
    given = []
    for data, views in buckets(weights(1, kinds=("weight",))):
        plan.load(views, lambda module, weight: given.append((weight, weight.clone())))
        inside = data.ctypes.data <= given[0][0].data_ptr() < data.ctypes.data + data.nbytes
        assert inside
        named = dict(views)
        assert torch.equal(given[0][1], torch.cat([named[f"{part}.weight"] for part in "qkv"]))


def test_parts_that_lie_apart_or_in_another_order_are_joined():
    first = weights(0, kinds=("weight",))
    for order in (lambda named: named[::-1], lambda named: sorted(named, key=lambda n: n[0][::-1])):
        model = Model()
        plan = record(model, first)
        load(plan, model, order(weights(1, kinds=("weight",))))
        assert torch.equal(model.qkv.packed, expected(weights(1, kinds=("weight",)))[1])


@pytest.mark.parametrize("norm", ["transformed", "scaled", "indexed"])
def test_what_is_more_than_a_copy_has_no_plan(norm):
    assert record(Model(norm), weights(0)) is None


def test_what_was_changed_after_the_load_has_no_plan():
    for change in (lambda w: w.mul_(2), lambda w: w.copy_(w.flip(0))):
        model = Model()
        recorder = CopyRecorder(model)
        for data, views in buckets(weights(0)):
            recorder.add_sources(data, views)
            with recorder:
                model.load_weights(views)
        assert recorder.plan(lambda module: True, lambda target: False) is not None
        change(model.norm.weight.data)
        assert recorder.plan(lambda module: True, lambda target: False) is None


def test_a_module_that_may_not_be_copied_or_has_no_load_has_no_plan():
    model = Model()
    recorder = CopyRecorder(model)
    assert recorder.plan(lambda module: True, repacked) is None
    for data, views in buckets(weights(0)):
        recorder.add_sources(data, views)
        with recorder:
            model.load_weights(views)
    assert recorder.plan(lambda module: module is not model.norm, repacked) is None
    assert recorder.plan(lambda module: True, repacked) is not None


def test_a_repacked_weight_of_which_a_part_did_not_come_has_no_plan():
    assert record(Model(), [named for named in weights(0) if named[0] != "k.weight"]) is None


def test_a_copy_from_elsewhere_is_no_copy_of_a_source():
    """Memory of an earlier bucket that is used for something else is not taken for it."""
    model = Model()
    recorder = CopyRecorder(model)
    for data, views in buckets(weights(0)):
        recorder.add_sources(data, views)
        address = dict(views)["norm"].data_ptr()
    del data, views
    with recorder:
        other = [torch.zeros(HIDDEN) for _ in range(1000)]
        same = next((t for t in other if t.data_ptr() == address), other[0])
        model.norm.load(same)
    assert recorder.plan(lambda module: True, repacked) is None


class Hidden(torch.Tensor):
    """A tensor without memory of its own, as quantized ones are."""

    @staticmethod
    def __new__(cls, shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return args[0]


def test_a_write_to_memory_that_is_not_seen_has_no_plan():
    model = Model()
    recorder = CopyRecorder(model)
    for data, views in buckets(weights(0)):
        recorder.add_sources(data, views)
        with recorder:
            model.load_weights(views)
            torch.zeros(0).copy_(torch.zeros(0))  # nothing is written
    assert recorder.plan(lambda module: True, repacked) is not None
    with recorder:
        Hidden((HIDDEN,)).copy_(torch.zeros(HIDDEN))
    assert recorder.plan(lambda module: True, repacked) is None


def test_an_update_may_leave_weights_out_but_not_a_part_of_one():
    model = Model()
    plan = record(model, weights(0))
    before = model.values()
    load(plan, model, [named for named in weights(1) if named[0] in ("embed", "ignored")])
    after = model.values()
    assert torch.equal(after[0], expected(weights(1))[0])
    assert all(map(torch.equal, before[1:], after[1:]))
    with pytest.raises(ValueError, match=r"a part of the weight of Fused.*k\.weight.*q\.weight"):
        load(plan, model, [named for named in weights(1) if named[0] != "v.weight"])
    load(plan, model, weights(2))  # nothing of the failed one is left
    assert all(map(torch.equal, model.values(), expected(weights(2))))


def test_a_bucket_with_another_weight_or_shape_is_not_covered():
    plan = record(Model(), weights(0))
    named = weights(1)
    assert plan.covers(pack(named).header)
    assert plan.covers(pack(named[2:3]).header)
    assert not plan.covers(pack([*named, ("new", torch.zeros(2))]).header)
    assert not plan.covers(pack([("norm", torch.zeros(2))]).header)
