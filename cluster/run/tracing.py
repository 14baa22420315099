"""The spans of this process, as OpenTelemetry makes them, appended to its run's RUN/trace.

Any file begins one by `trace.get_tracer("cardinal")`. It is on the main track, on that of its
thread or executor, or on the one that its attribute `track` names. `report/spans.py` has the file.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from cluster.failures import name_process
from report.spans import MAIN, SpanFile

SCOPE = "cardinal"


class RunSpans(SpanProcessor):
    """Writes spans to the file of the process's present run.

    thread: whose spans are on the main track.
    seconds: by name, of ended spans of the main track without those inside them.
    """

    def __init__(self) -> None:
        self.file: SpanFile | None = None
        self.added = False  # to the provider
        self.thread = threading.get_ident()
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: dict[int, float] = defaultdict(float)  # by span: seconds of those inside

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Write that it begins."""
        if self.file is not None and _ours(span):
            args = {name: value for name, value in _attributes(span).items() if name != "track"}
            self.file.begin(_number(span), self._track(span), span.name, args)

    def on_end(self, span: ReadableSpan) -> None:
        """Write that it ends, and count its seconds."""
        if not _ours(span):
            return
        if self.file is not None:
            self.file.end(_number(span))
        if self._track(span) == MAIN:
            assert span.end_time is not None
            assert span.start_time is not None
            seconds = (span.end_time - span.start_time) / 1e9
            self.seconds[span.name] += seconds - self._inside.pop(_number(span), 0.0)
            if span.parent is not None:
                self._inside[span.parent.span_id] += seconds

    def _track(self, span: ReadableSpan) -> str:
        thread = threading.current_thread().name.removesuffix("_0")  # an executor's: as it is named
        own = MAIN if threading.get_ident() == self.thread else thread
        return str(_attributes(span).get("track", own))


_SPANS = RunSpans()


def record_spans(run: Path, process: str) -> None:
    """From now on, append the spans of this process to its file in a run's folder.

    Its errors name it, too. The calling thread's are on the main track.
    A folder that is not there is not made: the run's owner makes it, where all nodes see it.
    """
    name_process(process)
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False))
    provider = trace.get_tracer_provider()  # perhaps another one's, as of Ray's own tracing
    if isinstance(provider, TracerProvider) and not _SPANS.added:
        provider.add_span_processor(_SPANS)
        _SPANS.added = True
    if _SPANS.file is not None:
        _SPANS.file.close()
    _SPANS.thread = threading.get_ident()
    there = False
    with suppress(OSError):  # its storage is away: no process ends for want of its spans
        there = run.is_dir()
    _SPANS.file = SpanFile(run, process) if there else None
    if _SPANS.file is None:
        print(f"{run}: there is no such run folder; no spans are recorded", file=sys.stderr)


def count(name: str, values: Mapping[str, float]) -> None:
    """Append numbers that hold from now on, as the depths of queues."""
    if _SPANS.file is not None:
        _SPANS.file.count(name, values)


def pop_seconds() -> dict[str, float]:
    """Seconds of this process's spans that ended since the last call, by name.

    A span does not count those inside it, and what is on another track than the main one has
    none: so they add up to at most the time that passed.
    """
    seconds, _SPANS.seconds = _SPANS.seconds, defaultdict(float)
    return dict(seconds)


def _ours(span: ReadableSpan) -> bool:
    return span.instrumentation_scope is not None and span.instrumentation_scope.name == SCOPE


def _attributes(span: ReadableSpan) -> Mapping[str, object]:
    return span.attributes or {}


def _number(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id
