"""Who writes a run folder: one process at a time, on this machine or on shared storage.

The owner's file is RUN/lease/NUMBER.json, and its modification time is the owner's heartbeat. The
number is a fencing token: it goes up with each owner, and every writer of the folder checks that
its own is the highest. No file lock is used: not every shared storage has them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from cluster.failures import InUseError, RunFailure
from cluster.run.left_processes import end_left, process_state
from configs.disk import replace_file

FOLDER = "lease"
GROUP = "group"  # the newest learner group of the owner's
OWNED, ENDED = ".json", ".ended"  # how the newest lease's file is named
HEARTBEAT_S = 5.0
STALE_S = 60.0  # without a heartbeat; shared storage may show another node's late
LOOK_S = 1.0  # between looks at another owner's heartbeat


class LeaseLost(RunFailure):
    """Another process has taken the run folder, or it is gone: nothing more is written to it."""


@dataclass(frozen=True)
class Owner:
    """A process.

    host: its machine's name and boot, and the namespace of its process id: machines and containers
        may share a name.
    started: when the process started, in clock ticks since that boot: unlike a time of day it
        stays as it is when the clock is set.
    since: when it took the folder, UTC.
    folder: that folder, by which a copy of it is known; "" where that does not matter.
    nonce: its lease's own, for a folder that is begun again has the same number; "" likewise.
    """

    host: str
    pid: int
    started: int
    since: str
    folder: str = ""
    nonce: str = ""

    @classmethod
    def this_process(cls) -> Owner:
        """This process, from now on."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(_host(), os.getpid(), process_state(os.getpid())[1], since)

    def lives(self) -> bool | None:
        """Whether the process lives; None where only its heartbeat can tell."""
        if self.host != _host():
            return None
        try:
            state, started = process_state(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return started == self.started and state not in "ZX"  # a zombie, dead

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition(' ')[0]} since {self.since}"


@dataclass(frozen=True)
class Token:
    """The right to write a run folder, as each of the run's processes holds it."""

    folder: str
    number: int
    nonce: str
    group: int = 0  # of a learner group's rank 0, its number; 0 of every other process

    def of_next_group(self) -> Token:
        """For rank 0 of a learner group that begins: those of earlier ones write nothing more.

        One may be on a machine that Ray took for dead, and go on once that is back.
        """
        self.check()
        group = _group(self) + 1
        content = json.dumps({"nonce": self.nonce, "group": group})
        replace_file(Path(self.folder, FOLDER, GROUP), content)
        return replace(self, group=group)

    def check(self) -> None:
        """Called before each write.

        Raises:
            LeaseLost: it is no longer this run that may write.
        """
        newest = _newest(Path(self.folder))
        if newest is None:
            raise LeaseLost(
                f"{self.folder}: the run folder was deleted or moved while the run was writing it"
            )
        number, owner = newest
        if number == self.number and not _file(Path(self.folder), number).exists():
            raise LeaseLost(f"{self.folder}: the run has ended; nothing more is written to it")
        if owner is None or owner.nonce != self.nonce:
            raise LeaseLost(
                f"{self.folder}: another run has taken this run folder"
                f"{f' ({owner})' if owner else ''}; this one writes nothing more to it"
            )
        if self.group and _group(self) != self.group:
            raise LeaseLost(
                f"{self.folder}: another learner group of the run has begun; this one, which was "
                "taken for lost, writes nothing more to it"
            )


class Lease:
    """A context that owns a run folder, which must exist; `token` is for all who write to it.

    Raises:
        InUseError: another process owns it; the sentence says which and what to do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._ended = threading.Event()
        owned, nonce = str(folder.resolve()), uuid4().hex
        own = json.dumps(asdict(replace(Owner.this_process(), folder=owned, nonce=nonce)))
        while True:
            number, owner = _newest(folder) or (0, None)
            if owner is not None:
                print(f"{folder}: {_why_free(folder, number, owner)}", file=sys.stderr)
            self.token = Token(str(folder), number + 1, nonce)
            if _create(self._file, own):
                break  # otherwise another process was faster; it is the owner to ask about
        for old in self._folder.iterdir():
            if 0 < _number(old.name) < self.token.number:  # 0: another process's clock probe
                old.unlink(missing_ok=True)
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Token:
        self._beats.start()
        return self.token

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back: the number stays, so that the next owner's is higher."""
        self._ended.set()
        self._beats.join()
        # Taken over, deleted or away: the next owner finds this one ended.
        with suppress(OSError, LeaseLost):
            self.token.check()
            self._file.rename(self._file.with_suffix(ENDED))

    @property
    def _file(self) -> Path:
        return _file(self._folder.parent, self.token.number)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self.token.check()
                os.utime(self._file)
            except (LeaseLost, FileNotFoundError):  # who writes next is told
                return
            except OSError as error:  # shared storage that is away for a moment
                print(f"{self._file}: no heartbeat: {error}", file=sys.stderr)


