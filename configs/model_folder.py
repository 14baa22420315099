"""A Hugging Face model folder in, its sizes out, or one sentence that says why it is no policy.

The weights are not loaded: numbers come from config.json and the headers of the weight files.
`write_index` names those files, so that engines load them and nothing beside them.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from configs.schema import ModelConfig

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
INDEX = "model.safetensors.index.json"
PARTS = (  # the first whose mark is in a tensor's name
    ("vision", ("vision", "visual", "connector", "projector", "multi_modal")),
    ("embedding", ("embed_tokens", "wte.", "embed_in")),
    ("head", ("lm_head", "embed_out")),
)


@dataclass(frozen=True)
class ModelSize:
    """What a model holds.

    parameters: number by part.
    layers, hidden: depth and width of its text trunk.
    vocabulary: token ids that it knows.
    positions: longest sequence, tokens; None without a limit.
    matrices: shapes of the weights of its linear layers, embedding and output left out.
    """

    parameters: dict[str, int]
    layers: int
    hidden: int
    vocabulary: int
    positions: int | None
    matrices: dict[str, tuple[int, ...]] = field(default_factory=dict)


def on_hub(path: str) -> bool:
    """Whether a path is a hub's `owner/name`, and no folder; models/ is this checkout's own."""
    named = HUB_NAME.fullmatch(path) and not path.startswith("models/")
    return bool(named) and not Path(path).is_dir()


def find_model(path: str) -> Path:
    """The folder of a model, absolute: the one named, or a download of a hub's `owner/name`.

    Raises:
        ConfigError: there is no such folder, and no hub gives such a name.
    """
    if Path(path).is_dir() or not HUB_NAME.fullmatch(path):
        return Path(path).resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the boundary to the hub, whose client raises all kinds
        raise ConfigError(
            f"model.path={path}: there is no such folder, and the hub does not give a model of "
            f"this name: {one_line(error)}"
        ) from error


def check_model(path: str | Path) -> ModelSize:
    """Sizes of the (vision-)language model in a folder, or under a hub's name.

    Raises:
        ConfigError: one sentence: no such folder, a file that is missing or damaged, or a model
            that transformers does not know or that is no causal language model.
    """
    folder, key = find_model(str(path)), f"model.path={path}"
    if not folder.is_dir():
        raise ConfigError(f"{key}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: holds no config.json, so it is no Hugging Face model folder")
    config = _config(folder, key)
    kinds = config.architectures or []
    causal = any("ForCausalLM" in kind or "ForConditionalGeneration" in kind for kind in kinds)
    if not causal or config.is_encoder_decoder:
        raise ConfigError(f"{key}: is {', '.join(kinds) or 'of no named kind'}, no causal LM")
    parameters: Counter[str] = Counter()
    matrices = {}
    for file in _weight_files(folder, key):
        for name, shape in _header(file, key):
            parameters[part_of(name)] += math.prod(shape)
            if is_matrix(name, shape):
                matrices[name] = shape
    text = config.get_text_config()
    return ModelSize(
        dict(parameters),
        getattr(text, "num_hidden_layers", 0),
        text.hidden_size,
        text.vocab_size,
        getattr(text, "max_position_embeddings", None),
        matrices,
    )


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may be a linear layer's weight between embedding and output."""
    inside = part_of(name) not in ("embedding", "head")
    return inside and len(shape) == 2 and name.endswith(".weight")


def adapter_parameters(cfg: ModelConfig, model: ModelSize) -> int:
    """Number of parameters of a run's LoRA adapters, r (in + out) a layer; 0 at rank 0.

    Raises:
        ConfigError: one of model.lora_targets names no linear layer of the model.
    """
    if not cfg.lora_rank:
        return 0
    for target in cfg.lora_targets:
        if not any(name.endswith(f".{target}.weight") for name in model.matrices):
            known = sorted({name.split(".")[-2] for name in model.matrices})
            near = difflib.get_close_matches(target, known, 1, 0.0)
            raise ConfigError(
                f"model.lora_targets={target}: the model has no such linear layer between its "
                f"embedding and its output; the nearest is {near[0] if near else 'none'}"
            )
    ends = tuple(f".{target}.weight" for target in cfg.lora_targets) or ("",)
    chosen = [shape for name, shape in model.matrices.items() if name.endswith(ends)]
    return cfg.lora_rank * sum(sum(shape) for shape in chosen)


def write_index(folder: Path) -> None:
    """Name the model's own weight files in an index.

    Without one vLLM loads every *.safetensors of a folder, the value head too, and refuses it.
    """
    tensors = {
        name: file.name
        for file in sorted(folder.glob("model*.safetensors"))
        for name, _ in _header(file, str(folder))
    }
    index = {"metadata": {}, "weight_map": tensors}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))


def one_line(error: BaseException) -> str:
    """What an error of a library says, without its line breaks and its advice."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _config(folder: Path, key: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # the boundary to transformers, which raises all kinds
        raise ConfigError(f"{key}: config.json cannot be used: {one_line(error)}") from error


def _weight_files(folder: Path, key: str) -> list[Path]:
    """The files that transformers would load; the value head is none of them."""
    index = folder / INDEX
    if not index.is_file():
        files = [folder / "model.safetensors"]
    else:
        try:
            names = json.loads(index.read_text())["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{key}: {index.name} cannot be read: {one_line(error)}") from error
        files = [folder / name for name in sorted(set(names))]
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{key}: holds no {file.name}; weights must be *.safetensors")
    return files


def _header(file: Path, key: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                yield name, tuple(tensors.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{key}: {file.name} is damaged: {one_line(error)}") from error


def part_of(name: str) -> str:
    """The part of a model that a tensor belongs to: vision, embedding, head or layers."""
    for part, marks in PARTS:
        if any(mark in name for mark in marks):
            return part
    return "layers"
