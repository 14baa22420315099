"""A rank's resumable state in host memory, so that it can be written while training goes on.

Input: the state dictionaries that DeepSpeed saves. Output: copies of them by file name, which
another thread writes as files, and the same dictionaries from such files.
"""

from __future__ import annotations

import fcntl
import io
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any, BinaryIO, cast
from uuid import uuid4
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from learner import distributed

RANDOM = "random-"  # a file of each rank, whose number follows
NAMES = ("module", "param_shapes", "param_slice_mappings")  # what DeepSpeed keeps by parameter
EXPERTS = ("ds_autoep_layers", "autoep_layers")  # of a parallelism that Cardinal does not use
RESHARDED = "cardinal-state-"  # folders of states on their way to another number of ranks
COPIES = 3  # of a state while DeepSpeed converts it: as it is saved, in fragments, and merged
GIB = 2**30
Snapshot = dict[str, object]  # by file name: dictionaries, lists and tensors, all on the host
OpenFile = Callable[[str], BinaryIO]


class DamagedState(ValueError):
    """A file of a state is not what was written, as after a fault of a disk; or it is gone."""

    def __init__(self, name: str, cause: object) -> None:
        lines = str(cause).splitlines() or [type(cause).__name__]
        super().__init__(f"{name} of the last checkpoint cannot be read: {lines[0]}")


class HostFiles:
    """Stands in for DeepSpeed's checkpoint engine: what it saves stays in memory.

    Args:
        folder: where DeepSpeed believes its files to be.
        open_file: opens a saved file by its name, for reading.
    """

    name = "HostFiles"

    def __init__(self, folder: str, open_file: OpenFile | None = None) -> None:
        self.saved: Snapshot = {}
        self._folder, self._open = folder, open_file
        self._copies: dict[tuple[object, ...], torch.Tensor] = {}

    def save(self, state_dict: object, path: str) -> None:
        """Copy a state dictionary."""
        self._copies = {}  # only while these tensors live is each at an address of its own
        self.saved[os.path.relpath(path, self._folder)] = self._copied(state_dict)

    def load(self, path: str, map_location: object = None) -> object:
        """Read what was saved under this path."""
        assert self._open is not None, "files of a snapshot are not read"
        return read_file(self._open, os.path.relpath(path, self._folder))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make nothing: folders come with the files."""

    def create(self, info: object) -> None:
        """Begin nothing."""

    def commit(self, info: object) -> bool:
        """End nothing: whoever writes the files says when they are complete."""
        return True

    def cleanup(self) -> None:
        """Free nothing."""

    def is_decoupled(self) -> bool:
        """Whether DeepSpeed should commit later: no."""
        return False

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        """Whether this rank saves what all ranks have."""
        return dp_rank == 0

    def preserves_storage_sharing(self) -> bool:
        """Whether a view is saved with all of its storage: each tensor is copied alone."""
        return False

    def _copied(self, value: object) -> object:
        """The value with copies of its tensors; one that occurs twice, as tied weights, is one."""
        if isinstance(value, torch.Tensor):
            place = value.data_ptr(), value.dtype, value.shape, value.stride(), value.device
            if value.numel() == 0 or place not in self._copies:
                self._copies[place] = value.detach().to("cpu", copy=True).contiguous()
            return self._copies[place]
        if isinstance(value, dict):
            copied = ((key, self._copied(item)) for key, item in value.items())
            return type(value)(copied) if type(value).__name__ == "OrderedDict" else dict(copied)
        if isinstance(value, list):
            return [self._copied(item) for item in value]
        if type(value) is tuple:
            return tuple(self._copied(item) for item in value)
        return value


def read_file(open_file: OpenFile, name: str) -> object:
    """The dictionary in a file of a state, its tensors on the host.

    Raises:
        OSError: of the file system.
        ValueError: it holds an object of another kind than states do: reading it could run code.
        DamagedState: it is not what was written.
    """
    with open_file(name) as file:
        watched = _WatchedFile(file)
        stream = io.BufferedReader(watched)
        try:
            changed = ZipFile(stream).testzip()  # torch's own reader compares no checksum
            if changed is None:
                stream.seek(0)
                return torch.load(stream, map_location="cpu", weights_only=True)
        except (BadZipFile, UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
            if watched.fault is not None:
                raise watched.fault from error
            if not isinstance(error, UnpicklingError) and "memory" in str(error):
                raise
            if isinstance(error, UnpicklingError) and (kinds := _other_kinds(stream)):
                raise ValueError(
                    f"{name} of the last checkpoint holds {kinds}, which no state does; it is not "
                    "read, for it could run code"
                ) from error
            raise DamagedState(name, error) from error
        raise DamagedState(name, f"{changed} in it is not what was written")


class _WatchedFile(io.RawIOBase):
    """A file that remembers what the file system said: torch's readers make other errors of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: OSError | None = None

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return cast(io.BufferedIOBase, self._file).readinto(buffer)
        except OSError as error:
            self.fault = error
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _other_kinds(stream: BinaryIO) -> str:
    """The kinds of objects in a file that a state does not hold; nothing where it has no such."""
    stream.seek(0)
    with suppress(RuntimeError, ValueError, EOFError, UnpicklingError):
        return ", ".join(get_unsafe_globals_in_checkpoint(stream))
    return ""


