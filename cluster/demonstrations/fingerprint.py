"""Whether a run's demonstrations are still those that it began with.

RUN/data.json holds the name, size and a hash of each file at sft.data, and of pictures that rows
name. Of large files the hash is of pieces spread over them, of many rows some are read, so that any
amount of data takes a few seconds at most.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from cluster.checkpoints.cursor import Cursor
from cluster.demonstrations.files import find_files, naming_data, rows, slices, spread
from configs.load import ConfigError
from configs.schema import RunConfig
from configs.text import one_line

FILE = "data.json"
PIECE = 2**14  # bytes
PIECES = 4096  # of all files together: 64 MiB; at least LEAST of each
LEAST = 2
SLICES = 16  # whose rows are read for the pictures that they name
RULE = (
    "a resume goes on with the same demonstrations: put them back, or begin a new run with another "
    "name"
)
Fingerprint = dict[str, list[int | str]]  # by file name: its size in bytes, and the hash


def unread_data(cfg: RunConfig, folder: Path) -> str | None:
    """sft.data where the run in a folder has still to read it; None without any, or after SFT."""
    left = cfg.sft.steps and Cursor.load(folder / "checkpoints").phase == "sft"
    return cfg.sft.data if left else None


def record_data(data: str, folder: Path) -> None:
    """Write what is at a path into the run folder; where a checkpoint has learned from it, compare.

    Raises:
        ConfigError: as `check_unchanged`.
    """
    file = folder / FILE
    if file.is_file() and _has_checkpoint(folder):
        check_unchanged(data, folder)
        return
    text = json.dumps(fingerprint(data), indent=1, sort_keys=True)
    if file.is_file() and file.read_text() != text:
        note = "has changed since the run began, which has no checkpoint and begins again with it"
        print(f"sft.data={data}: {note}", file=sys.stderr)
    draft = folder / f"{FILE}.new"
    draft.write_text(text)
    draft.replace(file)


def check_unchanged(data: str, folder: Path) -> None:
    """Refuse demonstrations that are not those that a checkpoint of a run has learned from.

    Raises:
        ConfigError: names the first file that is new, gone or another.
    """
    file = folder / FILE
    if not file.is_file() or not _has_checkpoint(folder):
        return
    now = fingerprint(data)
    try:
        before = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: is damaged: {one_line(error)}") from error
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            change = _change(before.get(name), now.get(name))
            raise ConfigError(f"sft.data={data}: {name} {change}; {RULE}")


def _has_checkpoint(folder: Path) -> bool:
    """Whether a resume goes on with what was learned; it begins from the model otherwise."""
    cursor = Cursor.load(folder / "checkpoints")
    return cursor.begun or bool(cursor.state)


def fingerprint(data: str) -> Fingerprint:
    """Of the files at a path, and of pictures that their rows name.

    Raises:
        ConfigError: there are none, or one cannot be read.
    """
    with naming_data(data):
        files = find_files(data)
        pieces = max(LEAST, PIECES // len(files))
        prints = {file.name: file_fingerprint(file, pieces) for file in files}
        pictures = {name: files[0].parent / name for name in _pictures(data)}
        there = {name: file for name, file in pictures.items() if file.is_file()}
        return prints | {name: file_fingerprint(file, LEAST) for name, file in there.items()}


def _pictures(data: str) -> set[str]:
    """What rows name; whoever renders a file that cannot be read says so."""
    from cluster.demonstrations.rows import named_pictures  # a renderer's imports take a while

    names = set[str]()
    with suppress(ConfigError):
        for part in spread(slices(data), SLICES):
            names.update(name for _, row in rows(part) for name in named_pictures(row))
    return names


def file_fingerprint(file: Path, pieces: int) -> list[int | str]:
    """A file's size in bytes, and the hash of at most so many pieces.

    Raises:
        ConfigError: it cannot be read.
    """
    digest = blake2b(digest_size=16)
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            for start in _starts(size, pieces):
                stream.seek(start)
                digest.update(stream.read(PIECE))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {one_line(error)}") from error
    return [size, digest.hexdigest()]


def _starts(size: int, pieces: int) -> list[int]:
    """Where pieces begin: all of a file that has no more of them, else the first to the last."""
    if size <= pieces * PIECE:
        return list(range(0, size, PIECE))
    return [(size - PIECE) * i // (pieces - 1) for i in range(pieces)]


def _change(before: list[int | str] | None, now: list[int | str] | None) -> str:
    if before is None:
        return "was not there when the run began"
    if now is None:
        return "was there when the run began, and is gone"
    if before[0] != now[0]:
        return f"had {before[0]:,} bytes when the run began, and has {now[0]:,}"
    return f"has other content than when the run began, in as many bytes ({now[0]:,})"
