"""Spans and counts on disk: they come back, on one clock, after a kill too."""

import json
import os
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import pytest

from report import spans as module
from report.spans import SpanFile, read_spans


@pytest.fixture
def clocks(monkeypatch):
    """Both clocks, to be set."""
    now = {"monotonic": 100.0, "time": 5000.0}
    monkeypatch.setattr(module.time, "monotonic", lambda: now["monotonic"])
    monkeypatch.setattr(module.time, "time", lambda: now["time"])
    return now


def times(recorded):
    return {span.name: (span.begin, span.end, span.open) for span in recorded.spans}


def test_spans_and_counts_come_back_in_time_of_day(tmp_path, clocks):
    file = SpanFile(tmp_path, "learner rank 0")
    file.begin(7, "main", "update", {"update": 3})
    clocks["monotonic"] = 101.0
    file.begin(8, "main", "take", {})
    file.count("episodes", {"queued": 2})
    clocks["monotonic"] = 103.5
    file.end(8)
    clocks["monotonic"] = 104.0
    file.end(7)
    recorded = read_spans(tmp_path)
    assert times(recorded) == {"update": (5000.0, 5004.0, False), "take": (5001.0, 5003.5, False)}
    update, take = recorded.spans
    assert (update.args, take.args) == ({"update": 3}, {})
    assert (take.track, take.process.name, take.process.pid) == (
        "main",
        "learner rank 0",
        os.getpid(),
    )
    (count,) = recorded.counts
    assert (count.name, count.time, count.values) == ("episodes", 5001.0, {"queued": 2})


def test_what_a_killed_process_was_doing_ends_with_its_last_line(tmp_path, clocks):
    file = SpanFile(tmp_path, "learner rank 0")
    file.begin(1, "main", "update", {})
    clocks["monotonic"] = 102.0
    file.begin(2, "main", "take", {})
    clocks["monotonic"] = 103.0
    file.count("episodes", {"queued": 1})
    (path,) = (tmp_path / "trace").iterdir()
    with path.open("a") as stream:
        stream.write('{"t":104.0,"end":')  # the kill came here
    assert times(read_spans(tmp_path)) == {
        "update": (5000.0, 5003.0, True),
        "take": (5002.0, 5003.0, True),
    }


def test_a_process_that_does_one_thing_for_long_does_it_as_long_as_the_others_go_on(
    tmp_path, clocks
):
    SpanFile(tmp_path, "rollout worker 0").begin(1, "engine", "idle", {})
    learner = SpanFile(tmp_path, "learner rank 0")
    learner.begin(1, "main", "take", {})
    clocks["monotonic"] = 109.0
    learner.end(1)
    assert times(read_spans(tmp_path))["idle"] == (5000.0, 5009.0, True)


def test_it_lasts_until_another_process_takes_its_place_or_the_run_is_killed(
    tmp_path, clocks, monkeypatch
):
    SpanFile(tmp_path, "rollout worker 0").begin(1, "engine", "busy", {})
    SpanFile(tmp_path, "rollout worker 1").begin(1, "engine", "idle", {})
    learner = SpanFile(tmp_path, "learner rank 0")
    learner.begin(1, "main", "take", {})
    monkeypatch.setattr(module.os, "getpid", lambda: 2)
    clocks["monotonic"] = 103.0
    SpanFile(tmp_path, "rollout worker 0").begin(1, "engine", "loading", {})
    clocks["monotonic"] = 107.0
    learner.end(1)  # the last line before all are killed
    clocks["monotonic"] = 900.0
    SpanFile(tmp_path, "learner rank 0").begin(1, "main", "publish", {})
    found = times(read_spans(tmp_path))
    assert found["busy"] == (5000.0, 5003.0, True)
    assert found["loading"] == (5003.0, 5007.0, True)
    assert found["idle"] == (5000.0, 5007.0, True)


def test_it_lasts_at_least_until_its_own_last_line(tmp_path, clocks, monkeypatch):
    old = SpanFile(tmp_path, "learner rank 0")
    old.begin(1, "main", "take", {})
    monkeypatch.setattr(module.os, "getpid", lambda: 2)
    clocks["monotonic"], clocks["time"] = 101.0, 5001.0
    SpanFile(tmp_path, "learner rank 0").begin(1, "main", "publish", {})
    clocks["monotonic"] = 105.0  # its successor has begun, and it does not know
    old.begin(2, "main", "learn", {})
    assert times(read_spans(tmp_path))["learn"] == (5005.0, 5005.0, True)


def test_every_line_is_on_disk_when_the_call_returns(tmp_path):
    file = SpanFile(tmp_path, "rollout worker 1")
    file.begin(1, "engine", "busy", {})
    (path,) = (tmp_path / "trace").iterdir()
    assert path.name.startswith("rollout-worker-1.")
    assert [set(json.loads(line)) for line in path.open()] == [
        {"t", "clock", "name", "pid", "host", "boot"},
        {"t", "begin", "track", "name"},
    ]


def test_processes_of_a_machine_stay_in_order_when_its_time_of_day_is_set(tmp_path, clocks):
    first = SpanFile(tmp_path, "rollout worker 0")
    first.begin(1, "engine", "busy", {})
    clocks["time"] += 3600  # somebody sets the clock
    second = SpanFile(tmp_path, "learner rank 0")
    clocks["monotonic"] += 1.0
    clocks["time"] += 1.0
    second.begin(1, "main", "take", {})
    recorded = read_spans(tmp_path)
    busy, take = recorded.spans
    assert take.begin - busy.begin == 1.0
    assert list(recorded.moved_s.values()) == [3600.0]


