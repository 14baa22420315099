"""Hugging Face model folders: found by path or hub name, checked, and measured.

No weights are loaded: numbers come from config.json and the headers of the weight files.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import ConfigError
from configs.positions import longest_sequence, longrope_positions
from configs.schema import ModelConfig
from configs.text import nearest, one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
READ_AS_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
INDEX = "model.safetensors.index.json"
PARTS = (  # the first with a mark in a tensor's name
    ("vision", ("vision", "visual", "connector", "projector", "multi_modal")),
    ("embedding", ("embed_tokens", "wte.", "embed_in")),
    ("head", ("lm_head", "embed_out")),
)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model.

    parameters: number of parameters by part (`part_of`).
    layers, hidden: depth and width of the text trunk.
    vocabulary: number of token ids.
    positions: longest sequence, tokens; None without a limit. Of longrope the original ones: past
        them a sequence has other factors, and so has what stands in its microbatch.
    matrices: shapes of the linear layers' weights, without embedding and output layer.
    patches: tokens of the vision encoder for one picture, where all pictures have as many.
    active_experts: of the experts in `matrices`, the share that a token passes through.
    """

    parameters: dict[str, int]
    layers: int
    hidden: int
    vocabulary: int
    positions: int | None
    matrices: dict[str, Shape] = field(default_factory=dict)
    patches: int = 0
    active_experts: float = 1.0


def on_hub(path: str) -> bool:
    """Whether a path is a hub's `owner/name`, not a folder; models/ belongs to the checkout."""
    is_name = HUB_NAME.fullmatch(path) and not path.startswith("models/")
    return bool(is_name) and not Path(path).is_dir()


def find_model(path: str) -> Path:
    """The absolute folder of a model: the path itself, or a download of a hub's `owner/name`.

    Raises:
        ConfigError: there is no such folder, and the hub has no such model.
    """
    if not on_hub(path):
        return Path(path).resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the boundary to the hub, whose client raises all kinds
        raise ConfigError(
            f"model.path={path}: there is no such folder, and the hub does not give a model of "
            f"this name: {one_line(error)}"
        ) from error


def reason(error: Exception) -> str:
    """Why transformers cannot read a folder, in one line.

    Of code in the folder it says how to allow it, which Cardinal never does.
    """
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code of its own (auto_map in its files), and Cardinal runs no code of "
            "a model folder; use a model, and a tokenizer, that transformers has itself"
        )
    return one_line(error)


def check_model(path: str | Path) -> ModelSize:
    """Check the (vision-)language model in a folder, or under a hub's name; returns its sizes.

    Raises:
        ConfigError: one sentence: no such folder, a missing or damaged file, or a model that
            transformers does not know, that is no causal language model, or that is quantized.
    """
    folder, key = find_model(str(path)), f"model.path={path}"
    config = _causal_config(folder, key)
    text = config.get_text_config()
    named = {"max_position_embeddings": getattr(text, "max_position_embeddings", None)}
    size = size_of(
        weight_shapes(folder, key).items(),
        layers=getattr(text, "num_hidden_layers", 0),
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        positions=longrope_positions(text.to_dict()) or longest_sequence(text.to_dict() | named),
    )
    return replace(size, patches=_patches(config), active_experts=_active_experts(text))


def _patches(config: PretrainedConfig) -> int:
    """Tokens of the vision encoder for one picture; 0 where pictures are of any size, or none."""
    vision = getattr(config, "vision_config", None)
    side, patch = (getattr(vision, f"{name}_size", None) for name in ("image", "patch"))
    return (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) else 0


def _active_experts(text: PretrainedConfig) -> float:
    """The share of a layer's experts that a token passes through; 1 without experts."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((n for name in names if (n := getattr(text, name, None))), 0)
    active = getattr(text, "num_experts_per_tok", None)
    return min(1.0, active / experts) if experts and active else 1.0


def weight_shapes(folder: Path, key: str) -> dict[str, Shape]:
    """Shape of each tensor in the weight files of a folder, from their headers.

    Args:
        folder: of the model.
        key: what its error sentences begin with.

    Raises:
        ConfigError: a file is absent or damaged.
    """
    return dict(t for file in weight_files(folder, key) for t in _tensors(file, key))


def weights_size(path: str) -> ModelSize:
    """As `check_model`, of a folder's weight files alone: depth, width and vocabulary are 0.

    Raises:
        ConfigError: a weight file is missing or damaged.
    """
    return size_of(weight_shapes(Path(path), f"model.path={path}").items(), 0, 0, 0, None)


def size_of(
    tensors: Iterable[tuple[str, Shape]],
    layers: int,
    hidden: int,
    vocabulary: int,
    positions: int | None,
) -> ModelSize:
    """The sizes of a model with these tensors, by name and shape."""
    parameters: Counter[str] = Counter()
    matrices = {}
    for name, shape in tensors:
        parameters[part_of(name)] += math.prod(shape)
        if is_matrix(name, shape):
            matrices[name] = shape
    return ModelSize(dict(parameters), layers, hidden, vocabulary, positions, matrices)


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a file of a vocabulary."""
    return any(file for pattern in VOCABULARIES for file in folder.glob(pattern))


