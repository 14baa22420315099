"""Receiving weights inside vLLM's worker process, through vLLM's own weight-transfer API.

A bucket lies as a file in shared memory; its path and header arrive as the update message.
Importing this module (as `worker_extension_cls`) registers the channel, so a bare checkout
needs no installed plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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

from rollout.bucket import Header, unpack

CHANNEL = "cardinal_object_store"


@dataclass
class NoInit(WeightTransferInitInfo):
    """The channel needs no rendezvous."""


@dataclass
class BucketMessage(WeightTransferUpdateInfo):
    """One bucket: the shared-memory file that holds it, and its header as a dict."""

    path: str
    header: dict[str, Any]


class ObjectStoreChannel(WeightTransferEngine[NoInit, BucketMessage]):
    """Loads buckets into the running model."""

    init_info_cls = NoInit
    update_info_cls = BucketMessage

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Prepare every layer to be loaded again."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketMessage) -> None:
        """Load one bucket; tensors are read in place from shared memory."""
        data = np.memmap(update_info.path, np.uint8, mode="r+")
        model: Any = self.model
        model.load_weights(unpack(Header(**update_info.header), data))

    def finish_weight_update(self) -> None:
        """Put the loaded layers into use."""
        finalize_layerwise_reload(self.model, self.model_config)
        self.refresh_packed_linears()

    def refresh_packed_linears(self) -> None:
        """Pack anew what the CPU's linear layers keep packed.

        The output layer is not reloaded layer by layer: without this it goes on sampling from
        the weights of the engine's start, and nothing complains.
        """
        module: Any
        for module in self.model.modules():
            if hasattr(module, "cpu_linear") and hasattr(module, "quant_method"):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class WeightReceiver:
    """vLLM's worker extension; what matters is that its import registers the channel."""

    def weight_norms(self) -> dict[str, float]:
        """L2 norm of every parameter as loaded, by vLLM's own names (for debugging)."""
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        return {n: float(torch.linalg.vector_norm(p.float())) for n, p in model.named_parameters()}


if CHANNEL not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(CHANNEL, ObjectStoreChannel)
