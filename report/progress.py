"""Live progress of a run in the terminal.

Input: the run folder's growing metrics.jsonl; output: a panel with rich, or one plain line
every few seconds where no terminal is attached.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from configs.schema import RunConfig
from report.evaluation import FIRST_TRY, WITHIN, headline
from report.metrics import METRICS, Record, is_incident
from report.statistics import wilson

PLAIN_EVERY_S = 5.0
COUNTED = ("phase", "sft", "ppo")
WINDOW = 16  # records whose pace gives the time left


class Tail:
    """Reads what was appended to a file since the last call.

    A file that was replaced (by a resume) is read from its beginning, and `replaced` says so.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.replaced = file, False
        self._offset, self._inode = 0, -1

    def read(self) -> list[Record]:
        """New complete records; none while the file does not exist."""
        try:
            stream = self.file.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            status = os.fstat(stream.fileno())  # by its path it may be another one already
            replaced = self._inode not in (-1, status.st_ino) or status.st_size < self._offset
            offset = 0 if replaced else self._offset
            stream.seek(offset)
            new = stream.read()
        complete = new[: new.rfind(b"\n") + 1]  # a line that is being written waits
        self.replaced, self._inode = replaced, status.st_ino
        self._offset = offset + len(complete)
        return [json.loads(line) for line in complete.splitlines()]


@dataclass
class State:
    """What the records so far say.

    phases: open phases, outermost first.
    last: the newest record of each kind.
    pace: (elapsed_s, steps done) of the newest records of the current counted phase.
    evals: the newest record of each stage and variant.
    seen, elapsed_s: clock (s, monotonic) at the newest record, and its own time.
    before: times of the records that were there before a resume: their phases have ended, and
        their pace does not count. No clock is compared, which may differ from node to node.
    """

    before: frozenset[float] = frozenset()

    phases: list[str] = field(default_factory=list)
    last: dict[str, Record] = field(default_factory=dict)
    pace: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    evals: dict[tuple[str, str], Record] = field(default_factory=dict)
    incidents: list[Record] = field(default_factory=list)
    parity: float = 0.0
    seen: float = 0.0
    elapsed_s: float = 0.0

    def add(self, record: Record, clock: float) -> None:
        """Take one record in."""
        kind = record["kind"]
        self.last[kind] = record
        self.seen, self.elapsed_s = clock, record["elapsed_s"]
        for measured in (record, *(record.get("check") or {}).values()):
            self.parity = max(self.parity, measured.get("parity_mean_abs") or 0.0)
        if kind in COUNTED and record.get("time") in self.before:
            return
        if kind == "phase":
            self._phase(record)
        elif kind in ("sft", "ppo"):
            self.pace.append((record["elapsed_s"], record["step" if kind == "sft" else "update"]))
        elif kind == "eval":
            self.evals[record["stage"], record["variant"]] = record
        elif is_incident(record):
            self.incidents.append(record)

    def _phase(self, record: Record) -> None:
        name = record["phase"]
        if name in self.phases:  # its end, or its begin again after a restart
            del self.phases[self.phases.index(name) :]
        if record["event"] == "begin":
            self.phases.append(name)
            if name in ("sft", "ppo"):
                self.pace.clear()
                self.pace.append((record["elapsed_s"], -1.0))  # its first step is not known yet

    @property
    def counted(self) -> str:
        """The open phase that has a length: sft, ppo or none."""
        return next((name for name in self.phases if name in ("sft", "ppo")), "")

    def done(self) -> tuple[int, int]:
        """Steps (or updates) done of the open counted phase, and all of them; (0, 0) unknown."""
        if not self.counted or len(self.pace) < 2:
            return 0, 0
        record = self.last[self.counted]
        step, steps = ("step", "steps") if self.counted == "sft" else ("update", "updates")
        return int(record[step]), int(record[steps])

    def seconds_left(self, clock: float) -> float | None:
        """Of the open counted phase, by its recent pace; None while nothing is known."""
        done, total = self.done()
        known = [point for point in self.pace if point[1] >= 0]
        if not total:
            return None
        begin = known[0] if len(known) > 1 else (self.pace[0][0], 0.0)
        end = known[-1]
        if end[1] <= begin[1]:
            return None
        each = (end[0] - begin[0]) / (end[1] - begin[1])
        return max(0.0, (total - done) * each - (clock - self.seen))


