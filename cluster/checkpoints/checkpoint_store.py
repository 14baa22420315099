"""Where a run's resumable states are: a folder, or below a URI of a filesystem that pyarrow speaks.

A state is a folder of files, some from each rank. Which states count is in the cursor (cursor.py):
one that it does not name was never completed, or is no longer kept.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from uuid import uuid4

from pyarrow import ArrowException, fs

from cluster.checkpoints.cursor import Cursor, begin_cursor, cursor_file, has_cursor
from configs.disk import replace_file, to_disk
from configs.load import ConfigError
from configs.paths import below, is_uri
from configs.schema import RunConfig
from configs.text import one_line

KEY = "learner.checkpoint_root"
PIECE = 2**24  # bytes that are read at once
CLAIM = "run.txt"  # at a place of its own: the run that the states belong to
RUN_ID = "run_id.txt"  # in the run folder, beside the cursor: the same run's id
STATE_NAME = re.compile(r"(sft|ppo)-\d{6,}e?-[0-9a-f]{4}")


def state_name(cursor: Cursor, suffix: str) -> str:
    """A state's name; of two at one place of a run the suffix differs, or `unevaluated` does."""
    number = f"{cursor.step or cursor.update:06d}{'e' * cursor.unevaluated}"
    return f"{cursor.phase}-{number}-{suffix}"


@dataclass(frozen=True)
class Claim:
    """Whose states a place holds.

    id: the run's own: another run's folder may have the same path, on another machine or later.
    folder: its run folder: a copy of that has the same id.
    """

    id: str
    folder: str


