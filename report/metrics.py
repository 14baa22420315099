"""A run's numbers on disk: metrics, sample episodes, outcomes, and the same for TensorBoard.

Each record is one JSON object a line, flushed at once, and scalars for TensorBoard; the kinds
of records are listed at `RunLog.write`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from configs.disk import replacing, to_disk
from configs.load import ConfigError

METRICS, EPISODES, OUTCOMES = "metrics.jsonl", "episodes.jsonl", "outcomes.jsonl"
BY_ENGINE = ("engine_idle", "paused_seconds")  # lists, each number a scalar of TensorBoard's
Record = dict[str, Any]  # a JSON object


def is_incident(record: Record) -> bool:
    """Whether a record is of something that a user should see: its who and its cause."""
    given_up = record["kind"] == "packing" and bool(record["cause"])
    return given_up or record["kind"] in ("restart", "failure")


class RunLog:
    """Appends to a run folder's records.

    A folder that already has records is continued: `elapsed_s` continues from the last one, so
    that the time between an interruption and its resume does not count. TensorBoard's file
    is written again from what is kept, so that it never shows a step twice.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: Callable[[Record], bool] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Open a run folder, which is made if needed.

        Args:
            folder: the run folder.
            keep: which earlier records stay (all, if None). It is asked about sample episodes
                too, as records of kind "eval".
            check: called before each write; raises where this process may no longer write.
        """
        from report.event_file import EventFile  # readers of records need no TensorBoard

        check()
        self.folder, self._check = Path(folder), check
        self.folder.mkdir(parents=True, exist_ok=True)
        self._events = EventFile(self.folder / "tensorboard")
        elapsed_s = 0.0
        for record in _rewrite(self.folder / METRICS, keep):
            elapsed_s = max(elapsed_s, record["elapsed_s"])
            self._scalars(record)
        self._begin = time.monotonic() - elapsed_s
        self._events.flush()
        of_eval = keep and (lambda e: keep({"kind": "eval"} | e))
        for played in (EPISODES, OUTCOMES) if of_eval else ():
            deque(_rewrite(self.folder / played, of_eval), maxlen=0)

    def write(self, kind: str, **numbers: object) -> None:
        """Append one record.

        Values may be Python, NumPy or one-element torch numbers, text, None, lists and
        dictionaries of these. What is not finite becomes null.

        Args:
            kind: sft (a step), ppo (an update), eval (a stage and variant), sync (a publish),
                phase (its begin or end), packing (of an engine), restart, failure.
            numbers: the record's fields; `time` (Unix, s), `kind` and `elapsed_s` are added.
        """
        stamp = {"time": time.time(), "kind": kind, "elapsed_s": time.monotonic() - self._begin}
        record = plain(stamp | numbers)
        self._check()
        append(self.folder / METRICS, record)
        self._scalars(record)
        self._events.flush()

    def episode(self, record: Record) -> None:
        """Append one sample episode: stage, variant, seed, end, success, reward, messages."""
        self._check()
        append(self.folder / EPISODES, plain(record))

    def outcomes(self, rows: list[Record]) -> None:
        """Append evaluated episodes: stage, step, update, variant, seed, end, reward, metrics.

        Of a failed one also the failure: its cause.
        """
        self._check()
        append(self.folder / OUTCOMES, *(plain(row) for row in rows))

    def to_disk(self) -> None:
        """Have the kernel write all records to the disk."""
        files = (self.folder / name for name in (METRICS, EPISODES, OUTCOMES))
        to_disk(*filter(Path.exists, files), self.folder)

    def close(self) -> None:
        """Finish TensorBoard's file; the JSON lines are always complete."""
        self._events.close()

    def _scalars(self, record: Record) -> None:
        if record["kind"] == "phase":
            return
        counts = record.get("staleness")
        histograms = {f"{record['kind']}/staleness": counts} if counts else {}
        self._events.add(record["time"], step_of(record), scalars(record), histograms)


