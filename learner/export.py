"""Writes a trunk into a Hugging Face folder, with the other files of the folder it came from.

What it writes, plain transformers and vLLM load; they end an answer where the run did. Its
config.json is the source's: vLLM may read names there that transformers would replace. Weights are
written file by file as they come, so that a file's are the most that is held of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_IMODE

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from configs.model_folder import INDEX, write_index
from learner.checkpoint_layout import full_shape
from rollout.bucket import NamedTensor, buckets

WEIGHT_FILES = (  # of torch, TensorFlow, Flax, Rust, ONNX, TFLite and llama.cpp
    *(".safetensors", ".bin", ".pt", ".pth", ".pkl", ".index.json"),
    *(".h5", ".ckpt", ".data-00000-of-00001", ".index", ".msgpack", ".npz", ".ot"),
    *(".onnx", ".onnx_data", ".onnx.data", ".tflite", ".gguf"),
)
FILES, FILE_BYTES = 16, 2**27  # weight files at most, but where these bytes would not be full
DTYPES = ("dtype", "torch_dtype")  # keys of config.json


def share_weights(folder: Path) -> None:
    """Give weight files the mode of config.json: safetensors lets their owner alone read them."""
    mode = (folder / "config.json").stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(S_IMODE(mode))


def save_trunk(
    trunk: PreTrainedModel,
    source: Path,
    target: Path,
    weights: Iterable[NamedTensor],
    stop_ids: Sequence[int] = (),
) -> None:
    """Write a trunk into a folder.

    Args:
        trunk: what the weights belong to.
        source: the folder that it came from; its other files are copied.
        target: to be written; the source itself at will.
        weights: by the names of a checkpoint; each is used before the next one is requested.
        stop_ids: token ids that end an answer, for generation_config.json. To the end tokens of
            the source's they are added, because a server stops at no other: a chat template may
            end an answer with a token that the source's does not name.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        copy = target / file.name
        other = file.is_file() and not file.name.endswith(WEIGHT_FILES)
        if other and file.resolve() != copy.resolve():
            shutil.copyfile(file, copy)
    config = (source / CONFIG_NAME).read_text("utf-8")
    given = source / GENERATION_CONFIG_NAME
    if given.is_file():
        generation = _ended_by(given.read_text("utf-8"), stop_ids)
    else:  # transformers took the keys of config.json, and writes none back there
        if stop_ids:
            trunk.generation_config.eos_token_id = list(stop_ids)
        generation = trunk.generation_config.to_json_string()
    _write_weights(target, weights, max(FILE_BYTES, trunk_bytes(trunk) // FILES))
    (target / CONFIG_NAME).write_text(_of_dtype(config, trunk.dtype), "utf-8")
    (target / GENERATION_CONFIG_NAME).write_text(generation, "utf-8")


def trunk_bytes(trunk: PreTrainedModel) -> int:
    """Bytes of all its weights, also of those that other ranks hold."""
    return sum(full_shape(p).numel() * p.dtype.itemsize for p in trunk.parameters())


def _write_weights(target: Path, weights: Iterable[NamedTensor], file_bytes: int) -> None:
    """Write weights in files of so many bytes, or one tensor, in the place of those there."""
    copies = (
        (name, weight.detach().to("cpu", copy=True, memory_format=torch.contiguous_format))
        for name, weight in weights
    )
    drafts: list[Path] = []
    for tensors in buckets(copies, file_bytes):
        drafts.append(target / f"{len(drafts):05d}.draft")
        save_file(dict(tensors), drafts[-1], {"format": "pt"})
    for file in (*target.glob("model*.safetensors"), target / INDEX):
        file.unlink(missing_ok=True)
    for number, draft in enumerate(drafts, 1):
        part = f"-{number:05d}-of-{len(drafts):05d}" if len(drafts) > 1 else ""
        draft.rename(target / f"model{part}.safetensors")
    if len(drafts) > 1:
        write_index(target)


def _ended_by(text: str, stop_ids: Sequence[int]) -> str:
    """A generation_config.json with all stop ids among its end tokens; all else as it is."""
    values = json.loads(text)
    eos = values.get("eos_token_id")
    known = eos if isinstance(eos, list) else [] if eos is None else [eos]
    missing = [token for token in stop_ids if token not in known]
    if not missing:
        return text
    return json.dumps(values | {"eos_token_id": known + missing}, indent=2) + "\n"


def _of_dtype(text: str, dtype: torch.dtype) -> str:
    """A config.json that says so of the dtype of its weights; all else as it is."""
    name = str(dtype).removeprefix("torch.")

    def replaced(values: dict[str, object]) -> dict[str, object]:
        return {
            key: name if key in DTYPES else replaced(value) if isinstance(value, dict) else value
            for key, value in values.items()
        }

    given = json.loads(text)
    values = replaced(given if any(key in given for key in DTYPES) else given | {"dtype": name})
    return text if values == given else json.dumps(values, indent=2, ensure_ascii=False) + "\n"
