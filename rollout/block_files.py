"""Blocks of trajectories on disk: two Arrow files each, and what a block was written with.

FOLDER/trajectories-PART.arrow has a row for each trajectory, FOLDER/pictures-PART.arrow each
distinct picture once.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from rollout.trajectory import SCHEMA, Block, Trajectory, from_block, to_block

Metadata = dict[str, str]


def write_block(
    folder: Path, part: int, trajectories: list[Trajectory], metadata: Metadata | None = None
) -> None:
    """Write trajectories as one part of a folder, which is made if needed.

    A file is complete once it has its name; the trajectories' comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    block = to_block(trajectories)
    for name in ("pictures", "trajectories"):
        batch: pa.RecordBatch = getattr(block, name)
        if metadata is not None:
            batch = batch.replace_schema_metadata(metadata)
        file = folder / f"{name}-{part}.arrow"
        draft = file.with_suffix(".new")
        with pa.ipc.new_file(str(draft), batch.schema) as writer:
            writer.write_batch(batch)
        os.replace(draft, file)


def parts(folder: Path) -> list[Path]:
    """The trajectories' files of a folder, in the order of their parts."""
    return sorted(folder.glob("trajectories-*.arrow"), key=lambda f: int(f.stem.split("-")[1]))


def read_block(file: Path) -> list[Trajectory]:
    """The trajectories of a part, as views on its files.

    Raises:
        OSError, pyarrow.ArrowInvalid: a file is absent or damaged.
    """
    pictures = file.with_name(file.name.replace("trajectories", "pictures"))
    return from_block(Block(*(_open(f).get_batch(0) for f in (file, pictures))))


def read_metadata(file: Path) -> Metadata:
    """What a part was written with.

    Raises:
        OSError, pyarrow.ArrowInvalid: the file is absent or damaged.
        ValueError: its columns are not those of a block, or it has no metadata; one sentence.
    """
    schema = _open(file).schema
    if not schema.equals(SCHEMA, check_metadata=False):
        differ = set(schema) ^ set(SCHEMA)
        names = ", ".join(sorted({column.name for column in differ}))
        raise ValueError(
            f"{file.name} is of another version of Cardinal: its columns {names} are not those "
            "that this one reads"
        )
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}


def _open(file: Path) -> pa.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(file)))