def refuse_if_owned(folder: Path) -> None:
    """Refuse a run folder whose owner lives.

    Raises:
        InUseError: who owns it, since when, and what to do.
    """
    number, owner = _newest(folder) or (0, None)
    if owner is not None:
        _why_free(folder, number, owner)


def _why_free(folder: Path, number: int, owner: Owner) -> str:
    """Why an owner has no right to a folder.

    Raises:
        InUseError: it has.
    """
    if _is_copy(folder, number, owner) and not _beats(folder, owner, number):
        return f"a copy of {owner.folder}, which stays that of {owner}"
    lives = owner.lives()
    if lives is False:  # its processes may still be ending, and hold what the next one needs
        end_left(owner.pid, owner.started)
    if lives is None:
        lives = _beats(folder, owner, number)
    if lives:
        raise InUseError(
            f"{folder}: the run folder is in use by {owner}; wait until that run has ended, or "
            "end it"
        )
    return f"taken over from {owner}, which has ended"


def _is_copy(folder: Path, number: int, owner: Owner) -> bool:
    """Whether the lease came with a copy of the owner's folder, where that still is.

    By inodes alone: two mounts of one shared storage have other devices, and must not count. Some
    file systems number them by mount; there the owner's heartbeat is seen in this folder too.
    """
    own, theirs = _file(folder, number), _file(Path(owner.folder), number)
    try:
        return own.stat().st_ino != theirs.stat().st_ino and _read(theirs) == owner
    except OSError:  # the folder was moved, or is another machine's
        return False


def _beats(folder: Path, owner: Owner, number: int) -> bool:
    """Whether another machine's owner has a heartbeat within STALE_S."""
    file = _file(folder, number)
    begin, first = time.monotonic(), _modified(file)
    if first is None or _storage_clock(file.parent) - first > STALE_S:
        return False
    print(f"{folder}: waiting for a heartbeat of {owner}", file=sys.stderr)
    while time.monotonic() - begin < STALE_S:
        time.sleep(LOOK_S)
        now = _modified(file)
        if now is None or now != first:
            return now is not None
    return False


def _file(folder: Path, number: int) -> Path:
    """The file of a run folder's lease, until its owner ends."""
    return folder / FOLDER / f"{number:06d}{OWNED}"


def _modified(file: Path) -> float | None:
    """Time of the last heartbeat; opened, so that shared storage is asked and not its cache."""
    try:
        with file.open() as stream:
            return os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _storage_clock(folder: Path) -> float:
    """Now, by the clock that sets modification times in the folder."""
    probe = folder / f"{uuid4().hex}.clock"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _newest(folder: Path) -> tuple[int, Owner | None] | None:
    """The highest number and its owner, None if that has ended; None without any lease."""
    try:
        name = max(os.listdir(folder / FOLDER), key=_number, default="")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not _number(name):
        return None
    return _number(name), _read(folder / FOLDER / name) if name.endswith(OWNED) else None


def _group(token: Token) -> int:
    """The number of the run's newest learner group, 0 before the first."""
    try:
        content = json.loads(Path(token.folder, FOLDER, GROUP).read_text())
    except FileNotFoundError:
        return 0
    return int(content["group"]) if content["nonce"] == token.nonce else 0


def _read(file: Path) -> Owner | None:
    """The owner in a lease's file; None once it has ended, or died before it could write it."""
    for _ in range(2):
        with suppress(FileNotFoundError, ValueError):
            return _owner(json.loads(file.read_text()))
        time.sleep(LOOK_S)  # created a moment ago, and not written yet
    return None


def _owner(written: object) -> Owner:
    """The owner that a lease's file holds; another version of Cardinal writes other fields."""
    values = written if isinstance(written, dict) else {}
    if values.keys() | {"folder", "nonce"} == {field.name for field in fields(Owner)}:
        return Owner(**values)
    name = str(values.get("host", "unknown")).partition(" ")[0]  # no `_host`: its heartbeat tells
    return Owner(name, values.get("pid", 0), 0, str(values.get("since", "an unknown time")))


def _number(name: str) -> int:
    """Of a lease's file; 0 of any other."""
    stem, _, kind = name.partition(".")
    return int(stem) if stem.isdigit() and f".{kind}" in (OWNED, ENDED) else 0


def _create(file: Path, text: str) -> bool:
    """Create a file, unless it is there."""
    try:
        with file.open("x") as stream:  # exclusive on shared storage too
            stream.write(text)
    except FileExistsError:
        return False
    return True


def _host() -> str:
    """The machine, its process ids' namespace and its boot, as text."""
    namespace = boot = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {namespace} {boot}"
