"""The same job on a Ray that somebody else started: `ray job submit`, `cardinal submit`."""

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

from tests.end_to_end.test_train import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """(address of the job server, environment, agent's port) of a fresh head node.

    Ended by its own processes' ids.
    """
    port, jobs, agent = free_port(), free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="cr-", dir="/tmp")  # socket paths end at 107 bytes
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": folder}
    token = [BIN / "ray", "get-auth-token", "--generate"]
    subprocess.run(token, capture_output=True, timeout=60, check=True)
    before = set(psutil.pids())
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
    assert started.returncode == 0, started.stderr
    mine = [p for p in psutil.process_iter() if p.pid not in before]
    yield f"http://127.0.0.1:{jobs}", environment, agent
    for process in reversed(mine):
        if process.is_running() and any(str(port) in part for part in process.cmdline()):
            process.terminate()
    psutil.wait_procs(mine, timeout=10)
    for process in mine:
        if process.is_running() and "ray" in " ".join(process.cmdline()):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


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
    ended = run(cardinal("job", "logs", identity(begun), "--address", address), copy, quiet, 60)
    assert ended.returncode != 0, ended.stdout
    assert "cardinal: interrupted\n" in ended.stdout, ended.stdout
    assert "`cardinal resume` " in ended.stdout, ended.stdout
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
HELPERS = ("_StatsActor", "AutoscalingCoordinator", "_ray_internal")  # of Ray Data; a cluster's own


@pytest.fixture
def plain_job(head, copy, tmp_path):
    """A run that trains and has no checkpoint, sent by `ray job submit`: its id, and `ray job`."""
    address, environment, _ = head

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
        assert time.monotonic() < deadline, ray_job("logs", name).stdout[-3000:]
        time.sleep(0.2)
    yield name, ray_job
    ray_job("stop", name)


def left(head, before):
    """What a job has left on the machine and on the cluster, once it had ten seconds to go."""
    address, environment, _ = head
    deadline = time.monotonic() + 10
    while True:
        names = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
        found = []
        for what in ("actors", "placement-groups"):
            command = [BIN / "ray", "list", what, f"--address={address}", "--format=json"]
            listed = run(command, ROOT, environment, 60)
            found += json.loads(listed.stdout)
        print(*map(str, names), *map(str, found), sep="\n")
        if time.monotonic() > deadline:
            return names, found


def test_a_job_of_rays_own_command_is_stopped_with_its_last_step(head, plain_job, tmp_path):
    before = {*()}
    name, ray_job = plain_job
    stopped = ray_job("stop", name)
    print(stopped.stdout, stopped.stderr[-2000:])
    print(ray_job("logs", name).stdout[-2000:])
    left(head, before)
    print((tmp_path / "job" / "status.json").read_text())


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
