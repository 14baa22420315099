"""How a trunk's weights are named and cut in a checkpoint, which is how engines know them.

Transformers renames some models' weights when it loads them, and merges others (all experts of a
layer into one parameter). Both are undone here, part by part, so that no more is in memory at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from rollout.bucket import NamedTensor

WeightShape = tuple[str, torch.dtype, tuple[int, ...]]  # name, dtype, full shape
LAYER = re.compile(r".*?\.\d+\.")


@dataclass(frozen=True)
class CheckpointPart:
    """Weights of a trunk that become tensors of a checkpoint together.

    names: the trunk's own; one, or those of a layer that are merged from several tensors.
    shapes: of the checkpoint's tensors.
    renamed: whether it is one weight that has only another name.
    """

    names: tuple[str, ...]
    shapes: tuple[WeightShape, ...]
    renamed: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(map(shape_bytes, self.shapes))


class CheckpointLayout:
    """The parts of a trunk's checkpoint; made before adapters are added.

    Raises:
        ValueError: the merged weights of a layer cannot be cut without those of another.
    """

    def __init__(self, trunk: PreTrainedModel) -> None:
        self._trunk = trunk
        empty = {
            name: torch.empty(full_shape(weight), dtype=weight.dtype, device="meta")
            for name, weight in trunk_weights(trunk)
        }
        saved = revert_weight_conversion(trunk, empty)
        name_of = {id(tensor): name for name, tensor in saved.items()}
        merged: dict[str, list[str]] = {}  # by layer
        for name, tensor in empty.items():
            if id(tensor) not in name_of:
                merged.setdefault(_layer(name), []).append(name)
        self.parts: list[CheckpointPart] = []
        for name, tensor in empty.items():
            if id(tensor) in name_of:
                shape = (name_of[id(tensor)], tensor.dtype, tuple(tensor.shape))
                self.parts.append(CheckpointPart((name,), (shape,), renamed=True))
            elif names := merged.pop(_layer(name), None):
                parts = revert_weight_conversion(trunk, {name: empty[name] for name in names})
                shapes = tuple((n, t.dtype, tuple(t.shape)) for n, t in parts.items())
                self.parts.append(CheckpointPart(tuple(names), shapes, renamed=False))
        if sorted(self.shapes()) != sorted((n, t.dtype, tuple(t.shape)) for n, t in saved.items()):
            raise ValueError(
                f"{type(trunk).__name__}: transformers merges weights of several layers into one, "
                "which cannot be published layer by layer"
            )

    def shapes(self) -> list[WeightShape]:
        """Name, dtype and shape of every tensor of the checkpoint, part by part."""
        return [shape for part in self.parts for shape in part.shapes]

    def tensors(
        self, part: CheckpointPart, weights: Mapping[str, torch.Tensor]
    ) -> list[NamedTensor]:
        """The checkpoint's tensors of a part, as named in its shapes; views where possible.

        Args:
            part: one of `parts`.
            weights: full weights by the trunk's own names.
        """
        own = {name: weights[name] for name in part.names}
        if part.renamed:
            return [(part.shapes[0][0], own[part.names[0]])]
        saved = revert_weight_conversion(self._trunk, own)
        return [(name, saved[name].contiguous()) for name, _, _ in part.shapes]


def trunk_weights(trunk: PreTrainedModel) -> Iterator[NamedTensor]:
    """What a checkpoint holds, each once: the parameters, and buffers such as routers' biases."""
    yield from trunk.named_parameters()
    saved = trunk.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in trunk.named_buffers() if name in saved)


def full_shape(weight: torch.Tensor) -> torch.Size:
    """The shape of a weight, also of one that ZeRO-3 has partitioned."""
    shape: torch.Size = getattr(weight, "ds_shape", weight.shape)
    return shape


def shape_bytes(shape: WeightShape) -> int:
    """Bytes of one tensor."""
    return shape[1].itemsize * torch.Size(shape[2]).numel()


def block(name: str) -> str:
    """Where a weight is: its layer, or without one what its module is a part of.

    Engines merge weights within a block, such as those of queries, keys and values.
    """
    return _layer(name) or name.rpartition(".")[0].rpartition(".")[0]


def _layer(name: str) -> str:
    """The name's beginning up to its first number: that of its layer."""
    match = LAYER.match(name)
    return match[0] if match else ""
