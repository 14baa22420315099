"""A run's trace: chosen updates of all processes as Chrome trace events, which Perfetto loads.

Input: what processes have recorded (report/spans.py). Output: the trace, and for each process
the share of the time that it spent on what.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from configs.load import ConfigError
from report.metrics import Record
from report.spans import MAIN, Count, Process, Recorded, Span

RANK_0 = "learner rank 0"
WAITS = (
    "take",
    "wait for weights",
    "wait for engines",
    "wait for the proof",
    "wait for the evaluation",
)  # a rank's spans without work
LAST = 3  # updates that are shown unless others are named
KINDS = ("learner", "trajectory", "rollout")  # processes in the order of the trace
Track = tuple[Process, str]


class Window(NamedTuple):
    """A part of a run's time (Unix, s), and its name."""

    name: str
    begin: float
    end: float


def updates(recorded: Recorded) -> dict[int, Window]:
    """When each update that stands was under way on rank 0, in their order.

    An update that is made again, after a restart or a resume, takes back those that came after it.
    """
    stand: dict[int, Window] = {}
    for span in sorted(recorded.spans, key=lambda span: span.begin):
        if span.process.name == RANK_0 and span.name == "update" and "update" in span.args:
            update = span.args["update"]
            stand = {number: window for number, window in stand.items() if number < update}
            stand[update] = Window(f"update {update}", span.begin, span.end)
    return stand


def choose(recorded: Recorded, option: str | None) -> Window:
    """The time of the updates that an option names; of the last three without one.

    Args:
        recorded: of a run.
        option: a number, FIRST-LAST, all for the whole run, or None.

    Raises:
        ConfigError: the run has not recorded them.
    """
    known = updates(recorded)
    if not recorded.spans:
        raise ConfigError("the run has recorded no spans: its folder trace is empty or not there")
    if option == "all" or (option is None and not known):
        end = max(span.end for span in recorded.spans)
        return Window("the whole run", recorded.spans[0].begin, end)
    if option is None:
        first, *_, last = [*known][-LAST:] * 2
    else:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", option)
        if match is None:
            raise ConfigError(f"--updates {option}: must be a number, FIRST-LAST or all")
        first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ConfigError(f"--updates {option}: FIRST must not be after LAST")
    missing = [update for update in (first, last) if update not in known]
    if missing:
        have = f"updates {ranges(known)}" if known else "no update"
        raise ConfigError(f"--updates {option}: the run has recorded {have}")
    name = f"update {first}" if first == last else f"updates {first} to {last}"
    return Window(name, known[first].begin, known[last].end)


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in words: 1 to 3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def clip(recorded: Recorded, window: Window) -> Recorded:
    """What lies in a window; spans are cut at its ends, counts hold from its begin."""
    spans = [
        replace(span, begin=max(span.begin, window.begin), end=min(span.end, window.end))
        for span in recorded.spans
        if span.begin < window.end and span.end > window.begin
    ]
    before: dict[tuple[Process, str], Count] = {}
    counts = []
    for count in recorded.counts:
        if count.time <= window.begin:
            before[count.process, count.name] = replace(count, time=window.begin)
        elif count.time < window.end:
            counts.append(count)
    return Recorded(spans, [*before.values(), *counts], recorded.moved_s)


def tracks(spans: Iterable[Span]) -> dict[Track, list[Span]]:
    """Spans by process and track, in the order of the trace."""
    found: dict[Track, list[Span]] = defaultdict(list)
    for span in spans:
        found[span.process, span.track].append(span)
    return dict(sorted(found.items(), key=_place))


def _place(item: tuple[Track, list[Span]]) -> tuple[int, list[int], bool, str, int]:
    process, track = item[0]
    kind = next((i for i, word in enumerate(KINDS) if process.name.startswith(word)), len(KINDS))
    numbers = [int(digits) for digits in re.findall(r"\d+", process.name)]
    return kind, numbers, track != MAIN, track, process.pid


def own_seconds(spans: Iterable[Span]) -> dict[str, float]:
    """Seconds of one track's spans by name, those of spans inside them apart."""
    seconds: dict[str, float] = defaultdict(float)
    around: list[Span] = []
    for span in spans:
        while around and around[-1].end <= span.begin:
            around.pop()
        if around:
            seconds[around[-1].name] -= span.end - span.begin
        seconds[span.name] += span.end - span.begin
        around.append(span)
    return dict(seconds)


def trace_events(recorded: Recorded, window: Window) -> Record:
    """The Chrome trace of a window: times in microseconds since its begin."""
    shown = clip(recorded, window)
    by_track = tracks(shown.spans)
    processes = {process: i + 1 for i, process in enumerate(dict.fromkeys(p for p, _ in by_track))}
    processes |= {c.process: len(processes) + 1 for c in shown.counts if c.process not in processes}
    events: list[Record] = [
        event for process, pid in processes.items() for event in _named(process, pid)
    ]
    for tid, ((process, track), spans) in enumerate(by_track.items(), 1):
        at = {"pid": processes[process], "tid": tid}
        events.append({"ph": "M", "name": "thread_name", **at, "args": {"name": track}})
        events.append({"ph": "M", "name": "thread_sort_index", **at, "args": {"sort_index": tid}})
        events += [_complete(span, window) | at for span in spans]
    events += [
        {
            "ph": "C",
            "name": count.name,
            "ts": _microseconds(count.time - window.begin),
            "pid": processes[count.process],
            "args": count.values,
        }
        for count in shown.counts
    ]
    moved = {host: round(seconds, 6) for host, seconds in recorded.moved_s.items()}
    about = {"shown": window.name, "begin_unix_s": window.begin, "time_of_day_moved_s": moved}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _named(process: Process, pid: int) -> Iterator[Record]:
    labels = f"{process.host}, process {process.pid}"
    for name, args in (
        ("process_name", {"name": process.name}),
        ("process_labels", {"labels": labels}),
        ("process_sort_index", {"sort_index": pid}),
    ):
        yield {"ph": "M", "name": name, "pid": pid, "tid": 0, "args": args}


def _complete(span: Span, window: Window) -> Record:
    begin = _microseconds(span.begin - window.begin)
    args = span.args | ({"not ended": True} if span.open else {})
    duration = _microseconds(span.end - window.begin) - begin
    return {
        "ph": "X",
        "cat": "wait" if span.name in WAITS else span.track,
        "name": span.name,
        "ts": begin,
        "dur": duration,
        "args": args,
    }


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)


def shares(recorded: Recorded, window: Window) -> dict[Track, dict[str, float]]:
    """For each track, the share of the window by what was done; most first."""
    seconds = window.end - window.begin
    return {
        track: {
            name: own / seconds
            for name, own in sorted(own_seconds(spans).items(), key=lambda item: -item[1])
        }
        for track, spans in tracks(clip(recorded, window).spans).items()
    }
