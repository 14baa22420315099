"""Blocks of trajectories on disk: two Arrow files each, and what a block was written with.

FOLDER/trajectories-PART.arrow has a row for each trajectory, FOLDER/pictures-PART.arrow each
distinct picture once. The metadata holds a hash of both, by which damage is found.
"""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from configs.text import one_line
from rollout.trajectory import SCHEMA, Block, Trajectory, from_block, to_block

Metadata = dict[str, str]
HASH = "hash"  # of the content, in the metadata of a part


def write_block(
    folder: Path, part: int, trajectories: list[Trajectory], metadata: Metadata | None = None
) -> None:
    """Write trajectories as one part of a folder, which is made if needed.

    A file is complete once it has its name; the trajectories' comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    block = to_block(trajectories)
    metadata = (metadata or {}) | {HASH: _hash(block)}
    for name in ("pictures", "trajectories"):
        batch: pa.RecordBatch = getattr(block, name).replace_schema_metadata(metadata)
        file = folder / f"{name}-{part}.arrow"
        draft = file.with_suffix(".new")
        with pa.ipc.new_file(str(draft), batch.schema) as writer:
            writer.write_batch(batch)
        os.replace(draft, file)


def _hash(block: Block) -> str:
    """Of the columns' bytes alone, which are in memory as on disk."""
    digest = blake2b(digest_size=16)
    for batch in block:
        digest.update(pa.ipc.read_message(batch.serialize()).body)
    return digest.hexdigest()


def parts(folder: Path) -> list[Path]:
    """The trajectories' files of a folder, in the order of their parts.

    Raises:
        ValueError: one has no number; one sentence.
    """
    files = list(folder.glob("trajectories-*.arrow"))
    for file in files:
        if re.fullmatch(r"trajectories-[0-9]+", file.stem) is None:
            raise ValueError(f"{_name(file)}: must be named trajectories-PART.arrow, by a number")
    return sorted(files, key=lambda f: int(f.stem.split("-")[1]))


def remove_parts(folder: Path, first: int) -> None:
    """Remove the parts from a number on."""
    for file in parts(folder):
        if int(file.stem.split("-")[1]) >= first:
            file.unlink()
            file.with_name(file.name.replace("trajectories", "pictures")).unlink(missing_ok=True)


def read_block(file: Path) -> list[Trajectory]:
    """The trajectories of a part, as views on its files.

    Raises:
        ValueError: a file is missing or damaged; one sentence, which begins with its folder's name
            and its own.
    """
    written = _metadata(_open(file).schema).get(HASH)  # blocks of runs begun earlier have none
    pictures = file.with_name(file.name.replace("trajectories", "pictures"))
    block = Block(_read(file), _read(pictures))
    if written is not None and written != _hash(block):
        raise ValueError(f"{_name(file)} or {pictures.name} is damaged: not what was written")
    return from_block(block)


def read_metadata(file: Path) -> Metadata:
    """What a part was written with.

    Raises:
        ValueError: as `read_block`, or its columns are not those of a block.
    """
    schema = _open(file).schema
    if not schema.equals(SCHEMA, check_metadata=False):
        differ = set(schema) ^ set(SCHEMA)
        names = ", ".join(sorted({column.name for column in differ}))
        raise ValueError(
            f"{_name(file)} is of another version of Cardinal: its columns {names} are not those "
            "that this one reads"
        )
    return _metadata(schema)


def _metadata(schema: pa.Schema) -> Metadata:
    raw = schema.metadata or {}
    return {key.decode(errors="replace"): raw[key].decode(errors="replace") for key in raw}


def _read(file: Path) -> pa.RecordBatch:
    try:
        batch = _open(file).get_batch(0)
        batch.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error
    return batch


def _open(file: Path) -> pa.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(file)))
    except FileNotFoundError as error:
        raise ValueError(f"{_name(file)} is missing") from error
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{_name(file)} is damaged: {one_line(error)}")


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
