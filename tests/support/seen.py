"""What must hold of the trace of a finished run, and of its records beside it."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.prometheus import EXPORTED
from report.metrics import read
from report.spans import Recorded, Span, read_spans
from report.trace import RANK_0, WAITS, choose, clip, own_seconds, trace_events, updates
from tests.support.trace_format import check_trace

NEAR_S = 0.1  # a record is written a moment after its last span, on a busy machine later
NEAR = 0.03


def check_seen(run: Path) -> None:
    """Assert that the trace is one, and that it and the records say the same of each update."""
    recorded = read_spans(run)
    trace = trace_events(recorded, choose(recorded, "all"))
    check_trace(json.loads(json.dumps(trace)))
    records = {r["update"]: r for r in read(run) if r["kind"] == "ppo"}
    assert list(updates(recorded)) == list(records)
    takes = [s for s in recorded.spans if s.name == "take" and s.process.name == RANK_0]
    for number, record in records.items():
        check_learner(recorded, number, record)
        if number > 1:
            ends = takes[number - 2].end, takes[number - 1].end
            check_engines(recorded, *ends, record["engine_idle"])


def check_learner(recorded: Recorded, number: int, record: dict) -> None:
    """The learner's seconds of an update, by its record and by its spans."""
    window = updates(recorded)[number]
    spans = [s for s in clip(recorded, window).spans if s.process.name == RANK_0]
    own = own_seconds([s for s in spans if s.track == "main"])
    seconds = window.end - window.begin
    idle = sum(own.get(name, 0.0) for name in WAITS)
    learned = sum(own[name] for name in ("score", "learn", "step"))
    for by_record, by_trace in (
        (record["seconds"], seconds),
        (record["learner_idle"] * record["seconds"], idle),
        (record["waited_seconds"], own["take"]),
        (record["learn_seconds"], learned),
        (sum(record["phase_seconds"][name] for name in ("score", "learn", "step")), learned),
    ):
        assert abs(by_record - by_trace) <= NEAR_S + NEAR * seconds, (number, own, record)


def check_engines(recorded: Recorded, begin: float, end: float, idle: list[float]) -> None:
    """The engines' idle shares between two batches."""
    for engine, by_record in enumerate(idle):
        spans = [s for s in recorded.spans if s.process.name == f"rollout worker {engine}"]
        busy = sum(_overlap(s, begin, end) for s in spans if s.name == "busy")
        by_trace = 1 - busy / (end - begin)
        assert abs(by_record - by_trace) <= NEAR + NEAR_S / (end - begin), (by_record, by_trace)


def _overlap(span: Span, begin: float, end: float) -> float:
    return max(0.0, min(span.end, end) - max(span.begin, begin))


def check_exported(run: Path) -> None:
    """Assert that a run records every field that is exported to Prometheus."""
    recorded = {(record["kind"], field) for record in read(run) for field in record}
    assert set(EXPORTED) <= recorded, set(EXPORTED) - recorded
