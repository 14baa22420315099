"""The trunk in a Hugging Face folder: its class and configuration, with its weights or without.

Input: a folder. Output: the (vision-)language model of transformers, or one sentence that says why
it cannot be trained.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)


def model_config(folder: Path) -> PretrainedConfig:
    """The configuration in a Hugging Face folder, without dropout.

    Dropout is off because log-probabilities must be those of the policy that sampled.

    Raises:
        ValueError: the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"model.path is {folder}; there is no config.json in it")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    parts = (config, config.get_text_config(), getattr(config, "vision_config", None))
    for part in {id(c): c for c in parts if c is not None}.values():
        for name, value in list(vars(part).items()):
            if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class of the (vision-)language model that a configuration names.

    Raises:
        ValueError: transformers has no causal language model of this configuration.
    """
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    classes = [
        cast("type[PreTrainedModel]", mapping[type(config)])
        for mapping in mappings
        if type(config) in mapping
    ]
    names = config.architectures or ()
    for cls in classes:
        if cls.__name__ in names:
            return cls
    raise ValueError(
        f"the model is {', '.join(names) or 'of no named kind'}; the (vision-)language models that "
        f"transformers has for {config.model_type} are "
        f"{', '.join(cls.__name__ for cls in classes) or 'none'}"
    )


def load_trunk(folder: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """A (vision-)language model from a Hugging Face folder, in dtype, without dropout.

    Raises:
        ValueError: the folder holds no model that can be trained; see `empty_trunk`.
    """
    config = model_config(folder)
    return _trainable(
        model_class(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
        )
    )


def empty_trunk(
    folder: Path, dtype: torch.dtype | None = None, attention: str = "eager"
) -> PreTrainedModel:
    """The same model without weights, on torch's meta device: its modules, names and shapes.

    Args:
        folder: Hugging Face model folder.
        dtype: of its parameters; None for that of config.json.
        attention: eager is what every class has, and needs no package.

    Raises:
        ValueError: the folder holds no model, one without an output layer, one that needs more
            than tokens, or one whose attention is not causal, also of prompts alone.
    """
    config = model_config(folder)
    kind = {} if dtype is None else {"dtype": dtype}
    with torch.device("meta"):
        return _trainable(
            model_class(config)._from_config(config, attn_implementation=attention, **kind)
        )


def check_dtype(trunk: PreTrainedModel, dtype: torch.dtype) -> None:
    """Refuse a dtype to which parameters would be rounded that transformers keeps in float32.

    As routers, whose choice turns on the last digits; DeepSpeed computes with one dtype for all.

    Args:
        trunk: made in this dtype (`empty_trunk`): what its class itself makes in another one stays
            so, and what it only plans to keep does not show.
        dtype: the run's.

    Raises:
        ValueError: there are such parameters; names the first.
    """
    patterns = "|".join(name.replace("*", ".*") for name in trunk._get_dtype_plan(dtype))
    kept = [
        name
        for name, parameter in trunk.named_parameters()
        if parameter.dtype != dtype or (patterns and re.search(patterns, name))
    ]
    if kept:
        raise ValueError(
            f"{type(trunk).__name__} keeps {kept[0]} and {len(kept) - 1} others in float32, which "
            f"model.dtype={str(dtype).removeprefix('torch.')} would round; use model.dtype=float32"
        )


def cast_parameters(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Bring all parameters to one dtype, and leave the buffers in theirs.

    Rotary frequencies in bfloat16 turn a token at position 4000 by two radians too far.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _trainable(trunk: PreTrainedModel) -> PreTrainedModel:
    """The trunk itself, if it gives logits for tokens alone, each by the tokens before it."""
    name = type(trunk).__name__
    if trunk.get_output_embeddings() is None:
        raise ValueError(f"{name} has no output layer that gives logits")
    required = [
        parameter.name
        for parameter in inspect.signature(type(trunk).forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    more = [key for key in required if key not in ("self", "input_ids")]
    if more:
        raise ValueError(f"{name} cannot be run on tokens alone: it needs {', '.join(more)} too")
    layers = (trunk.get_decoder() or trunk).modules()
    if any(getattr(layer, "is_causal", None) is False for layer in layers):
        raise ValueError(
            f"{name} cannot be trained: the attention of its language model is not causal, so a "
            "token's log-probability would depend on the tokens after it"
        )
    if hasattr(trunk.config.get_text_config(), "prefix_lm"):
        raise ValueError(
            f"{name} cannot be trained: vLLM lets its prompts read ahead (prefix_lm), and the "
            "learner's attention is causal"
        )
    return trunk