def check_names(name: str, content: object, parameters: Collection[str]) -> None:
    """Refuse a file whose names are not the model's: DeepSpeed's conversion makes paths of them.

    It would write there, and run what code it finds there.

    Raises:
        ValueError: a name is not among the model's.
    """
    assert isinstance(content, dict), f"{name}: not a dictionary"
    optimizer = content.get("optimizer_state_dict")
    parts = content | optimizer if isinstance(optimizer, dict) else content
    named = {key for part in NAMES for key in _keys(parts.get(part))} - set(parameters)
    named |= {key for key in EXPERTS if parts.get(key) is not None}
    if named:
        raise ValueError(
            f"{name} of the last checkpoint names {min(named, key=str)}, which is no parameter of "
            "the model; it is not converted to another number of ranks"
        )


def _keys(value: object) -> Iterator[object]:
    """Of all dictionaries in it, as deep as there are lists of them."""
    if isinstance(value, dict):
        yield from value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)


def write_file(stream: BinaryIO, content: object) -> None:
    """Write one file of a snapshot."""
    torch.save(content, stream)


def snapshot_bytes(snapshot: Snapshot) -> int:
    """Bytes of its tensors, each once."""
    tensors = {id(t): t for t in _tensors(snapshot)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _tensors(value: object) -> Iterator[torch.Tensor]:
    items: Iterable[object] = ()
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    for item in items:
        yield from _tensors(item)


def random_files() -> Snapshot:
    """The state of every random generator of this process that a library may draw from."""
    _, keys, position, gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    state: dict[str, object] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys, np.int64)), position, gauss, cached),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {_random_file(): state}


def load_random_state(names: Collection[str], open_file: OpenFile) -> None:
    """Put every generator where this rank's file has it; a new rank's stay as they are."""
    if _random_file() not in names:
        return
    state = cast(dict[str, Any], read_file(open_file, _random_file()))
    keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _random_file() -> str:
    return f"{RANDOM}{distributed.rank():05d}.pt"


@contextmanager
def saved_files(names: Iterable[str], open_file: OpenFile) -> Iterator[tuple[str, HostFiles]]:
    """A folder that seems to hold the files: DeepSpeed looks for them before it loads them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            _parent(folder, name).touch()
        yield folder, HostFiles(folder, open_file)


@contextmanager
def resharded_files(
    names: Collection[str],
    open_file: OpenFile,
    tag: str,
    parameters: Collection[str],
    convert: Callable[[SimpleNamespace], None],
) -> Iterator[tuple[str, HostFiles]]:
    """A folder with DeepSpeed's universal checkpoint of the files, which any number of ranks load.

    One rank of each node makes it; a collective call.

    Args:
        names: of the files.
        open_file: opens one of them.
        tag: folder of DeepSpeed's own files among them.
        parameters: names of the model's weights and buffers.
        convert: DeepSpeed's own conversion.

    Raises:
        ValueError: there is no room for it, or a file holds what no state of the model does.
    """
    folder = str(Path(tempfile.gettempdir(), f"{RESHARDED}{_name_of_node()}"))
    makes = os.environ.get("LOCAL_RANK", "0") == "0"
    lock = -1
    try:
        if makes:
            _remove_orphans()
            _check_room(names, open_file)
            lock = _locked_folder(folder)
            for name in names:
                content = read_file(open_file, name)  # DeepSpeed would read anything
                if not name.startswith(RANDOM):
                    check_names(name, content, parameters)
                with _parent(f"{folder}/saved", name).open("wb") as copy:
                    write_file(copy, content)
            with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
                convert(_conversion(f"{folder}/saved/{tag}", f"{folder}/{tag}"))
        distributed.barrier()
        yield folder, HostFiles(folder, partial(_open, folder))
        distributed.barrier()
    finally:
        if makes:
            shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _name_of_node() -> str:
    """A new name, the same for the ranks of a node: nodes may share their temporary folder."""
    node = socket.gethostname() + Path("/proc/sys/kernel/random/boot_id").read_text()
    return next(name for n, name in distributed.all_gather((node, uuid4().hex)) if n == node)


def _check_room(names: Collection[str], open_file: OpenFile) -> None:
    """Refuse a conversion that would fill the temporary folder: its errors would not say so."""
    size, folder = 0, tempfile.gettempdir()
    for name in names:
        with open_file(name) as file:
            size += file.seek(0, os.SEEK_END)
    free = shutil.disk_usage(folder).free
    if COPIES * size > free:
        raise ValueError(
            f"for another number of ranks the last checkpoint is converted, which takes up to "
            f"{COPIES * size / GIB:.2f} GiB in {folder}, and {free / GIB:.2f} GiB are free; make "
            "room there, or set TMPDIR to another folder"
        )


def _conversion(source: str, target: str) -> SimpleNamespace:
    """The options of DeepSpeed's own conversion."""
    return SimpleNamespace(
        input_folder=source,
        output_folder=target,
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=False,
        inject_missing_state=True,
    )


def _locked_folder(folder: str) -> int:
    """Make a folder, and hold it; another process may take it for an orphan before it is held."""
    while True:
        Path(folder).mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            number = os.open(folder, os.O_RDONLY)
            fcntl.flock(number, fcntl.LOCK_EX)
            if Path(folder).is_dir():
                return number
            os.close(number)


def _remove_orphans() -> None:
    """Remove the folders that nobody holds: those who made them were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{RESHARDED}*"):
        with suppress(OSError):  # another user's, gone, or held
            number = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(number)


def _open(folder: str, name: str) -> BinaryIO:
    return Path(folder, name).open("rb")


def _parent(folder: str, name: str) -> Path:
    """The path of a file whose folder is there.

    Raises:
        ValueError: it is not in the folder; the names in an object store may be any text.
    """
    file = Path(folder, name)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the last checkpoint holds {name}; its files must lie in its own folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def ranks_of(names: Iterable[str]) -> int:
    """How many ranks wrote a state's files."""
    return sum(name.startswith(RANDOM) for name in names)
