"""`cardinal check` of the demonstrations at sft.data: are they there, enough, and renderable?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.demonstrations import png, read_released, render
from configs.load import ConfigError
from configs.text import one_line
from rollout.renderer import Renderer

RENDERED = 16  # demonstrations


def check_data(data: str, least: int, renderer: Renderer) -> None:
    """Refuse demonstrations that are not there, cannot be read, or are fewer than `least`.

    The first rows are rendered as the run would render them, pictures included.

    Raises:
        ConfigError: one sentence with the file and what is wrong with it.
    """
    path, key = Path(data), f"sft.data={data}"
    first: list[dict[str, object]]
    if path.is_file() and path.suffix == ".json":
        released = list(islice(read_released(path), least))
        rows = len(released)
        first = [
            {"messages": d.messages, "images": [png(image) for image in d.images]}
            for d in released[:RENDERED]
        ]
    else:
        rows = sum(_parquet_rows(path, key))
        first = _first_rows(min(path.glob("*.parquet")))
    for number, row in enumerate(first):
        try:
            render(row, renderer)
        except ValueError as error:
            raise ConfigError(f"{key}: demonstration {number}: {error}") from error
    if rows < least:
        raise ConfigError(f"sft.data={data}: holds {rows} demonstrations, sft.batch_size={least}")


def _parquet_rows(folder: Path, key: str) -> Iterator[int]:
    """Number of demonstrations in each file, from its footer alone."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ConfigError(f"{key}: must be a folder with *.parquet files or a released JSON file")
    for file in files:
        try:
            footer = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{key}: {file.name}: {one_line(error)}") from error
        schema = footer.schema.to_arrow_schema()
        if "messages" not in schema.names:
            raise ConfigError(f"{key}: {file.name} has no column messages")
        kind = schema.field("messages").type
        fields = getattr(getattr(kind, "value_type", None), "names", ())  # of a list of structs
        if not {"role", "content", "train"} <= set(fields):
            raise ConfigError(
                f"{key}: {file.name}: column messages is {kind}; it must be a list of role, "
                "content and train"
            )
        yield footer.num_rows


def _first_rows(file: Path) -> list[dict[str, object]]:
    for batch in pq.ParquetFile(file).iter_batches(RENDERED):
        return batch.to_pylist()
    return []
