"""Which part of which checkpoint tensor is copied to which part of which parameter of a model.

Input: a load that a `CopyRecorder` watches. Output: a `LoadPlan`, which does the same load again by
copies alone; None where the model does more with its weights than to copy them.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from rollout.bucket import BucketHeader, NamedTensor

Module = torch.nn.Module
Place = tuple[Module, str]  # of a parameter or buffer: the module that has it, and its name there
SAMPLES = 64  # values of a copy by which it is recognized in the loaded model
aten = torch.ops.aten
CONSTANTS = (aten.fill_, aten.zero_)  # padding: stays as the first load left it


class Strided(NamedTuple):
    """A part of a tensor: its shape and strides, and the offset from the tensor's first element."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, part: torch.Tensor, begin: int) -> Strided:
        """The place of a view in the tensor whose first element is at address `begin`."""
        offset = (part.data_ptr() - begin) // part.element_size()
        return cls(tuple(part.shape), part.stride(), offset)

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """This part of a tensor."""
        return tensor.as_strided(self.shape, self.stride, tensor.storage_offset() + self.offset)

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie one after another."""
        return self.stride == _contiguous_stride(self.shape)


class Region(NamedTuple):
    """One copy. samples: some of its values, as the parameter had them after it."""

    source: str
    source_part: Strided
    target_part: Strided
    samples: torch.Tensor


@dataclass(eq=False)
class Target:
    """A parameter and the copies into it.

    shape, dtype: while it is loaded.
    foreign: an operation that wrote to it and is no copy of a source; "" if there is none.
    repacked: the model keeps it in another form, made anew when all of it has come.
    """

    module: Module
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    regions: list[Region]
    foreign: str = ""
    repacked: bool = False

    def live(self) -> torch.Tensor:
        """The parameter as the model has it now."""
        tensor: torch.Tensor = getattr(self.module, self.name).data
        return tensor

    @property
    def is_complete(self) -> bool:
        """Whether the copies fill it."""
        return sum(prod(r.target_part.shape) for r in self.regions) == prod(self.shape)

    def holds_copies(self) -> bool:
        """Whether the loaded model has in it what was copied, unchanged."""
        live = self.live()
        if tuple(live.shape) != self.shape or live.dtype != self.dtype:
            return False
        return all(torch.equal(_samples(r.target_part.view(live)), r.samples) for r in self.regions)


class _Source(NamedTuple):
    name: str
    begin: int
    end: int
    dtype: torch.dtype


class CopyRecorder(TorchDispatchMode):
    """Sees what is written to the parameters and buffers of a model while it is the active mode."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self._model = model
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._arrays: list[tuple[weakref.ref[NDArray[np.uint8]], list[_Source]]] = []
        self._places: dict[int, Place] = {}
        self._targets: dict[Place, Target] = {}
        self._hidden = False  # something was written whose memory is not to be seen

    def add_sources(self, data: NDArray[np.uint8], named: list[NamedTensor]) -> None:
        """Tensors that will be loaded, views of `data`, which is not kept alive."""
        self._shapes.update((name, tuple(tensor.shape)) for name, tensor in named)
        self._arrays = [(array, sources) for array, sources in self._arrays if array() is not None]
        sources = [
            _Source(name, t.data_ptr(), t.data_ptr() + t.nbytes, t.dtype) for name, t in named
        ]
        self._arrays.append((weakref.ref(data), sources))

    def plan(
        self, may_copy: Callable[[Module], bool], is_repacked: Callable[[Target], bool]
    ) -> LoadPlan | None:
        """The plan of what was seen.

        Args:
            may_copy: a module whose weights are used as they were copied.
            is_repacked: a parameter whose copies `LoadPlan` collects for the caller to repack.

        Returns:
            None where a parameter is neither, or nothing was seen.
        """
        if self._hidden or not self._targets:
            return None
        for target in self._targets.values():
            if target.foreign:
                return None
            target.repacked = is_repacked(target)
            if target.repacked and not target.is_complete:
                return None
            if not target.repacked and not (may_copy(target.module) and target.holds_copies()):
                return None
        return LoadPlan(self._shapes, list(self._targets.values()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Run the operation, and note where it wrote to."""
        result = func(*args, **(kwargs or {}))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if not (argument.is_write and isinstance(value, torch.Tensor)):
                continue
            if value.numel() and not value.is_meta:
                self._note(func, value, args)
        return result

    def _note(self, func: Any, written: torch.Tensor, args: tuple[Any, ...]) -> None:
        place = self._place(written)
        if place is None or func.overloadpacket in CONSTANTS or _onto_itself(func, written, args):
            return
        parameter = getattr(*place).data
        if place not in self._targets:
            shape = tuple(parameter.shape)
            self._targets[place] = Target(*place, shape, parameter.dtype, [])
        target = self._targets[place]
        source = self._source(args[1]) if func is aten.copy_.default else None
        if source is None or (args[1].shape, parameter.dtype) != (written.shape, written.dtype):
            target.foreign = str(func)
            return
        part = Strided.of(written, parameter.data_ptr())
        source_part = Strided.of(args[1], source.begin)
        target.regions.append(Region(source.name, source_part, part, _samples(written)))

    def _place(self, tensor: torch.Tensor) -> Place | None:
        """The parameter or buffer that a tensor is a part of."""
        pointer = _pointer(tensor)
        self._hidden |= not pointer
        place = self._places.get(pointer)
        if place is None or _pointer(getattr(*place, None)) != pointer:
            self._places = {
                _pointer(tensor): (module, name)
                for module in self._model.modules()
                for name, tensor in (*module._parameters.items(), *module._buffers.items())
            }
            place = self._places.get(pointer)
        return place if pointer else None

    def _source(self, tensor: torch.Tensor) -> _Source | None:
        pointer = tensor.data_ptr()
        for array, sources in self._arrays:
            for source in sources if array() is not None else ():
                if source.begin <= pointer < source.end and source.dtype == tensor.dtype:
                    return source
        return None


class LoadPlan:
    """How to load the tensors of an update by copies.

    An update is `load`, for each bucket, and `finish`.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], targets: list[Target]) -> None:
        self._shapes = shapes
        self._copies: dict[str, list[tuple[Target, Region]]] = defaultdict(list)
        for target in targets:
            for region in target.regions:
                self._copies[region.source].append((target, region))
        self._partial: dict[Target, torch.Tensor] = {}
        self._came: Counter[Target] = Counter()

    def covers(self, header: BucketHeader) -> bool:
        """Whether the recorded update had all of a bucket's tensors, in these shapes."""
        named = zip(header.names, header.shapes, strict=True)
        return all(self._shapes.get(name) == tuple(shape) for name, shape in named)

    def load(
        self, named: Iterable[NamedTensor], repack: Callable[[Module, torch.Tensor], None]
    ) -> None:
        """Copy tensors into the model; after it, none of their memory is used any more.

        Args:
            named: tensors of a bucket that it covers.
            repack: takes a module and all of its new weight, which it must not keep.
        """
        parts: dict[Target, list[tuple[Region, torch.Tensor]]] = defaultdict(list)
        for name, tensor in named:
            for target, region in self._copies.get(name, ()):
                source = region.source_part.view(tensor)
                if target.repacked:
                    parts[target].append((region, source))
                else:
                    region.target_part.view(target.live()).copy_(source)
        for target, copies in parts.items():
            weight = self._assemble(target, copies)
            if weight is not None:
                repack(target.module, weight)

    def finish(self) -> None:
        """Check that no weight came in part.

        Raises:
            ValueError: one did; names its module.
        """
        partial, self._partial = self._partial, {}
        self._came.clear()
        for target in partial:
            raise ValueError(
                f"a weight update ended with a part of the weight of {target.module}: it needs "
                f"all of {sorted({region.source for region in target.regions})}"
            )

    def _assemble(
        self, target: Target, copies: list[tuple[Region, torch.Tensor]]
    ) -> torch.Tensor | None:
        """All of a weight, without a copy where its parts lie one after another; None till then."""
        self._came[target] += len(copies)
        if len(copies) == len(target.regions) and _adjacent(target, copies):
            first = min(copies, key=lambda copy: copy[0].target_part.offset)[1]
            stride = _contiguous_stride(target.shape)
            del self._came[target]
            return first.as_strided(target.shape, stride, first.storage_offset())
        if target not in self._partial:
            self._partial[target] = torch.empty(target.shape, dtype=target.dtype)
        weight = self._partial[target]
        for region, source in copies:
            region.target_part.view(weight).copy_(source)
        if self._came[target] < len(target.regions):
            return None
        del self._came[target]
        return self._partial.pop(target)


