"""LoRA adapters (Hu et al., 2021): adds them to a trunk, and merges them into its plain weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from configs.schema import ModelConfig
from learner.checkpoint_layout import trunk_weights
from learner.trunk import cast_parameters
from rollout.bucket import NamedTensor

ADAPTER = "default"  # the name under which peft keeps the only one


class LoraLayer(Protocol):
    """What is used of peft's layer around a linear layer."""

    base_layer: nn.Linear
    lora_A: nn.ModuleDict
    lora_B: nn.ModuleDict
    scaling: dict[str, float]

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """(alpha / r) B A."""


def add_adapters(trunk: PreTrainedModel, cfg: ModelConfig, seed: int) -> None:
    """Freeze a trunk and add peft's adapters to its linear layers; nothing at model.lora_rank=0.

    They start as zero, so the policy does not change. They are equal on every rank.

    Raises:
        ValueError: see `target_layers`.
    """
    if not cfg.lora_rank:
        return
    from peft import LoraConfig, inject_adapter_in_model  # seconds of imports

    settings = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        target_modules=target_layers(trunk, cfg),
        lora_dropout=0.0,  # log-probabilities must be those of the policy that sampled
        bias="none",
    )
    dtype = next(trunk.parameters()).dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, trunk, ADAPTER)
    cast_parameters(trunk, dtype)


def target_layers(trunk: PreTrainedModel, cfg: ModelConfig) -> list[str]:
    """Names of the linear layers that get adapters: trainable ones, without the output layer.

    Raises:
        ValueError: one of model.lora_targets names no trainable layer, or there is none.
    """
    output = trunk.get_output_embeddings()  # may share the embedding's weight
    layers = [
        name
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Linear) and module is not output and module.weight.requires_grad
    ]
    if not layers:
        raise ValueError(
            f"model.lora_rank={cfg.lora_rank}: {type(trunk).__name__} has no linear layer that "
            "learns between its embedding and its output"
        )
    for target in cfg.lora_targets:
        if not any(name.endswith(f".{target}") for name in layers):
            raise ValueError(
                f"model.lora_targets={target}: no linear layer that learns, between the embedding "
                "and the output, has this name"
            )
    suffixes = tuple(f".{target}" for target in cfg.lora_targets) or ("",)
    return [name for name in layers if name.endswith(suffixes)]


class Adapters:
    """The adapters of a trunk, if there are any, and the plain weights that they change.

    Without adapters every weight is its own merged weight.
    """

    def __init__(self, trunk: PreTrainedModel) -> None:
        self._trunk = trunk
        layers = [cast(LoraLayer, m) for m in trunk.modules() if hasattr(m, "lora_A")]
        self._layer_of = {id(layer.base_layer.weight): layer for layer in layers}

    def __bool__(self) -> bool:
        return bool(self._layer_of)

    def plain_weights(self) -> Iterator[NamedTensor]:
        """The trunk's own weights, each once, by the names that they have without adapters."""
        of_adapters = {id(p) for layer in self._layer_of.values() for p in _parameters(layer)}
        for name, weight in trunk_weights(self._trunk):
            if id(weight) not in of_adapters:
                yield name.replace(".base_layer.", "."), weight

    def factors(self) -> Iterator[tuple[str, list[nn.Parameter], float]]:
        """By plain weight its name, the A [r, in] and B [out, r] of its adapter, and alpha / r."""
        for name, weight in self.plain_weights():
            if layer := self._layer_of.get(id(weight)):
                yield name, _parameters(layer), layer.scaling[ADAPTER]

    def with_adapters(self, weights: Iterable[torch.Tensor]) -> list[nn.Parameter]:
        """The parameters among plain weights, and those of their adapters: what ZeRO partitions."""
        result = []
        for weight in weights:
            layer = self._layer_of.get(id(weight))
            result += [weight] if isinstance(weight, nn.Parameter) else []
            result += _parameters(layer) if layer is not None else []
        return result

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight W + (alpha / r) B A (Hu et al., 2021, eq. 3), in its own dtype and shape."""
        layer = self._layer_of.get(id(weight))
        if layer is None:
            return weight.detach()
        with torch.no_grad():
            return weight.detach() + layer.get_delta_weight(ADAPTER).to(weight.dtype)


def _parameters(layer: LoraLayer) -> list[nn.Parameter]:
    return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]
