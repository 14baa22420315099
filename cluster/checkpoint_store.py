"""Where a run's resumable states are: a folder, or below a URI of a filesystem that pyarrow speaks.

A state is a folder of files, some from each rank. Which states count is in the cursor
(cluster/cursor.py): one that it does not name was never completed, or is no longer kept.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pyarrow import ArrowException, fs

from cluster.cursor import Cursor
from configs.load import ConfigError
from configs.paths import below
from configs.schema import RunConfig
from configs.text import one_line

KEY = "learner.checkpoint_root"
CLAIM = "run.txt"  # at a URI: the run folder that the states belong to


class CheckpointStore:
    """States by name.

    Args:
        place: a folder, or a URI such as s3://BUCKET/PREFIX.

    Raises:
        ConfigError: pyarrow opens no such URI.
    """

    def __init__(self, place: str) -> None:
        self.place = place.partition("?")[0]
        try:
            uri = place if "://" in place else Path(place).absolute().as_uri()
            self._system, self._folder = fs.FileSystem.from_uri(uri)
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(
                f"{KEY}={place}: cannot be opened: {one_line(error)}; it must be a folder, or a "
                "URI that pyarrow opens, such as s3://BUCKET/PREFIX"
            ) from error

    @contextmanager
    def create(self, state: str, name: str) -> Iterator[BinaryIO]:
        """A new file of a state, complete when the context ends well.

        Raises:
            OSError: names the place.
        """
        path = PurePosixPath(self._folder, state, name)
        try:
            if not isinstance(self._system, fs.S3FileSystem):  # there folders are names alone
                self._system.create_dir(str(path.parent), recursive=True)
            with self._system.open_output_stream(str(path)) as stream:
                yield stream
            if isinstance(self._system, fs.LocalFileSystem):
                _to_disk(Path(path))  # before the cursor, which is, names it
        except Exception as error:
            cause = _io_error(error)
            if cause is None:
                raise
            place = f"{self.place}/{PurePosixPath(state, name)}"
            raise OSError(f"{place}: {one_line(cause)}") from error

    def names(self, state: str) -> list[str]:
        """The files of a state, in order; none where there is no such state.

        Raises:
            OSError: the place does not answer.
        """
        folder = f"{self._folder}/{state}"
        selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
        found = self._system.get_file_info(selector)
        return sorted(f.path[len(folder) + 1 :] for f in found if f.type == fs.FileType.File)

    def open(self, state: str, name: str) -> BinaryIO:
        """A file of a state, for reading."""
        file = self._system.open_input_file(f"{self._folder}/{state}/{name}")
        return io.BufferedReader(cast(io.RawIOBase, file))

    def keep(self, states: Collection[str]) -> None:
        """Remove all other states: those that a crash has left unfinished.

        Raises:
            OSError: the place does not allow it, or does not answer.
        """
        found = self._system.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        for folder in found:
            if folder.type == fs.FileType.Directory and folder.base_name not in states:
                self._system.delete_dir(folder.path)

    def remove(self, state: str) -> None:
        """Remove what there is of a state.

        Raises:
            OSError: as `keep`.
        """
        folder = f"{self._folder}/{state}"
        if self._system.get_file_info(folder).type == fs.FileType.Directory:
            self._system.delete_dir(folder)

    def free_bytes(self) -> int | None:
        """Bytes that are free; None where that is not known, as of an object store."""
        if not isinstance(self._system, fs.LocalFileSystem):
            return None
        folder = Path(self._folder)
        return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free

    def owner(self) -> str | None:
        """The run folder that a place at a URI belongs to; None while it belongs to none.

        Raises:
            OSError: the place does not answer.
        """
        file = f"{self._folder}/{CLAIM}"
        if self._system.get_file_info(file).type == fs.FileType.NotFound:
            return None
        with self._system.open_input_stream(file) as stream:
            return str(stream.read(), "utf-8")

    def claim(self, folder: Path) -> None:
        """Have the place belong to a run.

        Raises:
            OSError: it cannot be written to.
        """
        with self.create(".", CLAIM) as stream:
            stream.write(str(folder).encode())


def check_place(cfg: RunConfig, folder: Path, *, take: bool = False) -> None:
    """Refuse a place that does not answer, holds another run's states, or has lost this run's.

    Args:
        cfg: the run.
        folder: its run folder.
        take: have it belong to this run.

    Raises:
        ConfigError: names the place.
    """
    if cfg.learner.checkpoint_root is None:
        return
    store = CheckpointStore(state_place(cfg, folder))
    state = Cursor.load(folder / "checkpoints").state
    try:
        owner = store.owner()
        lost = bool(state) and not store.names(state)
        free = owner in (None, str(folder)) or bool(state)  # else the run folder was moved
        if take and free and not lost:
            store.claim(folder)
    except OSError as error:
        raise ConfigError(
            f"{KEY}: {store.place} cannot be read or written: {one_line(error)}"
        ) from error
    if lost:
        raise ConfigError(f"{KEY}: {store.place} does not hold {state}, the run's last checkpoint")
    if not free:
        raise ConfigError(
            f"{KEY}: {store.place} holds the states of the run {owner}; choose another name or "
            "another place"
        )


def state_place(cfg: RunConfig, folder: Path) -> str:
    """Where a run's states are, as a folder or a URI."""
    if cfg.learner.checkpoint_root is None:
        return str(folder / "checkpoints" / "state")
    return below(cfg.learner.checkpoint_root, cfg.name)


def _to_disk(file: Path) -> None:
    """Have the kernel write a file, and its folder's entry, to the disk."""
    for place in (file, file.parent):
        number = os.open(place, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _io_error(error: BaseException) -> Exception | None:
    """What the file system said, where another error hides it: torch ends its file even then."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError | ArrowException):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