class RunConsole(Console):
    """A console whose reader may end before the run does."""

    def on_broken_pipe(self) -> None:
        """Raise the error, where rich's own would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Progress:
    """Shows a run while it lasts, or until nothing can be shown any more::

    with Progress(folder, cfg) as progress:
        while running:
            progress.update()  # a few times a second; never raises for what is not there yet
    """

    def __init__(self, folder: str | Path, cfg: RunConfig, console: Console | None = None) -> None:
        self._begin = time.monotonic()
        self._tail = Tail(Path(folder) / METRICS)
        old = self._tail.read()
        self._before = frozenset(r["time"] for r in old if r["kind"] in COUNTED)
        self.cfg, self.state = cfg, State(self._before)
        self._add(old, self._begin)
        self.console = console or RunConsole()
        self._live: Live | None = None
        self._printed, self._line = -PLAIN_EVERY_S, ""

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.update(last=True)
        self._stop()

    def update(self, last: bool = False) -> None:
        """Read what is new and show it; `last` prints the plain line whatever the clock says."""
        clock = time.monotonic()
        records = self._tail.read()
        if self._tail.replaced:
            self.state = State(self._before)
        self._add(records, clock)
        try:
            self._show(clock, last)
        except OSError as error:
            self.console.quiet = True
            self._stop()
            with suppress(OSError):
                print(f"{self._tail.file}: no more is shown: {error}", file=sys.stderr)

    def _add(self, records: list[Record], clock: float) -> None:
        for record in records:
            self.state.add(record, clock)

    def _stop(self) -> None:
        """Give the terminal back."""
        live, self._live = self._live, None
        if live:
            live.stop()

    def _show(self, clock: float, last: bool) -> None:
        if self._live:
            self._live.update(panel(self.state, self.cfg, self._elapsed(clock)), refresh=True)
        elif not self.console.quiet and (last or clock - self._printed >= PLAIN_EVERY_S):
            line = plain_line(self.state, clock)
            if line != self._line:
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)
                self._line, self._printed = line, clock

    def _elapsed(self, clock: float) -> float:
        """Seconds by the clock of the records; before the first one, since the display began."""
        if not self.state.last:
            return clock - self._begin
        return self.state.elapsed_s + clock - self.state.seen


def plain_line(state: State, clock: float) -> str:
    """The state on one line."""
    parts = [state.phases[-1] if state.phases else "starting"]
    done, total = state.done()
    if total:
        parts.append(f"{done}/{total}")
    if state.counted:
        parts += [f"{name} {value}" for name, value in numbers(state, state.counted)]
    left = state.seconds_left(clock)
    if left is not None:
        parts.append(f"{duration(left)} left")
    if state.phases and state.phases[-1].startswith("eval"):
        parts += [f"{stage} {variant} {share(r)}" for (stage, variant), r in state.evals.items()]
    if state.incidents:
        parts.append(incident(state.incidents[-1]))
    return "  ".join(parts)


def panel(state: State, cfg: RunConfig, elapsed: float) -> Group:
    """The state as a rich renderable."""
    clock = time.monotonic()
    done, total = state.done()
    phase = " › ".join(state.phases) or "starting"
    head = Table.grid(padding=(0, 2))
    left = state.seconds_left(clock)
    head.add_row(
        Text(cfg.name, style="bold"),
        Text(phase, style="bold cyan"),
        ProgressBar(total=total or None, completed=done, width=32, pulse=not total),
        Text(f"{done}/{total}" if total else ""),
        Text(f"{duration(left)} left" if left is not None else "", style="cyan"),
        Text(f"{duration(elapsed)} so far", style="dim"),
    )
    parts: list[RenderableType] = [head]
    for kind in ("sft", "ppo"):
        if kind in state.last:
            row = Text().append(f"{kind.upper():5}", style="bold")
            for name, value in numbers(state, kind):
                row.append(f"  {name} ", style="dim").append(value)
            parts.append(row)
    if "ppo" in state.last:
        row = Text().append("TIME ", style="bold")
        for name, value in times(state.last["ppo"]):
            row.append(f"  {name} ", style="dim").append(value)
        parts.append(row)
    if state.evals:
        parts.append(_evaluations(state))
    if state.parity:
        parts.append(Text(f"engine and learner differ by {state.parity:.1e} at most", style="dim"))
    parts += [Text(incident(r), style="bold red") for r in state.incidents[-3:]]
    return Group(*parts)


def _evaluations(state: State) -> Table:
    """Success by stage (rows) and variant (columns)."""
    stages = list(dict.fromkeys(stage for stage, _ in state.evals))
    variants = list(dict.fromkeys(variant for _, variant in state.evals))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    shown = [headline(record) for record in state.evals.values()]
    greedy = any(one.greedy for one in shown)
    table.add_column("success, greedy answers" if greedy else "success")
    for variant in variants:
        table.add_column(Text(variant))  # a Text, so that brackets are no markup
    for stage in stages:
        found = [state.evals.get((stage, variant)) for variant in variants]
        table.add_row(stage, *(share(record) if record else "" for record in found))
    return table


def numbers(state: State, kind: str) -> list[tuple[str, str]]:
    """The newest record of SFT or PPO as (name, value), what is most telling first."""
    record = state.last.get(kind)
    if record is None:
        return []
    if kind == "ppo":
        record = record | {"shown": _trained(record, state), "engines_idle": _range(record)}
    shown = {
        "sft": [
            ("loss", "loss", ".4f"),
            ("lr", "lr", ".1e"),
            ("tok/s", "tokens_per_second", ",.0f"),
            ("dropped", "dropped", ".0f"),
        ],
        "ppo": [
            ("reward", "reward", "+.2f"),
            ("success", "shown", ""),
            ("reads", "metric_recognition", ".1%"),
            ("kl", "kl", ".4f"),
            ("clip", "clip_fraction", ".1%"),
            ("entropy", "entropy", ".3f"),
            ("rollout tok/s", "rollout_tokens_per_second", ",.0f"),
            ("learner tok/s", "learner_tokens_per_second", ",.0f"),
            ("learner idle", "learner_idle", ".0%"),
            ("engines idle", "engines_idle", ""),
            ("failed", "failed", ".0f"),
        ],
    }
    return [
        (name, format(record[key], spec))
        for name, key, spec in shown[kind]
        if record.get(key) is not None and not (key in ("failed", "dropped") and record[key] == 0)
    ]


def times(record: Record) -> list[tuple[str, str]]:
    """Where the time and the episodes of the newest update went, as (name, value)."""
    seconds = record.get("phase_seconds") or {}
    largest = sorted(seconds.items(), key=lambda item: -item[1])
    shown = [(name, f"{spent:.1f} s") for name, spent in largest if spent >= 0.05]
    if record.get("staleness"):
        counts = (f"{late}: {n}" for late, n in enumerate(record["staleness"]) if n)
        shown.append(("staleness", ", ".join(counts)))
    ledger = record.get("ledger") or {}
    return shown + [(name, str(ledger[name])) for name in ("running", "ready") if name in ledger]


def _range(record: Record) -> str | None:
    """Least and most idle engine: '3%' or '3–10%'; None where nothing is known of any."""
    idle = [share for share in record.get("engine_idle") or [] if share is not None]
    if not idle:
        return None
    low, high = f"{100 * min(idle):.0f}", f"{100 * max(idle):.0f}"
    return f"{low}%" if low == high else f"{low}–{high}%"


def _trained(record: Record, state: State) -> str:
    """Success of an update's episodes, by the measure of the first variant's evaluation."""
    n = int(record.get("episodes_played") or record.get("episodes") or 0)
    evaluated = next(iter(state.evals.values()), {})
    intervals: Record = {}
    for measure, key in (("success", "interval"), (FIRST_TRY, "first_try_interval")):
        if record.get(measure) is not None:
            intervals[key] = wilson(record[measure] * n, n)
    lead = {"headline": evaluated.get("headline")}
    if record.get(FIRST_TRY) is None:
        lead = {}
    return share({key: record.get(key) for key in ("success", FIRST_TRY)} | intervals | lead)


def share(record: Record) -> str:
    """'24.1 % [20.3, 28.4]' of a record with its interval; ', reads 98.2 %' if measured.

    With several tries '12.5 % at first (24.1 % within all tries)'.
    """
    shown = headline(record)
    if shown.share is None:
        return "–"
    text = f"{100 * shown.share:.1f} %" + " at first" * shown.several
    if shown.interval is not None:
        text += " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in shown.interval))
    if shown.several and shown.within is not None:
        text += f" ({100 * shown.within:.1f} % {WITHIN})"
    read = (record.get("metrics") or {}).get("recognition")
    return text if read is None else f"{text}, reads {100 * read:.1f} %"


def incident(record: Record) -> str:
    """An incident on one line."""
    return f"{record['kind']}: {record.get('who', '')}: {record.get('cause', '')}"


def duration(seconds: float) -> str:
    """'42 s', '3:07' (minutes) or '2:03:07' (hours)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
