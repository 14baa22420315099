"""Receives weights inside vLLM's worker process, through vLLM's own weight-transfer API.

A bucket is a file in shared memory; the update message has its path and header. Importing this
module, as vLLM does for `worker_extension_cls`, registers the channel without a plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform

from rollout.bucket import BucketHeader, unpack

CHANNEL = "cardinal_object_store"


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Empty: the channel needs no rendezvous."""


@dataclass
class BucketMessage(WeightTransferUpdateInfo):
    """One bucket: its file in shared memory, and its header (`BucketHeader.to_dict`)."""

    path: str
    header: dict[str, Any]


class ObjectStoreReceiver(WeightTransferEngine[ObjectStoreInit, BucketMessage]):
    """Loads buckets into the running model.

    vLLM calls, in each update: `start_weight_update`, `receive_weights` for every bucket,
    `finish_weight_update`.
    """

    init_info_cls = ObjectStoreInit
    update_info_cls = BucketMessage

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Prepare every layer to be loaded again."""
        self._expert_kernels = self._take_expert_kernels()
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketMessage) -> None:
        """Load one bucket; tensors are read in place from shared memory."""
        data = np.memmap(update_info.path, np.uint8, mode="r+")
        model: Any = self.model
        model.load_weights(unpack(BucketHeader(**update_info.header), data))

    def finish_weight_update(self) -> None:
        """Put the loaded layers into use."""
        finalize_layerwise_reload(self.model, self.model_config)
        self.refresh_packed_linears()
        for method, kernel in self._expert_kernels:
            if method.moe_kernel is None:  # nothing of this layer has arrived
                method.moe_kernel = kernel

    def _take_expert_kernels(self) -> list[tuple[Any, Any]]:
        """Take the kernels of mixture-of-experts layers away, so that new weights are packed.

        On a CPU these layers hold packed weights. vLLM packs them only where there is no kernel
        yet: with one, it would compute with the new weights unpacked, without an error.
        """
        methods: list[Any] = [getattr(m, "quant_method", None) for m in self.model.modules()]
        kernels = []
        for method in methods if current_platform.is_cpu() else ():
            if getattr(method, "moe_kernel", None) is not None:
                kernels.append((method, method.moe_kernel))
                method.moe_kernel = None
        return kernels

    def refresh_packed_linears(self) -> None:
        """Renew the packed copies of their weights that linear layers keep on a CPU.

        vLLM's layerwise reload leaves out the output layer: without this it would continue sampling
        from the weights of the engine's start, without an error.
        """
        module: Any
        for module in self.model.modules():
            if hasattr(module, "cpu_linear") and hasattr(module, "quant_method"):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class WeightReceiver:
    """vLLM's worker extension: it adds no method; naming it makes vLLM import this module."""


if CHANNEL not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(CHANNEL, ObjectStoreReceiver)
