"""SFT input: Parquet demonstrations to token arrays and pictures, streamed by Ray Data.

Input: a Parquet folder. Output: a dataset with columns token_ids, action_mask and pictures, a
row a demonstration, in the files' order; and from a rank's part of it, batches of sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from cluster.demonstrations import render
from learner.batch import Sequence
from rollout.pictures import SCHEMA as PICTURE
from rollout.pictures import Picture
from rollout.renderer import Renderer

KEPT_BYTES = 2**30  # of demonstrations that a rank keeps for its next epochs
BLOCKS = 32  # at least, of the demonstrations: they are dealt out to the ranks
TASK_CPUS = 0.25  # of a reading and of a rendering task: cluster.placement keeps room for both


def dataset(parquet: str, model_folder: str) -> ray.data.Dataset:
    """Rows of `token_ids` list<int32>, `action_mask` list<uint8>, `pictures`, as in the files."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # The newer reader starts actors of a whole CPU each, which no plan reserves.
    context.use_datasource_v2 = False
    rows = ray.data.read_parquet(
        parquet,
        columns=columns(parquet),
        include_paths=True,
        num_cpus=TASK_CPUS,
        # Ray's own choice counts the cluster's CPUs: a rank's share would depend on them.
        override_num_blocks=max(BLOCKS, len(list(Path(parquet).glob("*.parquet")))),
    )
    return rows.map_batches(
        _render,  # type: ignore[arg-type]
        batch_format="pyarrow",
        fn_kwargs={"folder": model_folder},
        num_cpus=TASK_CPUS,
    )


def columns(parquet: str) -> list[str]:
    """What is read of the files: pictures are optional."""
    first = min(Path(parquet).glob("*.parquet"))
    return ["messages", *({"images"} & set(pq.read_schema(first).names))]


@cache
def _renderer(folder: str) -> Renderer:
    return Renderer.load(folder)


def _render(table: pa.Table, folder: str) -> pa.Table:
    renderer = _renderer(folder)
    rows = []
    for row in table.to_pylist():
        try:
            ids, mask, pictures = render(row, renderer)
        except ValueError as error:
            raise ValueError(f"{row['path']}: {error}") from error
        rows.append((ids, mask.astype(np.uint8), [vars(picture) for picture in pictures]))
    token_ids, masks, shown = zip(*rows, strict=True)
    return pa.table(
        {
            "token_ids": pa.array(token_ids, pa.list_(pa.int32())),
            "action_mask": pa.array(masks, pa.list_(pa.uint8())),
            "pictures": pa.array(shown, pa.list_(pa.struct(list(PICTURE)))),
        }
    )


def batches(shard: ray.data.DataIterator, size: int, skip: int) -> Iterator[list[Sequence]]:
    """Endless batches of `size` demonstrations of a rank's shard, epoch after epoch.

    Args:
        shard: the rank's part, a Ray Data iterator.
        size: demonstrations of this rank a step.
        skip: batches already used by an interrupted run.

    Raises:
        ValueError: the shard holds fewer than `size` demonstrations.
    """
    kept: list[pa.Table] = []  # token ids are small; a second pass of the pipeline is not
    number = 0
    while True:
        before = number
        for batch in shard.iter_batches(
            batch_size=size, batch_format="pyarrow", drop_last=True, prefetch_batches=4
        ):
            kept.append(batch)
            number += 1
            if number > skip:
                yield sequences(batch)
        if number == before:
            raise ValueError(f"a learner rank's share holds fewer than {size} demonstrations")
        while sum(table.nbytes for table in kept) <= KEPT_BYTES:
            number += 1
            if number > skip:
                yield sequences(kept[(number - 1) % len(kept)])
        kept = []


class Prefetched(Iterator[list[Sequence]]):
    """An iterator whose first item is already on its way: Ray Data starts while engines do."""

    def __init__(self, stream: Iterator[list[Sequence]]) -> None:
        self._stream = stream
        self._first: Future[list[Sequence]] | None = ThreadPoolExecutor(1).submit(next, stream)

    def __next__(self) -> list[Sequence]:
        first, self._first = self._first, None
        return first.result() if first else next(self._stream)


def sequences(table: pa.Table) -> list[Sequence]:
    """The learner's sequences of a table of demonstrations."""
    ids, masks, pictures = (
        table[name].combine_chunks() for name in ("token_ids", "action_mask", "pictures")
    )
    return [
        Sequence(
            ids[i].values.to_numpy(),
            masks[i].values.to_numpy().view(np.bool_),
            pictures=tuple(Picture(**row) for row in pictures[i].as_py()),
        )
        for i in range(len(table))
    ]
