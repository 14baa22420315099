"""Demonstrations on disk: an environment's expert in, Parquet parts of a fixed size out.

The same environment, settings, number and seed give the same bytes. Finished parts are kept, so
that an interrupted writing can be continued. Users' own files are converted here too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from cluster.demonstrations.files import ROWS, Slice, find_files, rows, slices
from cluster.demonstrations.picture_files import read_picture
from cluster.demonstrations.rows import conversation
from configs.load import ConfigError
from envs.base import Demonstration
from envs.registry import make

Row = dict[str, object]  # as SCHEMA has it
PART = 4096  # demonstrations per file
CLAIM = "_demonstrations.json"  # readers of Parquet folders pass over "_"
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("train", pa.bool_())])
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(MESSAGE)),
        ("images", pa.list_(pa.binary())),  # encoded, PNG where an environment drew them
        ("seed", pa.int64()),
        ("environment", pa.string()),
    ]
)


def write_demonstrations(
    env_id: str, settings: dict[str, object], n: int, seed: int, folder: str | Path
) -> Path:
    """Write n demonstrations as `part-00000.parquet`, …; finished parts are kept.

    Raises:
        ConfigError: the folder holds demonstrations of something else.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _claim(target, {"environment": env_id, "settings": settings, "n": n, "seed": seed})
    env = make(env_id, settings)
    parts = -(-n // PART)
    stream = env.demonstrations(n, seed)
    for number in track(range(parts), "demonstrations", disable=parts < 8, transient=True):
        part = list(islice(stream, PART))
        file = target / f"part-{number:05d}.parquet"
        if file.is_file():
            continue
        _write_rows([_row(one, env_id) for one in part], file)
    return target


def _write_rows(part: list[Row], file: Path) -> None:
    """Write a part under another name, then rename it: no reader sees an unfinished one."""
    draft = file.with_suffix(".new")
    pq.write_table(pa.Table.from_pylist(part, schema=SCHEMA), draft, row_group_size=ROWS)
    draft.rename(file)


def convert_demonstrations(data: str | Path, folder: str | Path) -> Path:
    """Write the demonstrations of users' files as Parquet, their pictures inside.

    All rows are read before any is written: what is refused leaves no part behind.

    Raises:
        ConfigError: one sentence with the file and the row; or the folder holds something else.
    """
    parts = slices(data)
    if not sum(1 for _ in _converted(parts)):
        raise ConfigError(f"{data}: holds no demonstrations")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for file in find_files(data):
        digest.update(file.read_bytes())
    _claim(target, {"data": str(data), "sha256": digest.hexdigest()})
    stream, number = _converted(parts), 0
    while part := list(islice(stream, PART)):
        _write_rows(part, target / f"part-{number:05d}.parquet")
        number += 1
    return target


def _converted(parts: Iterable[Slice]) -> Iterator[Row]:
    for part in parts:
        for number, (where, row) in enumerate(rows(part), part.first):
            try:
                messages, pictures = conversation(row, Path(part.file).parent)
                for picture in pictures:
                    read_picture(picture)
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from error
            yield {
                "messages": messages,
                "images": pictures,
                "seed": number,
                "environment": part.file,
            }


def _claim(folder: Path, what: dict[str, object]) -> None:
    """Say in the folder what it holds; refuse a folder that holds something else."""
    file = folder / CLAIM
    text = json.dumps(what, sort_keys=True, indent=1)
    if not file.is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: holds other files; demonstrations need a folder of their own")
    if file.is_file() and file.read_text() != text:
        raise ConfigError(
            f"{folder}: holds demonstrations of other settings (see {file.name}); "
            "choose another folder or remove it"
        )
    file.write_text(text)


def _row(one: Demonstration, environment: str) -> Row:
    images = [png(image) for image in one.images]
    messages = list(one.messages)
    return {"messages": messages, "images": images, "seed": one.seed, "environment": environment}


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [height, width, 3], as a PNG file."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()
