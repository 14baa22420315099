"""A run as its learner ranks see it, from which all parts of the memory account are reckoned."""

from __future__ import annotations

import math
from typing import NamedTuple

from configs.model_folder import ModelSize, adapter_parameters
from configs.schema import RunConfig

MIB, GIB = 2**20, 2**30
BYTES = {"float32": 4, "bfloat16": 2}


class Rank(NamedTuple):
    """A run as its ranks see it: the configuration and the sizes of the policy."""

    cfg: RunConfig
    model: ModelSize

    @property
    def size(self) -> int:
        """Bytes of a weight."""
        return BYTES[self.cfg.model.dtype]

    @property
    def parameters(self) -> int:
        """Of the whole policy."""
        return sum(self.model.parameters.values())

    @property
    def trained(self) -> int:
        """Parameters that learn: all, or adapters and value head."""
        if self.cfg.model.lora_rank:
            head = self.model.parameters.get("value head", 0)
            return adapter_parameters(self.cfg.model, self.model) + head
        return self.parameters

    @property
    def largest(self) -> int:
        """Elements of the largest tensor: embedding, output layer, or a matrix."""
        return max(self.widest, self.model.vocabulary * self.model.hidden)

    @property
    def widest(self) -> int:
        """Elements of the largest matrix of a layer."""
        return max((math.prod(shape) for shape in self.model.matrices.values()), default=0)

    @property
    def tokens(self) -> int:
        """Of a microbatch, those that a rank computes."""
        return self.cfg.learner.microbatch_tokens // self.cfg.learner.sequence_parallel

    @property
    def stage(self) -> int:
        """The ZeRO stage that DeepSpeed runs (learner.deepspeed_config)."""
        return max(self.cfg.learner.zero_stage, int(self.size == 2))

    @property
    def sums_whole(self) -> bool:
        """Whether each rank adds up all gradients, in float32, in a buffer that stays.

        So does DeepSpeed's BF16_Optimizer, which is that of stage 1 in bfloat16 without offload.
        """
        return self.size == 2 and self.stage == 1 and not self.cfg.learner.offload

    @property
    def offloads_gradients(self) -> bool:
        """Whether the host adds up gradients beside those it steps with: ZeRO-3, 2 in float32."""
        there = self.stage == 3 or (self.stage == 2 and self.size == 4)
        return there and self.cfg.learner.offload

    def share(self, from_stage: int) -> int:
        """How many ranks divide what ZeRO partitions from this stage on."""
        return self.cfg.learner.ranks if self.stage >= from_stage else 1
