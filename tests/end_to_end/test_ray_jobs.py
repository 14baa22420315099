"""The same job on a Ray that somebody else started: `ray job submit`, `cardinal submit`."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from report.summary import ended
from tests.end_to_end.test_train import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """(address of the job server, environment, agent's port) of a fresh head node."""
    port, jobs, agent = free_port(), free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="cr-", dir="/tmp")  # socket paths end at 107 bytes
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": folder}
    environment["TMPDIR"] = f"{folder}/tmp"
    Path(folder, "tmp").mkdir()
    token = [BIN / "ray", "get-auth-token", "--generate"]
    subprocess.run(token, capture_output=True, timeout=60, check=True)
    started = subprocess.run(
        [
            BIN / "ray",
            "start",
            "--head",
            f"--port={port}",
            f"--dashboard-port={jobs}",
            f"--dashboard-agent-listen-port={agent}",
            "--num-cpus=4",
            "--object-store-memory=500000000",
            "--disable-usage-stats",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    try:
        assert started.returncode == 0, started.stderr
        yield f"http://127.0.0.1:{jobs}", environment, agent
    finally:
        for end in (psutil.Process.terminate, psutil.Process.kill):
            processes = cluster_processes(folder)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(process)
            psutil.wait_procs(processes, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def cluster_processes(folder):
    """Of the head and of all jobs on it.

    They have its variable, or where a process has written its title over that, a log there open.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            logs = [file.path for file in process.open_files()]
            own = process.environ().get("RAY_TMPDIR") == folder
            if own or any(path.startswith(f"{folder}/") for path in logs):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A checkout as git would make it."""
    checkout = tmp_path_factory.mktemp("copy") / "checkout"
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    return checkout


def run(command, copy, environment, seconds=600):
    environment = {**environment, "PYTHONPATH": str(copy)}
    return subprocess.run(
        command,
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def cardinal(*arguments):
    return [sys.executable, "-m", "cluster.cli", *arguments]


def submit(address, *arguments):
    return cardinal("submit", *arguments, "--address", address, "--python", sys.executable)


def identity(done):
    """The submission id that submit printed."""
    assert done.stdout.startswith("job "), done.stdout + done.stderr[-2000:]
    return done.stdout.split()[1]


def status(root):
    return json.loads((root / "job" / "status.json").read_text())["status"]


def test_ray_job_submit_does_the_same_job(head, copy, tmp_path):
    address, environment, _ = head
    done = run(
        [
            BIN / "ray",
            "job",
            "submit",
            f"--address={address}",
            "--working-dir",
            ".",
            "--",
            *cardinal("train", "gp_l_debug", "name=job", f"cluster.root={tmp_path}"),
        ],
        copy,
        environment,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "job" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["parity"]["mean_abs"] <= 1e-4


def test_a_submitted_run_is_stopped_and_goes_on(head, copy, tmp_path):
    """By the client that finds the token itself: nothing says RAY_AUTH_MODE to it."""
    address, environment, _ = head
    quiet = {k: v for k, v in environment.items() if k != "RAY_AUTH_MODE"}
    arguments = (
        "gp_l_debug",
        "name=job",
        f"cluster.root={tmp_path}",
        "sft.steps=10",
        "learner.checkpoint_every=1",
        "ppo.updates=2",
        "ppo.critic_warmup=0",
    )
    begun = run(submit(address, *arguments, "--no-follow"), copy, quiet, 60)
    assert begun.returncode == 0
    twin = run(submit(address, *arguments), copy, quiet, 60)
    assert twin.returncode == 2
    assert "stop it first, or choose another name" in twin.stderr
    cursors, deadline = tmp_path / "job" / "checkpoints" / "state", time.monotonic() + 300
    while not cursors.is_dir() or not any(cursors.iterdir()):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.2)
    stopped = run(cardinal("job", "stop", identity(begun), "--address", address), copy, quiet, 120)
    assert ": stopped" in stopped.stdout, stopped.stdout + stopped.stderr[-2000:]
    log = run(cardinal("job", "logs", identity(begun), "--address", address), copy, quiet, 60)
    assert log.returncode != 0, log.stdout
    assert "cardinal: interrupted\n" in log.stdout, log.stdout
    assert "`cardinal resume` " in log.stdout, log.stdout
    assert status(tmp_path) == "interrupted"
    done = run(submit(address, *arguments), copy, quiet)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert f"job {identity(done)}: succeeded" in done.stdout
    assert status(tmp_path) == "finished"
    rows = [json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").open()]
    assert [row["update"] for row in rows if row["kind"] == "ppo"] == [1, 2]
    steps = [row["step"] for row in rows if row["kind"] == "sft"]
    assert steps and len(set(steps)) == len(steps), f"an SFT step was repeated: {steps}"
    log = run(cardinal("job", "logs", identity(done), "--address", address), copy, quiet, 60)
    assert log.returncode == 0
    assert f"report      {tmp_path / 'job' / 'report.html'}" in log.stdout


LONG = ("gp_l_debug", "name=job", "sft.steps=100000", "sft.eval_every=0", "sft.log_every=1")
HELPERS = ("_AutoscalingCoordinatorActor", "_StatsActor")  # Ray Data's, of a cluster and not a job


@pytest.fixture
def plain_job(head, copy, tmp_path):
    """A run that trains and has no checkpoint, sent by `ray job submit`.

    Its id, a function for `ray job`, and the processes before it.
    """
    address, environment, _ = head
    before = processes_of(head)

    def ray_job(action, *words):
        command = [BIN / "ray", "job", action, f"--address={address}", *words]
        return run(command, copy, environment, 200)

    name = f"plain-{time.time_ns()}"
    train = cardinal("train", *LONG, f"cluster.root={tmp_path}", "learner.checkpoint_minutes=0")
    sent = ray_job(
        "submit", f"--submission-id={name}", "--no-wait", "--working-dir", ".", "--", *train
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr[-2000:]
    metrics, deadline = tmp_path / "job" / "metrics.jsonl", time.monotonic() + 300
    while not metrics.is_file() or '"kind": "sft"' not in metrics.read_text():
        ends = time.monotonic() > deadline or (tmp_path / "job" / "status.json").exists()
        assert not ends, ray_job("logs", name).stdout[-3000:]
        time.sleep(0.2)
    yield name, ray_job, before
    ray_job("stop", name)


def listed(head, what):
    """The state of all actors or placement groups of the cluster, by class or id."""
    address, environment, _ = head
    command = [BIN / "ray", "list", what, f"--address={address}", "--format=json"]
    done = run(command, ROOT, environment, 60)
    assert done.returncode == 0, done.stderr[-2000:]
    return [
        (e.get("class_name", e["placement_group_id"]), e["state"]) for e in json.loads(done.stdout)
    ]


def processes_of(head):
    """Titles of the cluster's processes by id, without those that every job may use."""
    found = {}
    for process in cluster_processes(head[1]["RAY_TMPDIR"]):
        with contextlib.suppress(psutil.Error):
            found[process.pid] = " ".join(process.cmdline()[:3]).strip()
    kept = ("ray::IDLE", *(f"ray::{name}" for name in HELPERS))
    return {pid: title for pid, title in found.items() if not title.startswith(kept)}


def assert_nothing_is_left(head, before):
    """Of a job: no actor but Ray's own, no placement group, no process; within a minute."""
    deadline = time.monotonic() + 60
    while True:
        actors = [name for name, state in listed(head, "actors") if state != "DEAD"]
        groups = [name for name, state in listed(head, "placement-groups") if state != "REMOVED"]
        left = [title for pid, title in processes_of(head).items() if pid not in before]
        found = [name for name in actors if name not in HELPERS], groups, left
        if not any(found):
            return
        assert time.monotonic() < deadline, found
        time.sleep(1)


def test_a_job_of_rays_own_command_is_stopped_with_its_last_step(head, plain_job, tmp_path):
    """It has no checkpoint before, and Ray's three seconds would be too few for this one."""
    name, ray_job, before = plain_job
    ray_job("stop", name)
    assert "was stopped" in ray_job("status", name).stdout
    log = ray_job("logs", name).stdout
    assert "SIGTERM: the run ends within 30 s" in log, log
    assert "`cardinal resume` goes on after SFT step" in log, log
    assert status(tmp_path) == "interrupted"
    assert_nothing_is_left(head, before)


def test_a_driver_that_is_killed_leaves_nothing(head, plain_job, tmp_path):
    *_, before = plain_job
    (driver,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"cluster.cli", f"cluster.root={tmp_path}"} <= {*(process.info["cmdline"] or ())}
    ]
    driver.kill()
    assert_nothing_is_left(head, before)
    assert not (tmp_path / "job" / "status.json").exists()
    assert ended(tmp_path / "job")["status"] == "interrupted"


def test_the_jobs_own_refusal_is_the_exit_code(head, copy, tmp_path):
    address, environment, _ = head
    begin = time.monotonic()
    done = run(
        submit(address, "gp_l_debug", "name=job", f"cluster.root={tmp_path}", "model.path=/no"),
        copy,
        environment,
        60,
    )
    assert done.returncode == 2 and "model.path=/no" in done.stdout, done.stderr[-2000:]
    print(f"refused after {time.monotonic() - begin:.1f} s")
    assert time.monotonic() - begin < 20, "ten seconds, and as many again for a busy machine"


def test_what_runs_on_the_job_server_is_asked(head, copy, tmp_path):
    address, environment, _ = head
    gone = run(cardinal("job", "status", "none", "--address", address), copy, environment, 60)
    assert gone.returncode == 2 and "does not exist" in gone.stderr, gone.stderr
    bare = {**environment, "RAY_AUTH_TOKEN": "another", "HOME": str(tmp_path)}
    other = run(cardinal("job", "status", "none", "--address", address), copy, bare, 60)
    assert other.returncode == 2 and "wants a token" in other.stderr, other.stderr


def test_health_probes_need_no_token(head):
    """What cluster/launch/kuberay.py has Kubernetes ask."""
    address, _, agent = head
    for url in (f"{address}/api/gcs_healthz", f"http://127.0.0.1:{agent}/api/local_raylet_healthz"):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
            assert b"success" in answer.read()


def test_a_ray_that_is_there_already_is_left_alone(head):
    """Without an address a run starts a Ray of its own, whatever else runs on the machine."""
    _, environment, _ = head
    code = (
        "import ray\n"
        "from configs.load import load\n"
        "from cluster.driver.session import session\n"
        "with session(load('gp_l_debug'), 1):\n"
        "    print('nodes', len(ray.nodes()), 'cpus', ray.cluster_resources()['CPU'])\n"
    )
    quiet = {k: v for k, v in environment.items() if k != "RAY_ADDRESS"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=quiet,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "nodes 1 cpus 2.0" in found.stdout, found.stderr[-2000:]
