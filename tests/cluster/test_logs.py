"""Logs of a run's processes: which are kept, and how a failure names them."""

from __future__ import annotations

import pytest

from cluster import logs
from cluster.logs import keep_logs, killed_for_memory, last_words, pointed_out


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "session" / "logs"
    folder.mkdir(parents=True)
    for name, text in {
        "worker-a-01000000-7.err": ":job_id:01000000\n:actor_name:RolloutActor\nValueError: x\n",
        "worker-b-01000000-8.err": ":job_id:01000000\n:actor_name:Buffer\n",
        "worker-c-02000000-9.err": ":job_id:02000000\nof another job\n",
        "worker-d-ffffffff-6.err": "bash: line 1: /my: No such file\n",
        "raylet.err": "\n\nbash: line 1: /my: No such file\nand more\n",
        "raylet.out": "",
        "dashboard.log": "of no interest\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def kept(tmp_path):
    return sorted(file.name for file in (tmp_path / "run" / "logs").iterdir())


@pytest.mark.parametrize(("job", "others"), [("01000000", []), (None, ["worker-c-02000000-9.err"])])
def test_what_says_something_is_kept(source, tmp_path, job, others):
    (tmp_path / "run").mkdir()
    keep_logs(tmp_path / "run", source, job)
    own = ["raylet.err", "worker-a-01000000-7.err", *others, "worker-d-ffffffff-6.err"]
    assert kept(tmp_path) == own
    first = tmp_path / "run" / "logs" / "worker-a-01000000-7.err"
    assert first.read_text() == (source / first.name).read_text()


def test_of_a_long_log_the_end_is_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "TAIL", 5)
    (tmp_path / "run").mkdir()
    (source / "worker-a-01000000-7.err").write_text("0123456789")
    keep_logs(tmp_path / "run", source)
    assert (tmp_path / "run" / "logs" / "worker-a-01000000-7.err").read_text() == "56789"


def test_a_log_that_is_named_is_named_where_it_is_kept(source, tmp_path):
    run = tmp_path / "run"
    sentence = f"vLLM cannot start (log: {source}/worker-a-01000000-7.err)"
    there = f"vLLM cannot start (log: {run}/logs/worker-a-01000000-7.err)"
    assert pointed_out(sentence, run, source) == there
    elsewhere = f"vLLM cannot start (log: {source}/worker-of-another-node.err)"
    assert pointed_out(elsewhere, run, source) == elsewhere


def test_the_process_that_ended_is_given_its_log(source, tmp_path):
    run = tmp_path / "run"
    sentence = "rank 0: ActorDiedError: process 7 ended: it was killed"
    log = run / "logs" / "worker-a-01000000-7.err"
    assert pointed_out(sentence, run, source) == f"{sentence} (log: {log})"
    for other in ("process 77 ended: x", "rollout worker 7 did not answer"):
        assert pointed_out(other, run, source) == other


def test_the_last_words_of_rays_own_processes(source, tmp_path):
    assert last_words(source) == "bash: line 1: /my: No such file"
    assert last_words(tmp_path) == ""


def test_processes_that_the_kernel_killed_are_counted(monkeypatch, tmp_path):
    assert killed_for_memory() >= 0
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(logs, "Path", lambda _: counters)
    assert killed_for_memory() == 0
    counters.write_text("pgfault 3\noom_kill 2\noom_kill_other 9\n")
    assert killed_for_memory() == 2
