"""From spans to a trace: which updates, cut where, in the form that Perfetto loads."""

import json

import pytest

from configs.load import ConfigError
from report.spans import Count, Process, Recorded, Span
from report.trace import choose, clip, own_seconds, shares, trace_events, tracks, updates
from tests.support.trace_format import check_trace

RANK_0 = Process("learner rank 0", 10, "node-1", "b1")
RANK_1 = Process("learner rank 1", 10, "node-2", "b2")
BUFFER = Process("trajectory buffer", 11, "node-1", "b1")
WORKERS = [Process(f"rollout worker {i}", 40 - i, "node-2", "b2") for i in (0, 2, 10)]


def span(process, name, begin, end, track="main", **args):
    return Span(process, track, name, 1000.0 + begin, 1000.0 + end, args)


def recorded():
    """Four updates of 10 s after 5 s of evaluation: 6 taking, of which the engines idle 1."""
    spans = [span(RANK_0, "eval start", 0, 5)]
    counts = [Count(BUFFER, "episodes", 1002.0, {"ready": 3})]
    for update in range(1, 5):
        at = 10 * update - 5
        spans += [
            span(RANK_0, "update", at, at + 10, update=update),
            span(RANK_0, "take", at, at + 6),
            span(RANK_0, "learn", at + 6, at + 9),
            span(RANK_0, "step", at + 7, at + 8),
            span(RANK_0, "wait for weights", at + 9, at + 10),
            span(RANK_0, "batch", at + 6, at + 12, "next batch"),
            span(RANK_1, "update", at + 1, at + 9, update=update),
            span(RANK_1, "learn", at + 6, at + 9),
            span(BUFFER, "weights travel", at + 9, at + 10, "weights", version=update),
        ]
        for worker in WORKERS:
            spans.append(span(worker, "idle", at + 5, at + 10, "engine"))
            spans.append(span(worker, "busy", at + 10, at + 15, "engine"))
        counts.append(Count(BUFFER, "episodes", 1000.0 + at + 1, {"ready": update}))
    return Recorded(sorted(spans, key=lambda s: (s.begin, -s.end)), counts, {"node-1": 0.002})


def test_updates_are_rank_0s():
    found = updates(recorded())
    assert list(found) == [1, 2, 3, 4]
    assert (found[2].begin, found[2].end) == (1015.0, 1025.0)


def test_an_update_that_was_played_again_counts_the_last_time():
    again = span(RANK_0, "update", 100, 110, update=2)
    found = updates(Recorded([*recorded().spans, again], [], {}))
    assert {update: window.begin for update, window in found.items()} == {1: 1005.0, 2: 1100.0}


def test_what_an_earlier_update_took_back_is_not_shown_as_if_it_came_after():
    """Interrupted in 5, gone on after 3, interrupted in 4."""
    again = span(RANK_0, "update", 100, 110, update=3)
    made = Recorded([*recorded().spans, again], [], {})
    assert choose(made, "2-3") == ("updates 2 to 3", 1015.0, 1110.0)
    with pytest.raises(ConfigError, match="--updates 4: the run has recorded updates 1 to 3"):
        choose(made, "4")


def test_a_gap_in_what_was_recorded_is_named_and_no_hindrance():
    spans = [s for s in recorded().spans if s.args.get("update") != 2]
    made = Recorded(spans, [], {})
    assert choose(made, None).name == "updates 1 to 4"
    with pytest.raises(ConfigError, match="--updates 2: the run has recorded updates 1, 3 to 4"):
        choose(made, "2")


@pytest.mark.parametrize(
    ("option", "name", "begin", "end"),
    [
        (None, "updates 2 to 4", 1015.0, 1045.0),
        ("3", "update 3", 1025.0, 1035.0),
        ("1-2", "updates 1 to 2", 1005.0, 1025.0),
        ("all", "the whole run", 1000.0, 1055.0),
    ],
)
def test_an_option_names_a_window(option, name, begin, end):
    window = choose(recorded(), option)
    assert (window.name, window.begin) == (name, begin)
    assert window.end == (1050.0 if option == "all" else end)


def test_an_update_without_a_number_is_none():
    spans = [*recorded().spans, span(RANK_0, "update", 100, 110)]
    assert list(updates(Recorded(spans, [], {}))) == [1, 2, 3, 4]


def test_a_run_without_updates_is_shown_whole():
    spans = [span(RANK_0, "eval start", 0, 5)]
    assert choose(Recorded(spans, [], {}), None) == ("the whole run", 1000.0, 1005.0)


@pytest.mark.parametrize("option", ["5", "0", "3-9"])
def test_updates_that_are_not_there_are_refused(option):
    with pytest.raises(ConfigError) as refused:
        choose(recorded(), option)
    assert str(refused.value) == f"--updates {option}: the run has recorded updates 1 to 4"


