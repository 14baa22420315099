"""SFT input: Parquet demonstrations to token arrays, streamed and split by Ray Data.

Comes in: a Parquet folder; goes out: a dataset with columns token_ids, action_mask, a row a
demonstration, in the file's order. How messages become tokens is the renderer's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from rollout.renderer import Renderer

Pair = tuple[NDArray[np.int32], NDArray[np.bool_]]


def dataset(parquet: str, model_folder: str) -> ray.data.Dataset:
    """Rows of `token_ids` list<int32> and `action_mask` list<uint8>, in the files' order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    rows = ray.data.read_parquet(parquet, columns=["messages"])
    return rows.map_batches(
        _render,  # type: ignore[arg-type]
        batch_format="pyarrow",
        fn_kwargs={"folder": model_folder},
        num_cpus=0.25,
    )


@cache
def _renderer(folder: str) -> Renderer:
    return Renderer.load(folder)


def _render(table: pa.Table, folder: str) -> pa.Table:
    renderer = _renderer(folder)
    pairs = [renderer.demonstration(messages) for messages in table["messages"].to_pylist()]
    return pa.table(
        {
            "token_ids": pa.array([ids for ids, _ in pairs], pa.list_(pa.int32())),
            "action_mask": pa.array(
                [mask.astype(np.uint8) for _, mask in pairs], pa.list_(pa.uint8())
            ),
        }
    )


def batches(shard: Any, size: int, skip: int) -> Iterator[list[Pair]]:
    """Endless batches of `size` demonstrations of a rank's shard, epoch after epoch.

    Args:
        shard: the rank's part, a Ray Data iterator.
        size: demonstrations of this rank a step.
        skip: batches already used by an interrupted run.

    Raises:
        ValueError: the shard holds fewer than `size` demonstrations.
    """
    kept: list[list[Pair]] = []  # token ids are small; a second pass of the pipeline is not
    for batch in shard.iter_batches(
        batch_size=size, batch_format="pyarrow", drop_last=True, prefetch_batches=4
    ):
        kept.append(_pairs(batch))
        if len(kept) > skip:
            yield kept[-1]
    if not kept:
        raise ValueError(f"a learner rank's share holds fewer than {size} demonstrations")
    for number in itertools.count(max(skip, len(kept))):
        yield kept[number % len(kept)]


class Prefetched:
    """An iterator whose first item is already on its way: Ray Data starts while engines do."""

    def __init__(self, stream: Iterator[list[Pair]]) -> None:
        self._stream = stream
        self._first: Future[list[Pair]] | None = ThreadPoolExecutor(1).submit(next, stream)

    def __next__(self) -> list[Pair]:
        first, self._first = self._first, None
        return first.result() if first else next(self._stream)


def _pairs(table: pa.Table) -> list[Pair]:
    ids = table["token_ids"].combine_chunks()
    masks = table["action_mask"].combine_chunks()
    return [
        (ids[i].values.to_numpy(), masks[i].values.to_numpy().view(np.bool_))
        for i in range(len(table))
    ]
