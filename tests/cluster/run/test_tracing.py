"""Spans of this process in its run's folder: which, on which track, and the seconds of each."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from opentelemetry import trace

from cluster import actors
from cluster.run import tracing
from cluster.run.tracing import count, pop_seconds, record_spans
from cluster.stream import buffer
from report.spans import read_spans
from tests.support.effort import assert_turns

TRACER = trace.get_tracer("cardinal")


@TRACER.start_as_current_span("decorated")
def decorated():
    return 3


@pytest.fixture
def run(tmp_path):
    record_spans(tmp_path, "learner rank 0")
    pop_seconds()
    yield tmp_path
    tracing._SPANS.file.close()


def test_spans_of_any_file_are_in_the_run_folder(run):
    with TRACER.start_as_current_span("update", attributes={"update": 4}):
        assert decorated() == 3
    state = TRACER.start_span("busy", attributes={"track": "engine"})
    count("episodes", {"ready": 1})
    recorded = read_spans(run)
    assert [(s.name, s.track, s.args, s.open) for s in recorded.spans] == [
        ("update", "main", {"update": 4}, False),
        ("decorated", "main", {}, False),
        ("busy", "engine", {}, True),
    ]
    assert recorded.counts[0].values == {"ready": 1}
    state.end()
    assert not any(span.open for span in read_spans(run).spans)


def test_those_of_libraries_are_not(run):
    with trace.get_tracer("vllm").start_as_current_span("request"):
        pass
    assert read_spans(run).spans == []
    assert pop_seconds() == {}


def test_a_process_goes_over_to_its_next_run(run, tmp_path_factory):
    following = tmp_path_factory.mktemp("next")
    decorated()
    record_spans(following, "learner rank 0")
    decorated()
    assert len(read_spans(run).spans) == len(read_spans(following).spans) == 1


def test_seconds_are_those_of_the_span_without_what_is_inside(run, monkeypatch):
    clock = SimpleNamespace(seconds=100)
    monkeypatch.setattr("opentelemetry.sdk.trace.time_ns", lambda: clock.seconds * 10**9)
    with TRACER.start_as_current_span("learn"):
        clock.seconds += 2
        for _ in range(2):
            with TRACER.start_as_current_span("step"):
                clock.seconds += 3
        with TRACER.start_as_current_span("busy", attributes={"track": "engine"}):
            clock.seconds += 1
    assert pop_seconds() == {"learn": 3.0, "step": 6.0}
    assert pop_seconds() == {}


def test_a_thread_of_its_own_has_a_track_of_its_own(run):
    def fetch():
        decorated()
        with TRACER.start_as_current_span("batch", attributes={"track": "next batch"}):
            pass

    with TRACER.start_as_current_span("learn"):
        thread = threading.Thread(target=fetch, name="fetcher")
        thread.start()
        thread.join()
    assert [(s.name, s.track) for s in read_spans(run).spans] == [
        ("learn", "main"),
        ("decorated", "fetcher"),
        ("batch", "next batch"),
    ]
    assert set(pop_seconds()) == {"learn"}


def test_what_an_executor_does_is_on_one_track(run):
    @TRACER.start_as_current_span("batch", attributes={"track": "next batch"})
    def batch():
        decorated()

    with ThreadPoolExecutor(1, "next batch") as executor:
        executor.submit(batch).result(60)
    tracks = [(s.name, s.track) for s in read_spans(run).spans]
    assert tracks == [("batch", "next batch"), ("decorated", "next batch")]


def test_a_folder_that_is_not_there_is_not_made(tmp_path, capsys):
    absent = tmp_path / "absent"
    record_spans(absent, "learner rank 0")
    decorated()
    count("episodes", {})
    assert not absent.exists()
    assert f"{absent}: there is no such run folder" in capsys.readouterr().err


def test_a_folder_that_does_not_answer_ends_no_process(tmp_path, capsys, monkeypatch):
    def away(folder):
        raise OSError("Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", away)
        record_spans(tmp_path, "rollout worker 0")
    decorated()
    assert f"{tmp_path}: there is no such run folder" in capsys.readouterr().err


def test_a_span_costs_little(run):
    """Two lines each; an update has some dozens."""
    assert_turns(lambda: [decorated() for _ in range(500)], 500 * 30_000)


def test_no_tracer_is_a_global_of_what_ray_sends_by_value():
    """A tracer in use holds locks, so its actor's class could not be sent."""
    for module in (actors, buffer):
        assert [n for n, value in vars(module).items() if isinstance(value, trace.Tracer)] == []
