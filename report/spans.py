"""What each process of a run does when: spans and counts in RUN/trace, a file for each process.

Lines are appended as things begin and end, so that a killed run keeps them. Times are of the
machine's monotonic clock; lines of both clocks say what time of day that is.
"""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from report.metrics import Record

FOLDER = "trace"
CLOCKS_S = 60.0  # between two lines of both clocks
NUMBER = (int, float)
FORMS: dict[str, dict[str, type | tuple[type, ...]]] = {  # of lines, by what they tell
    "clock": {"clock": NUMBER, "name": str, "pid": int, "host": str, "boot": str},
    "begin": {"begin": int, "track": str, "name": str},
    "end": {"end": int},
    "count": {"count": str, "values": dict},
}
MAIN = "main"  # the track of what a process does one after another


@dataclass(frozen=True)
class Process:
    """A process of a run; host and boot are the machine's name and the start of its clock."""

    name: str
    pid: int
    host: str
    boot: str


@dataclass(frozen=True)
class Span:
    """What a process did on one of its tracks, from begin to end (Unix time, s).

    open: it has not ended; its end is then the last time at which the process can have lived.
    """

    process: Process
    track: str
    name: str
    begin: float
    end: float
    args: Record
    open: bool = False


@dataclass(frozen=True)
class Count:
    """Numbers that hold from a time (Unix, s) until the next count of the name."""

    process: Process
    name: str
    time: float
    values: dict[str, float]


@dataclass(frozen=True)
class Recorded:
    """All that a run has recorded, by time.

    moved_s: by host, by how much the time of day moved against the monotonic clock.
    left_out: a sentence for each file with lines that are damaged or of something else.
    """

    spans: list[Span]
    counts: list[Count]
    moved_s: dict[str, float]
    left_out: tuple[str, ...] = ()


