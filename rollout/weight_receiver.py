"""Receives weights inside vLLM's worker process, through vLLM's own weight-transfer API.

A bucket is a part of a file, Ray's object store or another; the message has its place and header.
Importing this module, as vLLM does for `worker_extension_cls`, registers the channel without a
plugin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform

from rollout.bucket import BucketHeader, unpack
from rollout.bucket_file import MappedFiles
from rollout.freed_memory import keep_freed_memory
from rollout.load_plan import CopyRecorder, LoadPlan, Target
from rollout.parent_watch import end_with

CHANNEL = "cardinal_object_store"


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Empty: the channel needs no rendezvous."""


@dataclass
class BucketMessage(WeightTransferUpdateInfo):
    """One bucket: its place in a file, from byte `offset` on, and `BucketHeader.to_dict`.

    lasts: the file outlives the update.
    """

    path: str
    offset: int
    header: dict[str, Any]
    lasts: bool


class ObjectStoreReceiver(WeightTransferEngine[ObjectStoreInit, BucketMessage]):
    """Loads buckets into the running model.

    vLLM calls, in each update: `start_weight_update`, `receive_weights` for every bucket,
    `finish_weight_update`.

    The first update goes through vLLM's layerwise reload, which builds every layer anew and takes
    many times as long as a copy. What it copies is recorded: the following updates make the same
    copies, straight from shared memory, where that gives the same (`LoadPlan`). Where it does not,
    because a layer is quantized or a mixture of experts, or the engine sleeps and loses its memory,
    each update is as the first.
    """

    init_info_cls = ObjectStoreInit
    update_info_cls = BucketMessage
    supports_draft_weight_update = False

    def __init__(
        self,
        config: WeightTransferConfig,
        vllm_config: VllmConfig,
        device: torch.device,
        model: torch.nn.Module,
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.plan: LoadPlan | None = None
        self._recorder = CopyRecorder(model)
        self._files = MappedFiles()

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Prepare the layers to be loaded again."""
        if self.plan is None:
            self._begin_reload()

    def _begin_reload(self) -> None:
        self._recorder = CopyRecorder(self.model)
        self._expert_kernels = self._take_expert_kernels()
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketMessage) -> None:
        """Load one bucket; its memory holds another one afterwards."""
        header, message = BucketHeader(**update_info.header), update_info
        data = self._files.read(message.path, message.offset, header.bytes, message.lasts)
        if self.plan is not None and not self.plan.covers(header):
            self.plan.finish()  # nothing of it waits for the rest of a weight
            self.plan = None
            self._begin_reload()  # layers that have their weights keep them
        if self.plan is not None:
            self.plan.load(unpack(header, data), self._repack)
            return
        copied = np.array(data)  # vLLM keeps the tensors of a layer until all of them have come
        named = unpack(header, copied)
        self._recorder.add_sources(copied, named)
        model: Any = self.model
        with self._recorder:
            model.load_weights(named)

    def finish_weight_update(self) -> None:
        """Put the loaded layers into use."""
        self._files.close()
        if self.plan is not None:
            self.plan.finish()
            layers: Iterable[Any] = self.model.modules()
            for layer in layers:
                if is_deferred_attention_layer(layer):  # some keep products of others' weights
                    layer.process_weights_after_loading(self.model_config.dtype)
        else:
            with self._recorder:
                finalize_layerwise_reload(self.model, self.model_config)
            for method, kernel in self._expert_kernels:
                if method.moe_kernel is None:  # nothing of this layer has arrived
                    method.moe_kernel = kernel
            if not self.vllm_config.model_config.enable_sleep_mode:  # what is not copied is lost
                self.plan = self._recorder.plan(_may_copy, _is_packed)
                if self.plan is not None and current_platform.is_cpu():
                    keep_freed_memory()  # a packed weight goes to where the one before it was
        self.refresh_packed_linears()

    def _repack(self, module: Any, weight: torch.Tensor) -> None:
        """Give a linear layer of a CPU its weight, of which it keeps a packed copy only."""
        empty, module.cpu_linear = module.weight, None  # the memory of the old copy is used again
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        module.quant_method.process_weights_after_loading(module)
        module.weight = empty

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
        """Renew the packed copies that layers on a CPU keep beside their weights.

        vLLM's layerwise reload leaves out the output layer: without this it would continue sampling
        from the weights of the engine's start, without an error. Layers that share a weight share
        its copy.
        """
        packed: dict[int, Any] = {}
        module: Any
        for module in self.model.modules():
            if not (hasattr(module, "cpu_linear") and hasattr(module, "quant_method")):
                continue
            weight = module.weight
            if weight.numel() and weight.data_ptr() not in packed:
                module.cpu_linear = None
                module.quant_method.process_weights_after_loading(module)
                packed[weight.data_ptr()] = module.cpu_linear
            if weight.numel():
                module.cpu_linear = packed[weight.data_ptr()]

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def _may_copy(module: torch.nn.Module) -> bool:
    """Whether a module computes with its weights as they are in a checkpoint."""
    method = getattr(module, "quant_method", None)
    plain = method is None or type(method) in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    return plain and not is_deferred_attention_layer(module)


def _is_packed(target: Target) -> bool:
    """Whether it is the weight of a linear layer on a CPU, of which only a packed copy is kept."""
    module: Any = target.module
    return (
        target.name == "weight"
        and type(getattr(module, "quant_method", None)) is UnquantizedLinearMethod
        and hasattr(module, "cpu_linear")
        and not module.weight.numel()
        and not current_platform.is_zen_cpu()  # its kernels may keep the weight itself
    )


class WeightReceiver:
    """vLLM's worker extension; naming it makes vLLM import this module too."""

    def end_with(self, pid: int) -> None:
        """See `rollout.parent_watch.end_with`."""
        end_with(pid)


if CHANNEL not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(CHANNEL, ObjectStoreReceiver)
