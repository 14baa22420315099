"""Whether the tensors of a folder's weight files are those of the model that config.json describes.

Input: a trunk without weights, and the names and shapes in the files. Transformers' own loading
runs on tensors without data, so that its renaming, merging, tying and exceptions count as there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.loading_report import LoadStateDictInfo

Shape = tuple[int, ...]
NAMED = 3  # tensors in the sentence that refuses
ROWS = 4096  # of two tensors that are compared at once
BYTES = {"F64": 8, "I64": 8, "BF16": 2, "F16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # of others 4


class TensorSource(NamedTuple):
    """A tensor in a weight file: its name and full shape there, and its bytes."""

    file: Path
    name: str
    shape: Shape
    nbytes: int


def check_tensors(trunk: PreTrainedModel, shapes: Mapping[str, Shape]) -> None:
    """Refuse weight files that would leave weights of the trunk random, or that hold others.

    Args:
        trunk: on the meta device; it is of no use afterwards.
        shapes: of all tensors in the files, by name.

    Raises:
        ValueError: names the first tensors that differ, with their shapes.
    """
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    mapping: list[Any] = list(get_model_conversion_mapping(trunk))
    plan = LoadStateDictConfig(device_map={"": torch.device("meta")}, weight_mapping=mapping)
    expected = {name: tuple(tensor.shape) for name, tensor in trunk.state_dict().items()}
    loaded, _ = convert_and_load_state_dict_in_model(trunk, empty, plan)
    trunk.tie_weights(missing_keys=loaded.missing_keys, recompute_mapping=False)
    trunk._adjust_missing_and_unexpected_keys(loaded)
    differences = list(_differences(loaded, expected, shapes))
    if differences:
        more = f"; {len(differences)} tensors differ" if len(differences) > NAMED else ""
        raise ValueError(
            f"the weights are not those of the {type(trunk).__name__} in config.json: "
            f"{'; '.join(differences[:NAMED])}{more}"
        )


def check_tied(trunk: PreTrainedModel, files: Sequence[Path]) -> None:
    """Refuse an output layer of its own where config.json says that it is the embedding.

    Transformers would go by the file, vLLM by config.json.

    Args:
        trunk: on the meta device.
        files: its weight files.

    Raises:
        ValueError: names the two tensors.
    """
    sources = tensor_sources(trunk, files)
    for target, source in trunk.all_tied_weights_keys.items():
        both = target in sources and source in sources
        if both and not _equal(sources[target][-1], sources[source][-1]):
            raise ValueError(
                f"config.json ties {target} to {source} (tie_word_embeddings), and the files hold "
                "both with different numbers; set it to false, or remove the one that is not meant"
            )


def tensor_sources(trunk: PreTrainedModel, files: Sequence[Path]) -> dict[str, list[TensorSource]]:
    """By the model's name of a tensor: what it is made of, one tensor of a file or several.

    Where one of a file becomes several of the model, it stands under the first.
    """
    mapping = get_model_conversion_mapping(trunk)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    own = trunk.state_dict()
    sources: dict[str, list[TensorSource]] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                part = tensors.get_slice(name)
                shape = tuple(part.get_shape())
                size = math.prod(shape) * BYTES.get(part.get_dtype(), 4)
                known, _ = rename_source_key(
                    name, renamings, converters, trunk.base_model_prefix, own
                )
                target = known if known in own else name
                sources.setdefault(target, []).append(TensorSource(file, name, shape, size))
    return sources


def _equal(first: TensorSource, second: TensorSource) -> bool:
    """Whether two tensors of files have the same numbers; read a few rows at a time."""
    with safe_open(first.file, "pt") as one, safe_open(second.file, "pt") as other:
        these, those = one.get_slice(first.name), other.get_slice(second.name)
        return bool(first.shape == second.shape) and all(
            torch.equal(these[i : i + ROWS].float(), those[i : i + ROWS].float())
            for i in range(0, first.shape[0], ROWS)
        )


def _differences(
    loaded: LoadStateDictInfo, expected: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> Iterator[str]:
    """What is wrong with each tensor, by the model's names; the ones of other shapes first."""
    for name, shape, right in sorted(loaded.mismatched_keys):
        yield f"{name} is {_sizes(shape)} and must be {_sizes(right)}"
    for name in sorted(loaded.conversion_errors):
        yield f"the parts of {name} do not make {_sizes(expected[name])}"
    for name in sorted(loaded.missing_keys - loaded.conversion_errors.keys()):
        yield f"{name} is absent and must be {_sizes(expected[name])}"
    for name in sorted(loaded.unexpected_keys):
        size = f", {_sizes(shapes[name])}," if name in shapes else ""
        yield f"{name}{size} is none of its tensors"


def _sizes(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "one number"
