"""Files of demonstrations: found at a path, cut into slices, read row by row.

A path is a file or a folder of files: Parquet, JSON lines, or JSON with a list. Rows are counted
from 1 in each file, as lines of an editor are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import ConfigError
from configs.text import one_line

SUFFIXES = (".parquet", ".jsonl", ".json")
NAMES = "*.parquet, *.jsonl or *.json"
COLUMNS = ("messages", "conversations", "images", "image", "tools")  # others are not read
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz")
SAVED = (".arrow", "dataset_dict.json")  # how a file's name ends that save_to_disk has written
ROWS = 512  # of a slice of JSON; a slice of Parquet is a row group


@dataclass(frozen=True)
class Slice:
    """Rows of a file that follow each other: what one task reads and renders.

    first: number of rows before them in the file.
    rows: how many they are.
    place: their row group in Parquet, their first byte in JSON lines, unused in JSON.
    """

    file: str
    first: int
    rows: int
    place: int = 0


def slices(data: str | Path) -> list[Slice]:
    """All demonstrations at a path, files in the order of their names.

    Raises:
        ConfigError: one sentence: no such path, no such files, or one that cannot be read.
    """
    return [part for file in find_files(data) for part in _slices(file)]


def find_files(data: str | Path) -> list[Path]:
    """The files at a path; those inside a folder's own folders, or named _* or .*, are not read.

    Raises:
        ConfigError: there is none, or a folder has them in several formats or compressed.
    """
    path = Path(data)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: demonstrations are files named {NAMES}")
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such file or folder")
    files = [file for file in _entries(path) if file.is_file()]
    packed = next((file for file in files if file.suffix in COMPRESSED), None)
    if packed:
        raise ConfigError(
            f"{packed}: is compressed, and only files named {NAMES} are read; unpack it, or name "
            f"it _{packed.name} to leave it out"
        )
    saved = next((file for file in files if file.name.endswith(SAVED)), None)
    if saved:
        raise ConfigError(
            f"{saved}: is of save_to_disk of `datasets`, which is not read; write the rows with "
            f"to_parquet, or name it _{saved.name} to leave it out"
        )
    found = [file for file in files if file.suffix in SUFFIXES]
    if not found:
        raise ConfigError(f"{path}: the folder holds no {NAMES}")
    kinds = sorted({file.suffix for file in found})
    if len(kinds) > 1:
        raise ConfigError(f"{path}: the folder holds {' and '.join(kinds)} files; keep one format")
    return found


def ignored(data: str | Path) -> list[str]:
    """Names in a folder of demonstrations that are not read; a folder's ends with a slash."""
    path = Path(data)
    if path.is_file():
        return []
    read = find_files(path)
    return [f"{one.name}{'/' * one.is_dir()}" for one in _entries(path) if one not in read]


def spread(parts: list[Slice], most: int) -> list[Slice]:
    """At most so many slices of all, the first and the last among them."""
    if len(parts) <= most:
        return parts
    return [parts[i * (len(parts) - 1) // (most - 1)] for i in range(most)]


@contextmanager
def naming_data(data: str) -> Iterator[None]:
    """Have a refusal inside begin with sft.data and its path, which then stands there once."""
    try:
        yield
    except ConfigError as error:
        sentence = str(error).removeprefix(str(Path(data))).lstrip("/,: ")
        raise ConfigError(f"sft.data={data}: {sentence}") from error


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, by name, without what is named _* or .*."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.name[0] not in "_.")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {one_line(error)}") from error


def rows(part: Slice) -> Iterator[tuple[str, object]]:
    """Each row of a slice, with its place for errors: `FILE, row N`.

    Raises:
        ConfigError: the file, or a row, cannot be read.
    """
    reader = {".parquet": _parquet_rows, ".jsonl": _line_rows, ".json": _json_rows}
    for number, row in enumerate(reader[Path(part.file).suffix](part), part.first + 1):
        yield f"{part.file}, row {number}", row


def _slices(file: Path) -> Iterator[Slice]:
    if file.suffix == ".parquet":
        footer, first = _open(file).metadata, 0
        for group in range(footer.num_row_groups):
            size = footer.row_group(group).num_rows
            if size:
                yield Slice(str(file), first, size, group)
            first += size
    elif file.suffix == ".jsonl":
        yield from _line_slices(file)
    else:
        size = len(_records(file))
        for first in range(0, size, ROWS):
            yield Slice(str(file), first, min(ROWS, size - first))


def _open(file: str | Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as Parquet: {one_line(error)}") from error
    names = opened.schema_arrow.names
    if not {"messages", "conversations"} & set(names):
        raise ConfigError(
            f"{file}: has no column messages or conversations; it has {', '.join(names) or 'none'}"
        )
    return opened


def _parquet_rows(part: Slice) -> Iterator[object]:
    opened = _open(part.file)
    columns = [name for name in COLUMNS if name in opened.schema_arrow.names]
    try:
        number = part.first
        for batch in opened.iter_batches(ROWS, row_groups=[part.place], columns=columns):
            for place in range(batch.num_rows):  # one by one: a damaged one is named
                number += 1
                yield from batch.slice(place, 1).to_pylist()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{part.file}, row {number}: is not UTF-8: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{part.file}: cannot be read as Parquet: {one_line(error)}") from error


def _line_slices(file: Path) -> Iterator[Slice]:
    """Slices of JSON lines; empty lines at the end are none."""
    starts, place, lines, filled = list[int](), 0, 0, 0
    try:
        with file.open("rb") as stream:
            for line in stream:
                if lines % ROWS == 0:
                    starts.append(place)
                lines += 1
                filled = lines if line.strip() else filled
                place += len(line)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {one_line(error)}") from error
    for number, start in enumerate(starts):
        first = number * ROWS
        if first < filled:
            yield Slice(str(file), first, min(ROWS, filled - first), start)


def _line_rows(part: Slice) -> Iterator[object]:
    try:
        with Path(part.file).open("rb") as stream:
            stream.seek(part.place)
            lines = [stream.readline() for _ in range(part.rows)]
    except OSError as error:
        raise ConfigError(f"{part.file}: cannot be read: {one_line(error)}") from error
    for number, line in enumerate(lines, part.first + 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{part.file}, row {number}: is not JSON: {error}") from error
        except RecursionError as error:
            raise ConfigError(f"{part.file}, row {number}: is nested too deeply") from error


def _json_rows(part: Slice) -> Iterator[object]:
    yield from _records(Path(part.file))[part.first : part.first + part.rows]


def _records(file: Path) -> list[object]:
    """The list in a JSON file; a process that reads its slices one by one parses it once."""
    try:
        status = file.stat()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {one_line(error)}") from error
    return _parsed(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _parsed(file: Path, modified: int, size: int) -> list[object]:
    try:
        records = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        hint = "; JSON lines are named *.jsonl" if "Extra data" in str(error) else ""
        raise ConfigError(f"{file}: cannot be read as JSON: {one_line(error)}{hint}") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: cannot be read as JSON: it is nested too deeply") from error
    if not isinstance(records, list):
        raise ConfigError(f"{file}: holds a {type(records).__name__}; it must hold a list")
    return records
