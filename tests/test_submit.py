"""The same job on a Ray that somebody else started: `ray start --head`, `ray job submit`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.test_train import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def head():
    """Address of the job server of a fresh head node; ended by its own processes' ids."""
    import psutil

    port, jobs = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="cr-", dir="/tmp")  # socket paths end at 107 bytes
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": folder}
    token = [BIN / "ray", "get-auth-token", "--generate"]
    subprocess.run(token, capture_output=True, timeout=60, check=True)
    before = set(psutil.pids())
    started = subprocess.run(
        [BIN / "ray", "start", "--head", f"--port={port}", f"--dashboard-port={jobs}",
         "--num-cpus=4", "--object-store-memory=500000000", "--disable-usage-stats"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    mine = [p for p in psutil.process_iter() if p.pid not in before]
    yield f"http://127.0.0.1:{jobs}", environment
    for process in reversed(mine):
        if process.is_running() and any(str(port) in part for part in process.cmdline()):
            process.terminate()
    psutil.wait_procs(mine, timeout=10)
    for process in mine:
        if process.is_running() and "ray" in " ".join(process.cmdline()):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def test_ray_job_submit_does_the_same_job(head, tmp_path):
    address, environment = head
    checkout = tmp_path / "checkout"
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    done = subprocess.run(
        [BIN / "ray", "job", "submit", f"--address={address}", "--working-dir", ".", "--",
         sys.executable, "-m", "cluster.cli", "train", "gp_l_debug", "name=job",
         f"cluster.root={tmp_path / 'runs'}"],
        cwd=checkout, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "runs" / "job" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["parity"]["mean_abs"] <= 1e-4


def test_a_ray_that_is_there_already_is_left_alone(head):
    """Without an address a run starts a Ray of its own, whatever else runs on the machine."""
    _, environment = head
    code = (
        "import ray\n"
        "from configs.load import load\n"
        "from cluster.session import session\n"
        "with session(load('gp_l_debug'), 1):\n"
        "    print('nodes', len(ray.nodes()), 'cpus', ray.cluster_resources()['CPU'])\n"
    )
    quiet = {k: v for k, v in environment.items() if k != "RAY_ADDRESS"}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=quiet, capture_output=True,
                           text=True, timeout=120, check=False)  # fmt: skip
    assert "nodes 1 cpus 2.0" in found.stdout, found.stderr[-2000:]
