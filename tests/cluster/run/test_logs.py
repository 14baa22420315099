"""Logs of a run's processes: which are kept, and how a failure names them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time

import pytest
import ray

from cluster.run import logs
from cluster.run.logs import (
    keep_logs,
    keep_logs_of_other_nodes,
    last_words,
    pointed_out,
    session_logs,
)
from configs.paths import ROOT


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


def test_a_log_that_another_node_left_is_named_where_it_is_kept(source, tmp_path):
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "worker-e-01000000-5.err").write_text("ValueError: x\n")
    sentence = "vLLM cannot start (log: /tmp/there/session_1/logs/worker-e-01000000-5.err)"
    there = f"vLLM cannot start (log: {run}/logs/worker-e-01000000-5.err)"
    assert pointed_out(sentence, run, source) == there
    died = "rank 0: ActorDiedError: process 5 ended: it was killed"
    assert pointed_out(died, run, source) == f"{died} (log: {run}/logs/worker-e-01000000-5.err)"


def test_without_a_ray_there_are_no_other_nodes(tmp_path, capsys):
    keep_logs_of_other_nodes(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_what_stops_it_does_not_hide_the_runs_own_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: None)
    keep_logs_of_other_nodes(tmp_path)
    assert capsys.readouterr().err.startswith("logs of other nodes are not kept: ")


@pytest.fixture
def two_nodes():
    """A head with this process, and a node whose logs are in a folder of its own."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    folder = tempfile.mkdtemp(prefix="cl-", dir="/tmp")
    there = made.add_node(num_cpus=1, temp_dir=folder, **store)
    made.wait_for_nodes()
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(address=made.address, runtime_env=environment, log_to_driver=False)
    yield there
    ray.shutdown()
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Dies:
    def pid(self):
        return os.getpid()

    def die(self):
        print("ValueError: the last words", file=sys.stderr, flush=True)
        os._exit(3)


@pytest.mark.slow
def test_logs_of_another_node_are_fetched_within_the_deadline(
    two_nodes, tmp_path, monkeypatch, capsys
):
    actor = ray.remote(num_cpus=1)(Dies).remote()
    pid = ray.get(actor.pid.remote(), timeout=60)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.die.remote(), timeout=60)
    source = session_logs()
    assert not list(source.glob(f"worker-*-{pid}.err")), "it is on the other node alone"
    keep_logs_of_other_nodes(tmp_path)
    (log,) = (tmp_path / "logs").glob(f"worker-*-{pid}.err")
    assert "ValueError: the last words" in log.read_text()
    assert pointed_out(f"process {pid} ended: x", tmp_path, source).endswith(f"(log: {log})")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logs, "FETCH_S", 3.0)
    raylet = two_nodes.all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    keep_logs_of_other_nodes(tmp_path)
    raylet.send_signal(signal.SIGCONT)
    assert time.monotonic() - begin < 10.0
    assert "are not kept: they did not answer within 3 s" in capsys.readouterr().err


def test_the_last_words_of_rays_own_processes(source, tmp_path):
    assert last_words(source) == "bash: line 1: /my: No such file"
    assert last_words(tmp_path) == ""