def read(folder: str | Path) -> list[Record]:
    """All records of a run folder; none when there is no file yet.

    Raises:
        ConfigError: a line is no JSON object, but for half of a last one.
    """
    return read_lines(Path(folder) / METRICS)


def outcomes(folder: str | Path) -> list[Record]:
    """One row per evaluated episode of a run folder (`RunLog.outcomes`)."""
    return read_lines(Path(folder) / OUTCOMES)


def episodes(folder: str | Path) -> list[Record]:
    """All sample episodes of a run folder."""
    return read_lines(Path(folder) / EPISODES)


def read_lines(file: Path) -> list[Record]:
    """JSON lines of a file; a half-written last line, as a kill leaves it, is left out."""
    return [record for _, record in _lines(file)]


def _lines(file: Path) -> Iterator[tuple[bytes, Record]]:
    """As `read_lines`, one after another, each as it stands too."""
    if not file.is_file():
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            wrong = f"{file}, line {number}, is not a JSON object"
            try:
                record = json.loads(line)
            except ValueError as error:
                if not stream.read(1):
                    return
                raise ConfigError(f"{wrong}: {error}") from error
            if not isinstance(record, dict):
                raise ConfigError(f"{wrong}: {str(record)[:80]}")
            yield line, record


def read_object(file: Path) -> Record:
    """A file with one JSON object; empty when it is not there.

    Raises:
        ConfigError: it holds something else.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file} is not a JSON object: {str(found)[:80]}")
    return found


def plain(value: object) -> Any:
    """The value in JSON's own types: NumPy and torch numbers unwrapped, non-finite ones None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a record holds {value!r}, a {type(value).__name__}; it must be JSON's own")


def append(file: Path, *records: Record) -> None:
    """Add JSON lines to a file, all of them or none; half a last line that is there goes.

    Raises:
        OSError: the disk is full; the file is as it was.
    """
    # One write per call, and the file is opened again: other processes may append or replace it.
    lines = [json.dumps(r, allow_nan=False, ensure_ascii=False) + "\n" for r in records]
    text = "".join(lines).encode()
    with file.open("ab+", buffering=0) as stream:
        _cut_half_line(stream)
        written = stream.write(text)
        if written < len(text):  # a last line in part: the next one would be glued to it
            stream.truncate(stream.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def _cut_half_line(stream: FileIO) -> None:
    """Drop what stands after the last newline, as a loss of power leaves it."""
    begin = size = stream.seek(0, os.SEEK_END)
    end, back = -1, 1
    while end < 0 < begin:
        begin = max(0, size - back)
        stream.seek(begin)
        end = stream.read(size - begin).rfind(b"\n")
        back *= 1024
    if begin + end + 1 < size:
        stream.truncate(begin + end + 1)


def _rewrite(file: Path, keep: Callable[[Record], bool] | None) -> Iterator[Record]:
    """Drop what is not kept and a half-written last line; yields what is left.

    One record after another: a long run's do not fit into memory.
    """
    if not file.is_file():
        return
    with replacing(file) as new:
        for line, record in _lines(file):
            if keep is None or keep(record):
                new.write(line.rstrip(b"\n") + b"\n")
                yield record


def step_of(record: Record) -> int:
    """The step of a record's numbers on a chart; evaluations of all stages share the clock."""
    clock = ("elapsed_s",)
    fields = clock if record["kind"] == "eval" else ("step", "update", "version", *clock)
    return int(next((record[field] for field in fields if field in record), 0))


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """Every number of a record as (tag, value)."""
    prefix = [record["kind"]]
    if record["kind"] == "eval":
        prefix.append(str(record.get("variant")))
    skipped = {"time", "elapsed_s", "kind", "step", "steps", "update", "updates", "n"}

    def walk(path: list[str], value: object) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from walk([*path, name], item)
        elif isinstance(value, list) and path[-1] in BY_ENGINE:
            yield from walk(path, {str(engine): number for engine, number in enumerate(value)})
        elif isinstance(value, int | float):
            yield "/".join(path), float(value)

    for name, value in record.items():
        if name not in skipped:
            yield from walk([*prefix, name], value)
