"""TensorBoard's file of a run's numbers; a module of its own, since its import takes long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class EventFile:
    """A folder's new file of events, in the place of those before: scalars and histograms by tag.

    A TensorBoard that shows the folder forgets what it has read. The files before are emptied, not
    removed: it would wait for ever for more of one that is gone. Where the clock went back one may
    have a later name than the new file, at which it would stop: that one is removed.
    """

    def __init__(self, folder: Path) -> None:
        old = set(folder.glob("events.*"))
        for before in old:
            os.truncate(before, 0)
        self._writer = EventFileWriter(str(folder))
        for new in set(folder.glob("events.*")) - old:
            for later in (before for before in old if before > new):
                later.unlink()
        begin = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=0, session_log=begin))

    def add(
        self,
        time: float,
        step: int,
        scalars: Iterable[tuple[str, float]],
        histograms: dict[str, list[int]],
    ) -> None:
        """Add an event; a histogram's counts are of 0, 1, …"""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars]
        values += [Summary.Value(tag=t, histo=_histogram(c)) for t, c in histograms.items()]
        self._writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Write what was added."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _histogram(counts: list[int]) -> HistogramProto:
    number = len(counts)
    return HistogramProto(
        min=0,
        max=number - 1,
        num=sum(counts),
        sum=sum(i * n for i, n in enumerate(counts)),
        sum_squares=sum(i * i * n for i, n in enumerate(counts)),
        bucket_limit=[i + 0.5 for i in range(number)],
        bucket=counts,
    )
