"""What must hold of the trace of a finished run, and of its records beside it."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.run.prometheus import EXPORTED
from report.metrics import Record, read
from report.spans import Recorded, Span, read_spans
from report.trace import RANK_0, WAITS, choose, clip, own_seconds, trace_events, updates
from tests.support.trace_format import check_trace

NEAR, NEAR_S = 0.03, 0.1  # of all updates: a busy machine may stop a process between two clocks
LEARNING = ("score", "learn", "step")


def check_seen(run: Path) -> None:
    """Assert that the trace is one, and that it and the records say the same of the updates."""
    recorded = read_spans(run)
    trace = trace_events(recorded, choose(recorded, "all"))
    check_trace(json.loads(json.dumps(trace)))
    records = {r["update"]: r for r in read(run) if r["kind"] == "ppo"}
    assert list(updates(recorded)) == list(records)
    check_learner(recorded, records)
    for engine in range(len(records[1]["engine_idle"])):
        check_engine(recorded, records, engine)


def check_learner(recorded: Recorded, records: dict[int, Record]) -> None:
    """The learner's seconds in all updates, by records and by spans."""
    seconds = own = idle = 0.0
    by_trace: dict[str, float] = {"waited": 0.0, "learned": 0.0}
    for number in records:
        window = updates(recorded)[number]
        spans = [s for s in clip(recorded, window).spans if s.process.name == RANK_0]
        parts = own_seconds([s for s in spans if s.track == "main"])
        seconds += window.end - window.begin
        own += sum(parts.values())
        idle += sum(parts.get(name, 0.0) for name in WAITS)
        by_trace["waited"] += parts["take"]
        by_trace["learned"] += sum(parts[name] for name in LEARNING)
    assert abs(own - seconds) < 0.001 * seconds, "the spans inside an update fill it"
    rows = records.values()
    phases = sum(r["phase_seconds"][name] for r in rows for name in LEARNING)
    for what, recorded_s, traced_s in (
        ("seconds", sum(r["seconds"] for r in rows), seconds),
        ("idle", sum(r["learner_idle"] * r["seconds"] for r in rows), idle),
        ("waited", sum(r["waited_seconds"] for r in rows), by_trace["waited"]),
        ("learned", sum(r["learn_seconds"] for r in rows), by_trace["learned"]),
        ("phases", phases, by_trace["learned"]),
    ):
        assert abs(recorded_s - traced_s) <= NEAR * seconds + NEAR_S, (what, recorded_s, traced_s)


def check_engine(recorded: Recorded, records: dict[int, Record], engine: int) -> None:
    """An engine's idle seconds from the first batch to the last, by records and by spans."""
    takes = [s.end for s in recorded.spans if s.name == "take" and s.process.name == RANK_0]
    spans = [s for s in recorded.spans if s.process.name == f"rollout worker {engine}"]
    busy = sum(_overlap(s, takes[0], takes[-1]) for s in spans if s.name == "busy")
    seconds = takes[-1] - takes[0]
    idle = sum(
        records[number]["engine_idle"][engine] * (end - begin)
        for number, begin, end in zip(list(records)[1:], takes, takes[1:], strict=False)
    )
    assert abs(idle - (seconds - busy)) <= NEAR * seconds + NEAR_S, (idle, seconds, busy)


def _overlap(span: Span, begin: float, end: float) -> float:
    return max(0.0, min(span.end, end) - max(span.begin, begin))


def check_exported(run: Path) -> None:
    """Assert that a run records every field that is exported to Prometheus."""
    recorded = {(record["kind"], field) for record in read(run) for field in record}
    assert set(EXPORTED) <= recorded, set(EXPORTED) - recorded
