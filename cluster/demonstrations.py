"""Demonstrations on disk: an environment's expert in, Parquet parts of a fixed size out.

The same environment, settings, number and seed give the same bytes. Finished parts are kept, so
that an interrupted writing can be continued. The released JSON format is read here too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from configs.load import ConfigError
from envs.base import Demonstration
from envs.registry import make
from rollout.pictures import Picture
from rollout.renderer import Renderer

PART = 4096  # demonstrations per file
ROWS = 512  # demonstrations per row group: what one data task reads at least
CLAIM = "_demonstrations.json"  # readers of Parquet folders pass over "_"
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("train", pa.bool_())])
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(MESSAGE)),
        ("images", pa.list_(pa.binary())),  # PNG
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
        _write(part, env_id, file)
    return target


def _write(part: list[Demonstration], environment: str, file: Path) -> None:
    """Write a part under another name, then rename it: no reader sees an unfinished one."""
    draft = file.with_suffix(".new")
    pq.write_table(_table(part, environment), draft, row_group_size=ROWS)
    draft.rename(file)


def read_released(path: str | Path) -> Iterator[Demonstration]:
    """Demonstrations of a released JSON file: `conversations` of from/value, optional `image`.

    Raises:
        ConfigError: names the file, the record and the field.
    """
    file = Path(path)
    try:
        records = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(records, list):
        raise ConfigError(f"{file}: holds a {type(records).__name__}; it must hold a list")
    for number, record in enumerate(records):
        yield _released(file, number, record)


def convert_released(path: str | Path, folder: str | Path) -> Path:
    """Write a released JSON file's demonstrations as Parquet, for Ray Data to stream.

    Raises:
        ConfigError: as `read_released`; or the file holds none, or the folder something else.
    """
    stream = read_released(path)
    part = list(islice(stream, PART))
    if not part:
        raise ConfigError(f"{path}: holds no demonstrations")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    _claim(target, {"released": str(path), "sha256": digest})
    number = 0
    while part:
        _write(part, str(path), target / f"part-{number:05d}.parquet")
        part, number = list(islice(stream, PART)), number + 1
    return target


def _claim(folder: Path, what: dict[str, object]) -> None:
    """Say in the folder what it holds; refuse a folder that holds something else."""
    file = folder / CLAIM
    text = json.dumps(what, sort_keys=True, indent=1)
    if file.is_file() and file.read_text() != text:
        raise ConfigError(
            f"{folder}: holds demonstrations of other settings (see {file.name}); "
            "choose another folder or remove it"
        )
    file.write_text(text)


def _table(part: list[Demonstration], environment: str) -> pa.Table:
    rows = [
        {
            "messages": list(d.messages),
            "images": [png(image) for image in d.images],
            "seed": d.seed,
            "environment": environment,
        }
        for d in part
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [height, width, 3], as a PNG file."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


def read_picture(data: bytes) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, 3] of an encoded picture.

    Raises:
        ValueError: it is damaged, or no picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return np.asarray(opened.convert("RGB"))
    except OSError as error:  # Pillow's for all that it cannot read
        raise ValueError(f"a demonstration's picture cannot be read: {error}") from error


def render(
    row: Mapping[str, Any], renderer: Renderer
) -> tuple[NDArray[np.int32], NDArray[np.bool_], list[Picture]]:
    """Token ids [T], action mask [T] and pictures of one demonstration.

    Args:
        row: messages, and the encoded images of its first message, if there are any.
        renderer: of the model.

    Raises:
        ValueError: a picture that cannot be read, or that the model cannot see.
    """
    pictures = [Picture.of(read_picture(image)) for image in row.get("images") or ()]
    return *renderer.demonstration(row["messages"], pictures), pictures


def _released(file: Path, number: int, record: object) -> Demonstration:
    where = f"{file}, record {number}"
    fields = record if isinstance(record, dict) else {}
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ConfigError(f"{where}: field conversations must be a list of from and value")
    messages = []
    for turn in turns:
        parts = turn if isinstance(turn, dict) else {}
        role = {"human": "user", "gpt": "assistant"}.get(str(parts.get("from")))
        if role is None or not isinstance(parts.get("value"), str):
            raise ConfigError(f"{where}: a turn needs from = human or gpt, and value, a text")
        text = parts["value"].replace("<image>", "").strip()
        messages.append({"role": role, "content": text, "train": role == "assistant"})
    images: tuple[NDArray[np.uint8], ...] = ()
    if fields.get("image"):
        picture = file.parent / str(fields["image"])
        try:
            with Image.open(picture) as opened:
                images = (np.asarray(opened.convert("RGB")),)
        except OSError as error:
            raise ConfigError(f"{where}: field image: {picture} cannot be read") from error
    return Demonstration(tuple(messages), images, number)  # type: ignore[arg-type]
