"""Deadlines that follow from the size of the model: large weights take longer to read and send."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.schema import RunConfig

SECONDS_A_GIB = 4.0  # a shared file system or a network of 2 Gbit/s at its worst


def for_model(cfg: RunConfig, model: str) -> RunConfig:
    """The run with the time that its weights may take added to the deadlines that wait for them.

    Args:
        cfg: with the deadlines of a small model.
        model: folder of the weights, model*.safetensors.
    """
    size = sum(file.stat().st_size for file in Path(model).glob("model*.safetensors"))
    # Whole seconds: checkpoints of one model differ by bytes, and share their engines all the same.
    longer, cluster = round(SECONDS_A_GIB * size / 2**30), cfg.cluster
    deadlines = replace(
        cluster,
        start_deadline_s=cluster.start_deadline_s + longer,
        sync_deadline_s=cluster.sync_deadline_s + longer,
        block_deadline_s=cluster.block_deadline_s + longer,  # it holds start_deadline_s
    )
    return replace(cfg, cluster=deadlines)