def _adjacent(target: Target, copies: list[tuple[Region, torch.Tensor]]) -> bool:
    """Whether the sources already lie in memory as they will in the parameter."""
    begin = min(source.data_ptr() for _, source in copies)
    return all(
        source.dtype == target.dtype
        and region.target_part.contiguous
        and region.source_part.contiguous
        and source.data_ptr() - begin == region.target_part.offset * source.element_size()
        for region, source in copies
    )


def _onto_itself(func: Any, written: torch.Tensor, args: tuple[Any, ...]) -> bool:
    """Whether a tensor is copied to where it is: so vLLM puts a bias back, which stayed live."""
    if func is not aten.copy_.default:
        return False
    source, same = args[1], ("shape", "dtype", "device")
    alike = all(getattr(source, name) == getattr(written, name) for name in same)
    return alike and source.stride() == written.stride() and source.data_ptr() == written.data_ptr()


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _samples(tensor: torch.Tensor) -> torch.Tensor:
    """Some values of a tensor, evenly spaced; on the CPU."""
    step = max(1, tensor.numel() // SAMPLES)
    index = torch.arange(0, tensor.numel(), step)
    places = np.unravel_index(index.numpy(), tuple(tensor.shape)) if tensor.dim() else ()
    return tensor[tuple(torch.from_numpy(p) for p in places)].detach().cpu().clone()


def _pointer(tensor: torch.Tensor | None) -> int:
    """Where a tensor's memory begins; 0 where it has none, or a subclass hides it."""
    try:
        return 0 if tensor is None else tensor.untyped_storage().data_ptr()
    except (RuntimeError, ValueError):
        return 0
