"""The full weights of a trunk, gathered from ZeRO's partitions, with adapters merged or apart.

Input: a trunk and a function that gathers parameters. Output: buckets for the rollout engines and
for a model folder. Weights-are-proven: perturbs one kind of weight for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn
from transformers import PreTrainedModel

from learner import distributed, weight_noise
from learner.checkpoint_layout import (
    CheckpointLayout,
    CheckpointPart,
    WeightShape,
    block,
    full_shape,
    shape_bytes,
)
from learner.lora import Adapters
from learner.model import WEIGHT_KINDS, weight_kind
from learner.partitioned import own_share
from rollout.adapters import Adapter, named_adapter
from rollout.bucket import NamedTensor, buckets, cut

Bucket = list[NamedTensor]
WeightShapes = list[WeightShape]
Gather = Callable[[list[nn.Parameter]], AbstractContextManager[object]]


class GatheredWeights:
    """Full weights of a trunk.

    Args:
        trunk: a Hugging Face model, with or without adapters.
        gather: makes a context manager in which parameters are full tensors.
        layout: of the trunk's checkpoint, made before adapters were added.

    Attributes:
        perturbed: kind and seed of `perturb`, until `restore`.
    """

    def __init__(self, trunk: PreTrainedModel, gather: Gather, layout: CheckpointLayout) -> None:
        self._trunk, self._gather, self._layout = trunk, gather, layout
        self.adapters = Adapters(trunk)
        self.perturbed: tuple[str, int] | None = None
        self._learning = self._learning_blocks()

    def shapes(self) -> WeightShapes:
        """Name, dtype and full shape of what `buckets` yields, in its order; not collective."""
        return self._layout.shapes()

    def buckets(
        self,
        limit_bytes: int,
        everywhere: bool = False,
        merged: bool = True,
        frozen: bool | None = None,
    ) -> Iterator[Bucket]:
        """A checkpoint's tensors in buckets of at most `limit_bytes`; a collective call.

        Tied weights come once. A bucket is valid until the next one is requested; ranks other
        than 0 get as many empty buckets unless `everywhere`. Unless `merged` adapters are left out.
        frozen: only blocks in which nothing learns, or (False) only the others.
        """
        chosen = [p for p in self._layout.parts if frozen in (None, self._is_frozen(p))]
        for parts, weights in self._gathered(chosen, limit_bytes, everywhere, merged):
            if weights is None:
                shapes = (shape for part in parts for shape in part.shapes)
                yield from ([] for _ in cut(shapes, limit_bytes, shape_bytes))
            else:
                tensors = (t for part in parts for t in self._layout.tensors(part, weights))
                yield from buckets(tensors, limit_bytes)

    def adapter_buckets(self, limit_bytes: int) -> Iterator[Bucket]:
        """The adapters, for `rollout.adapters`; as `buckets`, on rank 0; a collective call.

        Raises:
            ValueError: a checkpoint cuts a weight that has one into several tensors.
        """
        names = {part.names[0]: part.shapes[0][0] for part in self._layout.parts if part.renamed}
        adapters = list(self.adapters.factors())
        for name, *_ in adapters:
            if name not in names:
                raise ValueError(
                    f"cluster.lora_sync=adapters: a checkpoint holds {name} in parts, of which the "
                    "adapter is none; cluster.lora_sync=merged does without"
                )
        for group in cut(adapters, limit_bytes, lambda item: sum(map(_full_bytes, item[1]))):
            with self._gather([p for _, factors, _ in group for p in factors]):
                bucket: Bucket = []
                for name, (a, b), scaling in group if distributed.rank() == 0 else ():
                    bucket += named_adapter(names[name], Adapter(a.data, b.data, scaling))
                yield bucket

    def _learning_blocks(self) -> set[str]:
        learning = {name for name, *_ in self.adapters.factors()}
        weights = self.adapters.plain_weights()
        return {block(name) for name, w in weights if w.requires_grad or name in learning}

    def _is_frozen(self, part: CheckpointPart) -> bool:
        return self._learning.isdisjoint(block(name) for name in part.names)

    def _gathered(
        self, chosen: list[CheckpointPart], limit_bytes: int, everywhere: bool, merged: bool
    ) -> Iterator[tuple[list[CheckpointPart], dict[str, torch.Tensor] | None]]:
        """Chosen parts, about `limit_bytes` at a time, and their weights by the trunk's own names.

        None in the place of weights on ranks other than 0, unless `everywhere`.
        """
        plain = dict(self.adapters.plain_weights())
        value = self.adapters.merged if merged else torch.Tensor.detach
        for parts in cut(chosen, limit_bytes, lambda part: part.nbytes):
            weights = {name: plain[name] for part in parts for name in part.names}
            with self._gather(self.adapters.with_adapters(weights.values())):
                own = everywhere or distributed.rank() == 0
                yield parts, {n: value(w) for n, w in weights.items()} if own else None

    def perturb(self, kind: str, seed: int) -> bool:
        """Add noise to the weights of one kind, until `restore`; each rank to its own share.

        Args:
            kind: one of learner.model.WEIGHT_KINDS.
            seed: of the noise.

        Returns:
            False when the model has no weights of this kind (a tied head, say).
        """
        if kind not in WEIGHT_KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {WEIGHT_KINDS}")
        assert self.perturbed is None, "perturb before restore"
        changed = self._flip(kind, seed)
        if changed:
            self.perturbed = (kind, seed)
        return changed

    def restore(self) -> None:
        """Put back exactly what `perturb` changed."""
        if self.perturbed is not None:
            self._flip(*self.perturbed)
        self.perturbed = None

    def _flip(self, kind: str, seed: int) -> bool:
        chosen = [
            (name, parameter)
            for name, parameter in self._trunk.named_parameters()
            if weight_kind(name, self._trunk) == kind
        ]
        for name, parameter in chosen:
            weights, first = own_share(parameter)
            weight_noise.flip(weights, first, name, seed)
        return bool(chosen)


def _full_bytes(parameter: nn.Parameter) -> int:
    return full_shape(parameter).numel() * parameter.element_size()
