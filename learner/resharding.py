"""Mends what DeepSpeed makes of an optimizer that it loads from a state of other ranks.

Input: the optimizer that has loaded it, and the converted folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from learner.optimizer import ParameterGroup


class LoadedOptimizer(Protocol):
    """What is used of DeepSpeed's; the last two are ZeRO-3's."""

    param_groups: list[ParameterGroup]
    state: dict[torch.Tensor, dict[str, torch.Tensor]]
    fp32_partitioned_groups_flat: list[torch.Tensor]
    sub_group_to_group_id: dict[int, int]


def mend(
    optimizer: LoadedOptimizer, groups: Sequence[ParameterGroup], folder: Path, stage: int
) -> None:
    """Mend all of it.

    Args:
        optimizer: DeepSpeed's.
        groups: its parameter groups before the state was loaded.
        folder: the converted state.
        stage: of ZeRO.
    """
    if stage == 3:
        tell_parts_apart(optimizer, groups, folder)
    place_steps(optimizer)


def tell_parts_apart(
    optimizer: LoadedOptimizer, groups: Sequence[ParameterGroup], folder: Path
) -> None:
    """Give each group of ZeRO-3 its own options again, and each partition its own part's steps.

    DeepSpeed gives all of them the first group's options, so that the head learns at the trunk's
    rate and norms decay, and its one tensor of Adam's steps, which every partition counts up.
    """
    file = folder / "zero" / "optimizer_state.pt"
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    states = saved["optimizer_state_dict"]["state"]  # by partition; the head's are the last
    steps = {"trunk": states[min(states)]["step"], "head": states[max(states)]["step"]}
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in own.items() if name != "params"})
    for index, partition in enumerate(optimizer.fp32_partitioned_groups_flat):
        part = str(groups[optimizer.sub_group_to_group_id[index]]["part"])
        optimizer.state[partition]["step"] = steps[part].clone()


def place_steps(optimizer: LoadedOptimizer) -> None:
    """Move Adam's steps to where the weights are: the fused kernel reads them there.

    DeepSpeed leaves them on the host, from which it read them.
    """
    for weights, state in optimizer.state.items():
        state["step"] = state["step"].to(weights.device)