class CheckpointStore:
    """States by name.

    Args:
        place: a folder, or a URI such as s3://BUCKET/PREFIX.

    Raises:
        ConfigError: pyarrow opens no such URI.
    """

    def __init__(self, place: str) -> None:
        self.place = place.partition("?")[0] if is_uri(place) else place
        try:
            uri = place if is_uri(place) else Path(place).absolute().as_uri()
            self._system, self._folder = fs.FileSystem.from_uri(uri)
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(
                f"{KEY}={self.place}: cannot be opened: {one_line(error)}; it must be a folder, or "
                "a URI that pyarrow opens, such as s3://BUCKET/PREFIX"
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
                to_disk(*self._made(Path(path)))  # before the cursor, which is, names it
        except Exception as error:
            cause = _io_error(error)
            if cause is None:
                raise
            place = f"{self.place}/{PurePosixPath(state, name)}"
            raise OSError(f"{place}: {one_line(cause)}") from error

    def _made(self, file: Path) -> list[Path]:
        """A file, and the folders up to the place that may have been made for it."""
        place = Path(self._folder)
        return [file, *(folder for folder in file.parents if folder.is_relative_to(place))]

    def names(self, state: str) -> list[str]:
        """The files of a state, in order; none where there is no such state.

        Raises:
            OSError: the place does not answer.
        """
        return sorted(self.sizes(state))

    def sizes(self, state: str) -> dict[str, int]:
        """Bytes of each file of a state.

        Raises:
            OSError: as `names`.
        """
        folder = f"{self._folder}/{state}"
        selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
        found = self._system.get_file_info(selector)
        return {f.path[len(folder) + 1 :]: f.size for f in found if f.type == fs.FileType.File}

    def open(self, state: str, name: str) -> BinaryIO:
        """A file of a state, for reading."""
        file = self._system.open_input_file(f"{self._folder}/{state}/{name}")
        return io.BufferedReader(cast(io.RawIOBase, file))

    def reads(self, state: str, name: str) -> bool:
        """Whether a file of a state can be read to its end, whatever it holds."""
        try:
            with self.open(state, name) as stream:
                while stream.read(PIECE):
                    pass
        except OSError:
            return False
        return True

    def keep(self, states: Collection[str]) -> None:
        """Remove all other states: those that a crash has left unfinished. No other folder.

        Raises:
            OSError: the place does not allow it, or does not answer.
        """
        for state in self.states():
            if state not in states:
                self._system.delete_dir(f"{self._folder}/{state}")

    def states(self) -> list[str]:
        """The states at the place, complete or not, in the order of their names.

        Raises:
            OSError: it does not answer.
        """
        found = self._system.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        folders = [f.base_name for f in found if f.type == fs.FileType.Directory]
        return sorted(filter(STATE_NAME.fullmatch, folders))

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

    def entries(self) -> list[str]:
        """What lies at the place, states and others, in order.

        Raises:
            OSError: it does not answer.
        """
        found = self._system.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return sorted(file.base_name for file in found)

    def meets(self, folder: Path) -> bool:
        """Whether the place is this folder of this machine, lies in it, or holds it."""
        if not isinstance(self._system, fs.LocalFileSystem):
            return False
        place, folder = Path(self._folder).resolve(), folder.resolve()
        return place.is_relative_to(folder) or folder.is_relative_to(place)

    def owner(self) -> Claim | None:
        """The run that the place belongs to; None while it belongs to none.

        Raises:
            OSError: the place does not answer.
        """
        file = f"{self._folder}/{CLAIM}"
        if self._system.get_file_info(file).type == fs.FileType.NotFound:
            return None
        with self._system.open_input_stream(file) as stream:
            folder, _, run_id = str(stream.read(), "utf-8").partition("\n")
        return Claim(run_id.strip(), folder)

    def claim(self, claim: Claim) -> None:
        """Have the place belong to a run.

        Raises:
            OSError: it cannot be written to.
        """
        with self.create(".", CLAIM) as stream:
            stream.write(f"{claim.folder}\n{claim.id}\n".encode())


def check_place(cfg: RunConfig, folder: Path, *, take: bool = False) -> None:
    """Refuse a place that does not answer, holds what is not this run's, or has lost its states.

    Nor may the run have lost its cursor: it would begin anew and remove its states.

    Args:
        cfg: the run.
        folder: its run folder.
        take: have it belong to this run.

    Raises:
        ConfigError: names the place.
    """
    store, checkpoints = CheckpointStore(state_place(cfg, folder)), folder / "checkpoints"
    apart = cfg.learner.checkpoint_root is not None
    key = f"{KEY}: " if apart else ""
    try:
        refusal = (_refusal(store, folder) if apart else "") or _lost_cursor(store, checkpoints)
        if take and not refusal:
            if apart:
                store.claim(Claim(_make_id(folder), str(folder)))
            begin_cursor(checkpoints)
    except OSError as error:
        raise ConfigError(
            f"{key}{store.place} cannot be read or written: {one_line(error)}"
        ) from error
    if refusal:
        raise ConfigError(f"{key}{store.place} {refusal}")


def _lost_cursor(store: CheckpointStore, checkpoints: Path) -> str:
    """Why a run without a cursor may not begin anew; nothing if it may."""
    states = [] if has_cursor(checkpoints) else store.states()
    if not states:
        return ""
    return (
        f"holds {', '.join(states)}, and {cursor_file(checkpoints)}, which says which of them "
        "counts, is gone: put it back, or remove them and the run begins anew"
    )


def _refusal(store: CheckpointStore, folder: Path) -> str:
    """Why a run may not have the place; nothing if it may."""
    if store.meets(folder):
        return f"meets the run folder {folder}; it must lie apart from it"
    state, owner = Cursor.load(folder / "checkpoints").state, store.owner()
    has_state = bool(state) and bool(store.names(state))
    if owner is not None and owner != Claim(_read_id(folder), str(folder)):
        sentence = f"holds the states of the run {owner.folder}; choose another name or "
        if not has_state:
            return sentence + "another place"
        return (
            f"{sentence}another place for a copy of it, or, if it was moved to {folder}, remove "
            f"{store.place}/{CLAIM}"
        )
    if state and not has_state:
        return f"does not hold {state}, the run's last checkpoint"
    others = [] if owner or has_state else store.entries()
    if others:
        return f"holds {others[0]}, which is not this run's; choose another name or another place"
    return ""


def _read_id(folder: Path) -> str:
    """A run's id; nothing while it has none."""
    file = folder / "checkpoints" / "state" / RUN_ID
    return file.read_text() if file.is_file() else ""


def _make_id(folder: Path) -> str:
    """A run's id, which is made once."""
    if run_id := _read_id(folder):
        return run_id
    run_id, file = uuid4().hex, folder / "checkpoints" / "state" / RUN_ID
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, run_id)  # on the disk before the claim, which would be another run's
    return run_id


def state_place(cfg: RunConfig, folder: Path) -> str:
    """Where a run's states are, as a folder or a URI."""
    if cfg.learner.checkpoint_root is None:
        return str(folder / "checkpoints" / "state")
    return below(cfg.learner.checkpoint_root, cfg.name)


def _io_error(error: BaseException) -> Exception | None:
    """What the file system said, where another error hides it: torch ends its file even then."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError | ArrowException):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
