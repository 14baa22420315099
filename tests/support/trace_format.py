"""Chrome's trace event format, as far as Cardinal's traces use it: what must hold of one.

After the format's own page: every event has a phase, process and time; complete events of a
thread nest, or do not meet; each process and thread has a name.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

ROUNDING = 0.2  # microseconds
METADATA = {
    "process_name": "name",
    "process_labels": "labels",
    "process_sort_index": "sort_index",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}


def check_trace(trace: dict[str, Any]) -> None:
    """Assert that it is one."""
    assert trace["displayTimeUnit"] in ("ms", "ns")
    threads: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    named: set[tuple[str, int, int]] = set()
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "C", "M"), f"phase {event['ph']}"
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int), f"pid {event['pid']}"
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert set(event["args"]) == {METADATA[event["name"]]}
            named.add((event["name"], event["pid"], event["tid"]))
            continue
        assert event["ts"] >= 0
        assert ("process_name", event["pid"], 0) in named, f"process {event['pid']} has no name"
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
        else:
            assert event["dur"] >= 0, f"dur {event['dur']}"
            assert ("thread_name", event["pid"], event["tid"]) in named
            threads[event["pid"], event["tid"]].append(event)
    for events in threads.values():
        check_nesting(events)


def check_nesting(events: list[dict[str, Any]]) -> None:
    """Assert that of any two events of a thread one holds the other, or they do not meet."""
    around: list[float] = []
    events = sorted(events, key=lambda e: (e["ts"], -e["dur"]))
    assert all(a["ts"] <= b["ts"] for a, b in pairwise(events))
    for event in events:
        begin, end = event["ts"], event["ts"] + event["dur"]
        while around and around[-1] <= begin + ROUNDING:
            around.pop()
        if around:
            assert end <= around[-1] + ROUNDING, f"{event['name']} and what holds it overlap"
        around.append(end)
