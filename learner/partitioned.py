"""Loads a trunk whose weights ZeRO-3 partitions while they are read: no rank ever holds them all.

Input: a Hugging Face folder. Output: the trunk that `load_trunk` gives, of which each rank has its
share. Transformers' own loader for ZeRO-3 first reads all files into every rank's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from configs.model_folder import weight_files, weight_shapes
from learner import distributed
from learner.checkpoint_match import TensorSource, check_tensors, check_tied, tensor_sources
from learner.trunk import empty_trunk
from rollout.bucket import cut

CPU = torch.device("cpu")
READ_BYTES = 2**26  # read before they are partitioned, or one tensor, or the parts of a merged one

Partition = Callable[[list[nn.Parameter]], None]


def load_partitioned_trunk(
    folder: Path, dtype: torch.dtype, attention: str, partition: Partition
) -> PreTrainedModel:
    """A (vision-)language model from a Hugging Face folder, partitioned; a collective call.

    Rank 0 alone reads the files; `partition` sends every rank its share.

    Args:
        folder: Hugging Face model folder.
        dtype: of all parameters.
        attention: as transformers names it.
        partition: leaves each rank its share of rank 0's parameters.

    Raises:
        ValueError: the folder holds no model that can be trained, or other weights than its own.
    """
    trunk, key = empty_trunk(folder, dtype, attention), f"model.path={folder}"
    files = weight_files(folder, key)
    check_tensors(empty_trunk(folder), weight_shapes(folder, key))
    check_tied(trunk, files)
    _initialize_buffers(trunk)
    mapping: list[Any] = list(get_model_conversion_mapping(trunk))
    plan = LoadStateDictConfig(
        device_map={"": CPU},
        dtype=dtype,
        dtype_plan=trunk._get_dtype_plan(dtype),  # of buffers that stay in float32
        weight_mapping=mapping,
    )
    names = set(trunk.state_dict())
    missing = set(names)
    sources = tensor_sources(trunk, files)
    for targets in cut(sources, READ_BYTES, lambda name: _nbytes(sources[name])):
        loaded = names - _load(trunk, {name: sources[name] for name in targets}, plan)
        missing -= loaded
        if parameters := [p for name, p in trunk.named_parameters() if name in loaded]:
            partition([_cast(p, dtype) for p in parameters])
    trunk.tie_weights(missing_keys=missing, recompute_mapping=False)
    return trunk.eval()


def _initialize_buffers(trunk: PreTrainedModel) -> None:
    """Compute what no file holds, such as rotary frequencies, and leave the weights empty."""
    missing: Any = set()  # of weights; buffers that are in no file are made in any case
    trunk._move_missing_keys_from_meta_to_device(missing, {"": CPU}, None, None)
    for tensor in trunk.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    trunk.initialize_weights()


def _load(
    trunk: PreTrainedModel, sources: dict[str, list[TensorSource]], plan: LoadStateDictConfig
) -> set[str]:
    """Load some weights as transformers does; names of the trunk's that are not among them.

    Buffers, which are not partitioned, come from the files on every rank.
    """
    buffers = {name for name, _ in trunk.named_buffers()}
    with ExitStack() as stack:
        opened: dict[Path, Any] = {}  # closed again, for what was read counts as this process's
        tensors: dict[str, Any] = {}
        for target, parts in sources.items():
            for part in parts:
                if distributed.rank() == 0 or target in buffers:
                    if part.file not in opened:
                        opened[part.file] = stack.enter_context(safe_open(part.file, "pt"))
                    tensors[part.name] = opened[part.file].get_slice(part.name)
                else:
                    tensors[part.name] = torch.empty(part.shape, dtype=plan.dtype)
        info, _ = convert_and_load_state_dict_in_model(trunk, tensors, plan)
    return set(info.missing_keys)


def _nbytes(sources: list[TensorSource]) -> int:
    return sum(part.nbytes for part in sources)


def _cast(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    parameter.data = parameter.data.to(dtype).contiguous()
    return parameter


class PartitionedParameter(Protocol):
    """What is used of a parameter that ZeRO-3 has partitioned."""

    ds_tensor: torch.Tensor
    ds_zero_partition_rank: int

    def partition(self) -> None:
        """Free the full parameter, if it is gathered."""


def own_share(parameter: nn.Parameter) -> tuple[torch.Tensor, int]:
    """This rank's elements of a parameter [N], to be changed in place, and the first one's index.

    All of them where it is not partitioned.
    """
    if not hasattr(parameter, "ds_tensor"):
        return parameter.data.view(-1), 0
    own = cast(PartitionedParameter, parameter)
    own.partition()
    return own.ds_tensor, own.ds_zero_partition_rank * len(own.ds_tensor)
