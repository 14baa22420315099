"""SFT input: demonstrations, rendered once by Ray Data, to a rank's shuffled batches.

Input: files of demonstrations. Output: Arrow blocks of token_ids, action_mask and pictures in the
object store, in the files' order; and on every rank, which reads all blocks without a copy,
the batches of its share.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray import ObjectRef
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import GetTimeoutError, RayError

from cluster.demonstrations.files import ROWS, Slice, slices
from cluster.demonstrations.order import DemonstrationOrder
from cluster.demonstrations.rows import LengthLimit, RenderedRow, rendered_rows
from cluster.failures import DeadlineExceeded, RunFailure, first_line
from configs.load import ConfigError
from configs.model_folder import check_model
from configs.schema import RunConfig
from learner.batch import Sequence
from rollout.pictures import SCHEMA as PICTURE
from rollout.pictures import Picture
from rollout.renderer import Renderer

TASK_CPUS = 0.25  # of a reading and of a rendering task: cluster.placement reserves both
GIB = 2**30


@dataclass(frozen=True)
class RenderedDemonstrations:
    """All demonstrations of a run, in the object store.

    blocks: Arrow tables of `token_ids` list<int32>, `action_mask` list<uint8> and `pictures`.
    rows: demonstrations in all blocks.
    nbytes: of all blocks.
    dropped: demonstrations that are not in them, for they have more than sft.max_tokens.
    """

    blocks: list[ObjectRef[pa.Table]]
    rows: int
    nbytes: int
    dropped: int = 0


def render_demonstrations(
    data: str, model_folder: str, seconds: float, most: int | None = None
) -> RenderedDemonstrations:
    """Render all demonstrations, in the files' order; the caller's process owns them.

    Args:
        data: a file, or a folder of files.
        model_folder: of the model whose template and tokenizer are used.
        seconds: how long Ray Data may continue without a block read or rendered.
        most: tokens of the longest that is kept, sft.max_tokens.

    Raises:
        RunFailure: there are none, or one cannot be rendered; one sentence with file and row.
        DeadlineExceeded: no block for so long.
    """
    context = ray.data.DataContext.get_current()
    context.execution_no_progress_timeout_s = seconds
    try:
        parts = slices(data)
        if not parts:
            raise RunFailure(f"{data}: holds no demonstrations; SFT needs at least one")
        limit = LengthLimit(check_model(model_folder).positions, most)
        rendered = dataset(parts, model_folder, limit).materialize()
    except ExecutionTimeoutError as error:
        who, what = "Ray Data", "render a block of demonstrations"
        raise DeadlineExceeded(who, what, seconds, "start_deadline_s") from error
    except (RayError, ConfigError) as error:
        raise RunFailure(f"demonstrations cannot be rendered: {first_line(error)}") from error
    rows, total = rendered.count(), sum(part.rows for part in parts)
    if rows == 0:
        raise RunFailure(f"{data}: all {total} demonstrations have more than sft.max_tokens={most}")
    return RenderedDemonstrations(
        rendered.to_arrow_refs(), rows, rendered.size_bytes(), total - rows
    )


def dataset(parts: list[Slice], model_folder: str, limit: LengthLimit) -> ray.data.Dataset:
    """Rows of `token_ids` list<int32>, `action_mask` list<uint8>, `pictures`, as in the files."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its file keeps plans and tracebacks
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # instead of "UDF failed to process"
    # Ray's own readers do not say which row of a file a row is, so a task reads its slice itself.
    items = ray.data.from_items([vars(part) for part in parts], override_num_blocks=len(parts))
    return items.map_batches(
        _render,  # type: ignore[arg-type]
        batch_format="pyarrow",
        batch_size=None,
        fn_kwargs={"folder": model_folder, "limit": limit},
        num_cpus=TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=min(len(parts), _free_cores())),
    )


def _free_cores() -> int:
    """How many tasks render at once: a process more takes the others' cores for its imports."""
    return max(1, int(ray.available_resources().get("CPU", 0.0)))


@cache
def _renderer(folder: str) -> Renderer:
    return Renderer.load(folder)


def _render(table: pa.Table, folder: str, limit: LengthLimit) -> Iterator[pa.Table]:
    """The demonstrations of slices, those dropped left out; a table for every ROWS of them."""
    renderer = _renderer(folder)
    for part in map(_slice, table.to_pylist()):
        stream = rendered_rows(part, renderer, limit)
        while batch := list(islice(stream, ROWS)):
            yield _table([row for row in batch if row is not None])