class SpanFile:
    """One process's file. When it cannot be written, one line says so and nothing more is."""

    def __init__(self, run: Path, process: str) -> None:
        """Open the file of a process of a run, in the run's folder."""
        self._process = Process(process, os.getpid(), socket.gethostname(), _boot())
        name = f"{process.replace(' ', '-')}.{self._process.host}.{self._process.pid}.jsonl"
        self._file, self._clocks = run / FOLDER / name, -CLOCKS_S
        self._descriptor: int | None = None
        try:
            self._file.parent.mkdir(exist_ok=True)
            self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            self._give_up(error)

    def begin(self, span: int, track: str, name: str, args: Mapping[str, object]) -> None:
        """A span begins; its number is the process's own."""
        extra = {"args": dict(args)} if args else {}
        self._write({"begin": span, "track": track, "name": name, **extra})

    def end(self, span: int) -> None:
        """A span ends."""
        self._write({"end": span})

    def count(self, name: str, values: Mapping[str, float]) -> None:
        """These numbers hold from now on."""
        self._write({"count": name, "values": dict(values)})

    def close(self) -> None:
        """Nothing more is written."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _write(self, line: Record) -> None:
        if self._descriptor is None:
            return
        now = time.monotonic()
        lines = [{"t": now} | line]
        if now - self._clocks >= CLOCKS_S:
            self._clocks = now
            lines.insert(0, {"t": now, "clock": now + _offset(), **vars(self._process)})
        text = "".join(json.dumps(each, separators=(",", ":")) + "\n" for each in lines)
        data = text.encode()
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._give_up(error)
        else:
            if written < len(data):  # no line may follow this half
                self._give_up(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _give_up(self, error: OSError) -> None:
        self.close()
        print(f"{self._file}: spans are no longer recorded: {error}", file=sys.stderr)


def read_spans(run: Path) -> Recorded:
    """What the processes of a run have recorded; nothing where there is no such folder.

    Each machine has one offset of its clocks, the median of all its lines: its processes stay
    in order among themselves when its time of day is set.
    """
    read = {file: _read(file) for file in sorted((run / FOLDER).glob("*.jsonl"))}
    files = [lines for lines, _ in read.values() if any("clock" in line for line in lines)]
    left_out = [_left_out(file, lines, bad) for file, (lines, bad) in read.items()]
    offsets: dict[str, list[float]] = defaultdict(list)
    hosts: dict[str, str] = {}
    for line in (line for lines in files for line in lines if "clock" in line):
        offsets[line["boot"]].append(line["clock"] - line["t"])
        hosts[line["boot"]] = line["host"]
    moved = {hosts[boot]: max(each) - min(each) for boot, each in offsets.items()}
    lives = [_Life(lines, statistics.median(offsets[_clock(lines)["boot"]])) for lines in files]
    spans = [span for life in lives for span in life.spans(_until(life, lives))]
    return Recorded(
        sorted(spans, key=lambda span: (span.begin, -span.end)),
        sorted((count for life in lives for count in life.counts()), key=lambda c: c.time),
        moved,
        tuple(filter(None, left_out)),
    )


def _read(file: Path) -> tuple[list[Record], int]:
    """The lines of a process, and how many are none; half a last line, as of a kill, apart."""
    lines, bad = [], 0
    for text in file.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(text)
        except ValueError:
            bad += text.endswith(b"\n")
            continue
        if _is_line(line):
            lines.append(line)
        else:
            bad += 1
    return lines, bad


def _is_line(line: object) -> bool:
    """Whether it is of the form in which `SpanFile` writes."""
    if not isinstance(line, dict) or not _finite(line.get("t")):
        return False
    form = next((form for key, form in FORMS.items() if key in line), None)
    if form is None or not all(isinstance(line.get(name), type_) for name, type_ in form.items()):
        return False
    numbers = [line.get("clock", 0.0), *line.get("values", {}).values()]
    return isinstance(line.get("args", {}), dict) and all(map(_finite, numbers))


def _finite(value: object) -> bool:
    return isinstance(value, NUMBER) and math.isfinite(value)


def _left_out(file: Path, lines: list[Record], bad: int) -> str:
    """What of a file is left out; nothing where it is whole."""
    if lines and not any("clock" in line for line in lines):
        return f"{file}: is left out: no line of it names its process and its clocks"
    if bad:
        return f"{file}: {bad} lines are left out: they are damaged, or no spans"
    return ""


def _clock(lines: list[Record]) -> Record:
    """The first line of both clocks, which names the process."""
    return next(line for line in lines if "clock" in line)


class _Life:
    """The lines of one process, and its first and last time (Unix, s)."""

    def __init__(self, lines: list[Record], offset: float) -> None:
        self._lines, self._offset = lines, offset
        self.process = Process(*(_clock(lines)[key] for key in ("name", "pid", "host", "boot")))
        self.first, self.last = lines[0]["t"] + offset, lines[-1]["t"] + offset

    def spans(self, until: float) -> Iterator[Span]:
        """Its spans; those that have not ended last until then."""
        ends = {line["end"]: line["t"] + self._offset for line in self._lines if "end" in line}
        for line in self._lines:
            if "begin" in line:
                end = ends.get(line["begin"])
                yield Span(
                    self.process,
                    line["track"],
                    line["name"],
                    line["t"] + self._offset,
                    until if end is None else end,
                    line.get("args", {}),
                    end is None,
                )

    def counts(self) -> Iterator[Count]:
        """Its counts."""
        for line in self._lines:
            if "count" in line:
                yield Count(self.process, line["count"], line["t"] + self._offset, line["values"])


def _until(life: _Life, lives: list[_Life]) -> float:
    """How long a process can have lived: as others of its time, or until one took its place."""
    last = max(other.last for other in lives if other.first <= life.last)
    names = (o.first for o in lives if o.process.name == life.process.name and o.first > life.first)
    return max(life.last, min([last, *names]))


def _offset() -> float:
    """Time of day less the monotonic clock; of three readings the least interrupted one."""

    def reading() -> tuple[float, float]:
        before, day, after = time.monotonic(), time.time(), time.monotonic()
        return after - before, day - (before + after) / 2

    return min(reading() for _ in range(3))[1]


def _boot() -> str:
    """The start of this machine's monotonic clock, which all of its processes share."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()