def test_machines_have_clocks_of_their_own(tmp_path, clocks, monkeypatch):
    SpanFile(tmp_path, "rollout worker 0").begin(1, "engine", "busy", {})
    clocks["monotonic"] = 9.0  # started later, at the same time of day
    monkeypatch.setattr(module, "_boot", lambda: "another")
    monkeypatch.setattr(module.socket, "gethostname", lambda: "node-2")
    SpanFile(tmp_path, "rollout worker 1").begin(1, "engine", "busy", {})
    recorded = read_spans(tmp_path)
    assert [span.begin for span in recorded.spans] == [5000.0, 5000.0]
    assert len(recorded.moved_s) == 2


def test_both_clocks_are_written_again_now_and_then(tmp_path, clocks):
    file = SpanFile(tmp_path, "learner rank 0")
    for second in (0, 30, 61, 62):
        clocks["monotonic"] = 100.0 + second
        file.end(1)
    (path,) = (tmp_path / "trace").iterdir()
    assert [json.loads(line)["t"] for line in path.open() if "clock" in line] == [100.0, 161.0]


def test_a_folder_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path, capsys):
    file = SpanFile(tmp_path / "absent", "learner rank 0")
    file.begin(1, "main", "take", {})
    file.end(1)
    assert capsys.readouterr().err.count("spans are no longer recorded") == 1


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path, capsys, monkeypatch):
    file = SpanFile(tmp_path, "learner rank 0")

    def full(descriptor, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    file.begin(1, "main", "take", {})
    file.end(1)
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_after_close_nothing_is_written(tmp_path):
    file = SpanFile(tmp_path, "learner rank 0")
    file.close()
    file.begin(1, "main", "take", {})
    assert read_spans(tmp_path).spans == []


def test_a_run_without_spans_has_none(tmp_path):
    assert read_spans(tmp_path).spans == []


def test_a_disk_that_takes_half_a_line_ends_the_file_with_it(tmp_path, capsys):
    """Nothing is glued to it, and what came before is read."""
    file = SpanFile(tmp_path, "learner rank 0")
    file.begin(1, "main", "take", {})
    (path,) = (tmp_path / "trace").iterdir()
    _, most = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (path.stat().st_size + 5, most))
    try:
        file.end(1)
    finally:
        setrlimit(RLIMIT_FSIZE, (most, most))
    file.begin(2, "main", "update", {})
    assert "no longer recorded: [Errno 28] No space left" in capsys.readouterr().err
    assert [span.name for span in read_spans(tmp_path).spans] == ["take"]


DAMAGED = [
    b"\0\0\0\0\n",
    b'{"t":101.0,"end":\n',
    b"\xff\xfe\n",
    b"[]\n",
    b"3\n",
    b'{"kind":"ppo","update":3}\n',
    b'{"t":101.0,"kind":"ppo"}\n',
    b'{"t":"late","end":1}\n',
    b'{"t":NaN,"end":1}\n',
    b'{"end":1}\n',
    b'{"t":101.0,"begin":9}\n',
    b'{"t":101.0,"begin":9,"track":"main","name":"x","args":3}\n',
    b'{"t":101.0,"count":"episodes","values":[]}\n',
    b'{"t":101.0,"count":"episodes","values":{"queued":"2"}}\n',
    b'{"t":101.0,"clock":5001.0,"name":"learner rank 0"}\n',
    b'{"t":101.0,"clock":Infinity,"name":"a","pid":1,"host":"h","boot":"b"}\n',
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_left_out_and_said(tmp_path, clocks, line):
    file = SpanFile(tmp_path, "learner rank 0")
    file.begin(1, "main", "take", {})
    (path,) = (tmp_path / "trace").iterdir()
    with path.open("ab") as stream:
        stream.write(line)
    clocks["monotonic"] = 102.0
    file.end(1)
    recorded = read_spans(tmp_path)
    assert times(recorded) == {"take": (5000.0, 5002.0, False)}
    assert recorded.left_out == (f"{path}: 1 lines are left out: they are damaged, or no spans",)


def test_a_whole_file_and_one_that_a_kill_ended_are_not_said_to_be_damaged(tmp_path, clocks):
    SpanFile(tmp_path, "learner rank 0").begin(1, "main", "take", {})
    (path,) = (tmp_path / "trace").iterdir()
    with path.open("a") as stream:
        stream.write('{"t":104.0,"end":')
    assert read_spans(tmp_path).left_out == ()


def test_without_its_first_line_a_file_begins_with_the_next_one_of_both_clocks(tmp_path, clocks):
    file = SpanFile(tmp_path, "learner rank 0")
    file.begin(1, "main", "take", {})
    (path,) = (tmp_path / "trace").iterdir()
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    lost = read_spans(tmp_path)
    assert (lost.spans, lost.counts) == ([], [])
    (sentence,) = lost.left_out
    assert sentence == f"{path}: is left out: no line of it names its process and its clocks"
    clocks["monotonic"], clocks["time"] = 161.0, 5061.0
    file.end(1)
    recorded = read_spans(tmp_path)
    assert times(recorded) == {"take": (5000.0, 5061.0, False)}
    assert recorded.spans[0].process.name == "learner rank 0"
    assert recorded.left_out == ()