def _slice(fields: dict[str, Any]) -> Slice:
    return Slice(**fields)


def _table(rendered: list[RenderedRow]) -> pa.Table:
    masks = [row.action_mask.astype(np.uint8) for row in rendered]
    shown = [[vars(picture) for picture in row.pictures] for row in rendered]
    return pa.table(
        {
            "token_ids": pa.array([row.token_ids for row in rendered], pa.list_(pa.int32())),
            "action_mask": pa.array(masks, pa.list_(pa.uint8())),
            "pictures": pa.array(shown, pa.list_(pa.struct(list(PICTURE)))),
        }
    )


def check_object_store(rendered: RenderedDemonstrations) -> None:
    """Refuse demonstrations that this node's object store cannot hold.

    Raises:
        RunFailure: one sentence with both sizes and the key.
    """
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        room = node["Resources"].get("object_store_memory")
        if node["NodeID"] == here and room is not None and rendered.nbytes > room:
            raise RunFailure(
                f"{rendered.rows} demonstrations are {rendered.nbytes / GIB:.2f} GiB rendered, the "
                f"object store of a learner's node holds {room / GIB:.2f} GiB; raise "
                "cluster.object_store_gib (on a joined cluster: ray start --object-store-memory)"
            )


def batches(
    rendered: RenderedDemonstrations, cfg: RunConfig, rank: int, skip: int
) -> Iterator[list[Sequence]]:
    """A rank's endless batches, from the one after `skip` on.

    Args:
        rendered: all demonstrations.
        cfg: the run: its seed, batch size and number of ranks.
        rank: of the learner group.
        skip: steps already made by an interrupted run.

    Raises:
        DeadlineExceeded: the blocks did not reach this node in time.
    """
    order = DemonstrationOrder(rendered.rows, cfg.seed, cfg.sft.skip)
    table = DemonstrationTable(_blocks(rendered, cfg.cluster.start_deadline_s))
    for number in count(skip):
        yield table.sequences(order.batch(number, cfg.sft.batch_size, rank, cfg.learner.ranks))


def _blocks(rendered: RenderedDemonstrations, seconds: float) -> list[pa.Table]:
    try:
        return ray.get(rendered.blocks, timeout=seconds)
    except GetTimeoutError as error:
        who, what = "the object store", "give the rendered demonstrations"
        raise DeadlineExceeded(who, what, seconds, "start_deadline_s") from error


class DemonstrationTable:
    """Rows over Arrow blocks that stay where they are: token ids, masks and pictures are views."""

    def __init__(self, blocks: list[pa.Table]) -> None:
        filled = [block for block in blocks if len(block)]
        self._blocks = [
            [_one_chunk(block[name]) for name in ("token_ids", "action_mask", "pictures")]
            for block in filled
        ]
        self._starts = np.cumsum([0, *(len(block) for block in filled[:-1])])

    def sequences(self, rows: NDArray[np.int64]) -> list[Sequence]:
        """The learner's sequences of these rows, counted over all blocks."""
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            _sequence(self._blocks[block], int(row - self._starts[block]))
            for block, row in zip(blocks, rows, strict=True)
        ]


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _sequence(block: list[pa.Array], row: int) -> Sequence:
    ids, mask, shown = (column[row].values for column in block)
    return Sequence(
        ids.to_numpy(), mask.to_numpy().view(np.bool_), pictures=tuple(_pictures(shown))
    )


def _pictures(shown: pa.StructArray) -> Iterator[Picture]:
    """Pictures whose data are views of the array's buffer; a scalar of Arrow's would copy it."""
    key, height, width, data = (shown.field(name) for name in PICTURE.names)
    _, offsets, buffer = data.buffers()
    for i in range(len(shown)):
        begin, end = np.frombuffer(offsets, np.int64)[data.offset + i :][:2].tolist()
        content = buffer.slice(begin, end - begin)
        yield Picture(key[i].as_py(), height[i].as_py(), width[i].as_py(), content)


class Prefetched(Iterator[list[Sequence]]):
    """An iterator one item ahead of its reader: a batch is made while the last is trained on."""

    def __init__(self, stream: Iterator[list[Sequence]]) -> None:
        self._stream, self._thread = stream, ThreadPoolExecutor(1)
        self._next: Future[list[Sequence]] = self._thread.submit(next, stream)

    def __next__(self) -> list[Sequence]:
        item = self._next.result()
        self._next = self._thread.submit(next, self._stream)
        return item