def check_tokenizer(path: str | Path) -> None:
    """Refuse a folder, or a hub's model, whose tokenizer is missing or in a damaged file.

    Of nothing transformers makes an empty one, and the first visible fault is then another.

    Raises:
        ConfigError: names what is missing, or the file.
    """
    folder = find_model(str(path))
    if not holds_tokenizer(folder):
        raise ConfigError(
            f"model.path={path}: holds no tokenizer, neither tokenizer.json nor a vocabulary "
            f"({', '.join(VOCABULARIES[1:])}); the model's own belongs into its folder"
        )
    for file in (folder / name for name in READ_AS_JSON):
        if file.is_file():
            read_json(file, f"model.path={path}")


def read_json(file: Path, key: str) -> dict[str, Any]:
    """A file's keys and values; one that is not JSON is refused by name, as readers would not."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(
            f"{key}: {file.name} cannot be read as JSON: {one_line(error)}"
        ) from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{key}: {file.name} holds a {kind}; it must hold keys and values")
    return values


def require_model_folder(path: str) -> None:
    """Refuse what is plainly no model folder, before any library is imported.

    Raises:
        ConfigError: there is no such folder, or it holds no config.json; not of a hub's name.
    """
    if not on_hub(path):
        _require_config(Path(path), f"model.path={path}")


def _require_config(folder: Path, key: str) -> None:
    try:
        there = folder.is_dir()
    except OSError as error:  # below a folder that this user may not enter, or too long a name
        raise ConfigError(f"{key}: cannot be read: {error.strerror or error}") from error
    if not there:
        raise ConfigError(f"{key}: there is no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"{key}: is a folder that this user may not read")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: holds no config.json, so it is no Hugging Face model folder")
    config = read_json(folder / "config.json", key)
    if named := config.get("transformers_weights"):
        raise ConfigError(
            f"{key}: config.json names its weights by transformers_weights={named}, which vLLM "
            "does not read; name them model.safetensors, and leave the key out"
        )
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        kinds = config.get("architectures") or ["a model"]
        raise ConfigError(
            f"{key}: is {kinds[0]} with weights quantized by {method or 'some method'}; training "
            "needs them in float32 or bfloat16"
        )


def _causal_config(folder: Path, key: str) -> PretrainedConfig:
    """The configuration of a causal language model."""
    _require_config(folder, key)
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the boundary to transformers, which raises all kinds
        raise ConfigError(f"{key}: config.json cannot be used: {reason(error)}") from error
    kinds = config.architectures or []
    causal = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    }
    if causal.isdisjoint(kinds) or config.is_encoder_decoder:
        raise ConfigError(f"{key}: is {', '.join(kinds) or 'of no named kind'}, no causal LM")
    return config


def weight_files(folder: Path, key: str) -> list[Path]:
    """The files that transformers would load: not the value head.

    Raises:
        ConfigError: one is absent, or is not theirs to load.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{key}: holds adapters (adapter_config.json); merge them into the weights first"
        )
    if not index.is_file():
        files = [single]
        others = sorted(f.name for f in folder.glob("*.safetensors") if f != single)
        if single.is_file() and others:
            raise ConfigError(
                f"{key}: holds {', '.join(others)} beside {single.name} and no {index.name}; vLLM "
                "would load all of them: remove what is not the model's, or write the index"
            )
    else:
        try:
            names = json.loads(index.read_text())["weight_map"].values()
            files = [folder / name for name in sorted(set(names))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{key}: {index.name} cannot be read: {one_line(error)}") from error
        if single.is_file() and single not in files:
            raise ConfigError(
                f"{key}: holds {single.name} and an {index.name} that does not name it; "
                "transformers would load the first: remove one of the two"
            )
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{key}: holds no {file.name}; weights must be *.safetensors")
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{key}: {file.name} is a file that this user may not read")
    return files


def _tensors(file: Path, key: str) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each tensor of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                yield name, tuple(tensors.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{key}: {file.name} is damaged: {one_line(error)}") from error


def write_index(folder: Path) -> None:
    """Write the index of the model's own weight files.

    Without it vLLM loads every *.safetensors of the folder, the value head too, and refuses it.
    """
    tensors = {
        name: file.name
        for file in sorted(folder.glob("model*.safetensors"))
        for name, _ in _tensors(file, str(folder))
    }
    index = {"metadata": {}, "weight_map": tensors}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))


def part_of(name: str) -> str:
    """The part of a model that a tensor belongs to: vision, embedding, head or layers."""
    for part, marks in PARTS:
        if any(mark in name for mark in marks):
            return part
    return "layers"


def is_matrix(name: str, shape: Shape) -> bool:
    """Whether a tensor has the form of a linear layer's weight between embedding and output."""
    inside = part_of(name) not in ("embedding", "head")
    return inside and len(shape) == 2 and name.endswith(".weight")


def adapter_parameters(cfg: ModelConfig, model: ModelSize) -> int:
    """Number of parameters of a run's LoRA adapters: r (in + out) per layer; 0 at rank 0.

    Raises:
        ConfigError: one of model.lora_targets names no linear layer of the model.
    """
    if not cfg.lora_rank:
        return 0
    for target in cfg.lora_targets:
        if not any(name.endswith(f".{target}.weight") for name in model.matrices):
            near = nearest(target, sorted({name.split(".")[-2] for name in model.matrices}), 0.0)
            raise ConfigError(
                f"model.lora_targets={target}: the model has no such linear layer between its "
                f"embedding and its output; the nearest is {near or 'none'}"
            )
    ends = tuple(f".{target}.weight" for target in cfg.lora_targets) or ("",)
    chosen = [shape for name, shape in model.matrices.items() if name.endswith(ends)]
    return cfg.lora_rank * sum(sum(shape) for shape in chosen)
