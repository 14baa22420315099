"""LoRA adapters (Hu et al., 2021) in a trunk: what is trained, and the plain weights they make.

Comes in: a Hugging Face model; goes out: the same model with adapters beside its linear
layers, and each weight with its adapter merged. It does not know DeepSpeed or who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from configs.schema import ModelConfig

ADAPTER = "default"  # the name under which peft keeps the only one


def add_adapters(trunk: nn.Module, cfg: ModelConfig, seed: int) -> None:
    """Freeze a trunk and put adapters, by peft, beside its linear layers; nothing at rank 0.

    They start as zero, so the model says what it said. Every rank draws alike.

    Raises:
        ValueError: one of model.lora_targets names no layer that learns.
    """
    if not cfg.lora_rank:
        return
    from peft import LoraConfig, inject_adapter_in_model  # seconds of imports

    settings = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        target_modules=_chosen(trunk, cfg.lora_targets),
        lora_dropout=0.0,  # log-probabilities must be those of the policy that played
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, trunk, ADAPTER)
    trunk.to(next(trunk.parameters()).dtype)


def _chosen(trunk: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers with adapters: those that learn, the output layer left out."""
    end = trunk.get_output_embeddings()  # type: ignore[operator] # may share the embedding's weight
    layers = [
        name
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Linear) and module is not end and module.weight.requires_grad
    ]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in layers):
            raise ValueError(
                f"model.lora_targets={target}: no linear layer that learns, between the embedding "
                "and the output, has this name"
            )
    ends = tuple(f".{target}" for target in targets) or ("",)
    return [name for name in layers if name.endswith(ends)]


class Adapters:
    """The adapters of a trunk, if there are any, seen from the plain weights.

    Without adapters every method answers as if they were zero.
    """

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = trunk
        layers: list[Any] = [m for m in trunk.modules() if hasattr(m, "lora_A")]
        self._layer_of = {id(layer.base_layer.weight): layer for layer in layers}

    def __bool__(self) -> bool:
        return bool(self._layer_of)

    def plain_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trunk's own parameters, each once, by the names that they have without adapters."""
        theirs = {id(p) for layer in self._layer_of.values() for p in self._parts(layer)}
        for name, parameter in self._trunk.named_parameters():
            if id(parameter) not in theirs:
                yield name.replace(".base_layer.", "."), parameter

    def beside(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """The parameters, and those of their adapters: what `merged` needs whole."""
        found = []
        for parameter in parameters:
            layer = self._layer_of.get(id(parameter))
            found += [parameter, *(self._parts(layer) if layer is not None else ())]
        return found

    def merged(self, parameter: nn.Parameter) -> torch.Tensor:
        """The weight W + (alpha / r) B A (Hu et al., 2021, eq. 3), in its own dtype and shape."""
        layer = self._layer_of.get(id(parameter))
        if layer is None:
            return parameter.detach()
        with torch.no_grad():
            return parameter.detach() + layer.get_delta_weight(ADAPTER).to(parameter.dtype)

    @staticmethod
    def _parts(layer: Any) -> list[nn.Parameter]:
        return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]