def test_other_words_are_refused():
    with pytest.raises(ConfigError, match="--updates two: must be a number, FIRST-LAST or all"):
        choose(recorded(), "two")
    with pytest.raises(ConfigError, match="--updates 3-2: FIRST must not be after LAST"):
        choose(recorded(), "3-2")
    with pytest.raises(ConfigError, match="has recorded no spans"):
        choose(Recorded([], [], {}), None)
    with pytest.raises(ConfigError, match="--updates 1: the run has recorded no update"):
        choose(Recorded(recorded().spans[:1], [], {}), "1")


def test_spans_are_cut_at_a_window_and_counts_hold_from_before():
    shown = clip(recorded(), choose(recorded(), "2"))
    assert all(1015.0 <= s.begin < s.end <= 1025.0 for s in shown.spans)
    batches = [(s.begin, s.end) for s in shown.spans if s.name == "batch"]
    assert batches == [(1015.0, 1017.0), (1021.0, 1025.0)]
    assert [(c.time, c.values["ready"]) for c in shown.counts] == [(1015.0, 1), (1016.0, 2)]


def test_seconds_inside_another_span_are_not_its_own():
    window = choose(recorded(), "1-2")
    main = [s for s in clip(recorded(), window).spans if s.process == RANK_0 and s.track == "main"]
    assert own_seconds(main) == {
        "update": 0.0,
        "take": 12.0,
        "learn": 4.0,
        "step": 2.0,
        "wait for weights": 2.0,
    }


def test_the_main_track_comes_first():
    spans = [span(RANK_0, name, 0, 1, name) for name in ("a thread", "main", "next batch")]
    assert [track for _, track in tracks(spans)] == ["main", "a thread", "next batch"]


def test_shares_say_who_waits():
    found = shares(recorded(), choose(recorded(), "2"))
    assert list(found[RANK_0, "main"]) == ["take", "learn", "step", "wait for weights", "update"]
    assert found[RANK_0, "main"]["take"] == pytest.approx(0.6)
    assert found[WORKERS[0], "engine"] == pytest.approx({"busy": 0.5, "idle": 0.5})


def test_a_trace_is_in_the_form_that_perfetto_loads(tmp_path):
    window = choose(recorded(), "2-3")
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(trace_events(recorded(), window)))
    trace = json.loads(file.read_text())
    check_trace(trace)
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert names == [
        "learner rank 0",
        "learner rank 1",
        "trajectory buffer",
        *("rollout worker 0", "rollout worker 2", "rollout worker 10"),
    ]
    (labels, *_) = (e["args"] for e in trace["traceEvents"] if e["name"] == "process_labels")
    assert labels == {"labels": "node-1, process 10"}
    steps = [e for e in trace["traceEvents"] if e["name"] == "step"]
    assert [(e["ts"], e["dur"], e["cat"]) for e in steps] == [
        (7e6, 1e6, "main"),
        (17e6, 1e6, "main"),
    ]
    waits = {e["name"] for e in trace["traceEvents"] if e.get("cat") == "wait"}
    assert waits == {"take", "wait for weights"}
    about = trace["otherData"]
    assert about["shown"] == "updates 2 to 3"
    assert about["begin_unix_s"] == 1015.0
    assert about["time_of_day_moved_s"] == {"node-1": 0.002}


def test_what_had_not_ended_is_marked():
    cut = Span(RANK_0, "main", "take", 1000.0, 1003.0, {"update": 1}, open=True)
    shown = Recorded([cut], [], {})
    (event,) = (
        e for e in trace_events(shown, choose(shown, None))["traceEvents"] if e["ph"] == "X"
    )
    assert event["args"] == {"update": 1, "not ended": True}


def test_a_process_that_only_counts_has_its_own_number():
    shown = Recorded(
        [span(RANK_0, "take", 0, 5)], [Count(BUFFER, "episodes", 1002.0, {"ready": 3})], {}
    )
    trace = trace_events(shown, choose(shown, None))
    check_trace(trace)
    (counter,) = (e for e in trace["traceEvents"] if e["ph"] == "C")
    assert (counter["pid"], counter["ts"], counter["args"]) == (2, 2e6, {"ready": 3})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ts": 8.5e6}, "overlap"),
        ({"dur": -1.0}, "dur"),
        ({"ph": "Q"}, "phase"),
        ({"pid": "one"}, "pid"),
        ({"pid": 99}, "no name"),
    ],
)
def test_what_is_no_trace_is_noticed(change, fault):
    window = choose(recorded(), "2")
    trace = trace_events(recorded(), window)
    event = next(e for e in trace["traceEvents"] if e["name"] == "step")
    event.update(change)
    with pytest.raises(AssertionError, match=fault):
        check_trace(trace)
