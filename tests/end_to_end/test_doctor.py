"""The doctor on real machines: this one, broken ones, and a cluster whose nodes share no folder."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cluster.doctor import machine as checks
from cluster.doctor.examine import subject_of
from cluster.doctor.nodes import clocks, elsewhere, joined, shared_folder
from cluster.doctor.result import Status
from configs.load import load
from configs.paths import ROOT
from tests.end_to_end.test_four_nodes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
MACHINE = """
import json, sys
from cluster.doctor.examine import on_this_machine, subject_of
from configs.load import load
subject = subject_of(load("gp_l_debug", ["cluster.root=" + sys.argv[1]]))
print(json.dumps({r.check: r.record() for r in on_this_machine(subject)}))
"""
UNSHARED = ("unshare", "--mount")
may_mount = pytest.mark.skipif(
    subprocess.run([*UNSHARED, "true"], capture_output=True).returncode != 0,
    reason="this user may not mount a file system for one process",
)
GREEN_S = 90.0  # on a machine that does nothing else


def started(*command, before="", apart=False, seconds=600, **variables):
    """A process that is run to its end: code, output, errors.

    before: shell commands, such as a limit. apart: with file systems of its own.
    """
    known = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "VLLM_PORT")}
    shell = ["bash", "-c", f"{before} exec {shlex.join(map(str, command))}"]
    done = subprocess.run(
        [*(UNSHARED if apart else ()), *shell],
        cwd=ROOT,
        env=known | variables,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return done.returncode, done.stdout, done.stderr


def machine(root, **broken):
    """The statuses and findings of this machine's checks, in a process that is started so."""
    code, out, err = started(sys.executable, "-c", MACHINE, root, **broken)
    assert code == 0, err[-2000:]
    said = json.loads(out.splitlines()[-1])
    return {name: (record["status"], record["finding"]) for name, record in said.items()}


def doctor(*arguments, **broken):
    """Exit code, seconds, and findings by check."""
    begin = time.monotonic()
    command = (sys.executable, "-m", "cluster.cli", "doctor", "--json", *arguments)
    code, out, err = started(*command, **broken)
    assert out, err[-2000:]
    said = json.loads(out)
    return code, time.monotonic() - begin, said["faults"], {c["check"]: c for c in said["checks"]}


def faults(found):
    return {name: text for name, (status, text) in found.items() if status == "fault"}


def test_this_machine_is_green(tmp_path):
    code, seconds, at_fault, found = doctor(f"cluster.root={tmp_path}")
    assert (code, at_fault) == (0, [])
    for name in ("engine", "channel object_store", "bfloat16", "all_reduce gloo", "Ray"):
        assert found[name]["status"] == "ok", name
    assert found["bfloat16"]["numbers"]["parity_tokens"] > 100
    assert list(tmp_path.iterdir()) == []
    print(f"the doctor took {seconds:.0f} s; quiet it may take {GREEN_S:g}")


def test_an_engine_that_does_not_start_is_named_and_the_rest_is_checked(tmp_path):
    variables = {"VLLM_PORT": "tcp://10.0.0.1:8000"}
    code, _, at_fault, found = doctor(f"cluster.root={tmp_path}", **variables)
    assert code == 1
    assert at_fault == ["ports", "engine", "bfloat16"]
    assert "VLLM_PORT" in found["engine"]["finding"]
    assert found["channel object_store"]["finding"] == "engine is at fault"
    assert found["all_reduce gloo"]["status"] == "ok"


def test_an_address_where_nothing_answers_is_named(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    code, _, at_fault, found = doctor("--address", address, f"cluster.root={tmp_path}")
    assert (code, at_fault) == (1, ["Ray"])
    assert found["Ray"]["finding"].startswith(f"cluster.address={address}: nothing answers there")
    assert found["disk"]["status"] in ("ok", "warning")


def test_a_low_limit_on_open_files_is_named(tmp_path):
    found = machine(tmp_path, before="ulimit -n 200;")
    assert list(faults(found)) == ["open files"]
    assert "ulimit -Hn is 200" in found["open files"][1]


def test_a_home_that_may_not_be_written_is_named(tmp_path):
    found = machine(tmp_path, HOME="/proc")
    assert list(faults(found)) == ["folders"]
    assert "HOME=/proc: cannot be written to" in found["folders"][1]


def test_another_version_is_named(tmp_path):
    """Of Ray, as a foreign folder in front of the environment's has it."""
    (tmp_path / "ray-2.59.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n"
    (tmp_path / "ray-2.59.0.dist-info" / "METADATA").write_text(metadata)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    found = machine(tmp_path / "runs", PYTHONPATH=paths)
    assert list(faults(found)) == ["versions"]
    assert "ray 2.59.0 must be ==2.60.0" in found["versions"][1]


@may_mount
def test_a_full_dev_shm_is_named(tmp_path):
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm;"
    found = machine(tmp_path, before=mount, apart=True)
    assert list(faults(found)) == ["shared memory"]
    assert "/dev/shm has 0.06 GiB free, and the run needs" in found["shared memory"][1]


@may_mount
def test_a_full_disk_is_named(tmp_path):
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path};"
    found = machine(tmp_path, before=mount, apart=True)
    assert list(faults(found)) == ["disk"]
    assert f"cluster.root={tmp_path}: the run writes" in found["disk"][1]


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as server:
        try:
            server.bind(("", 8265))
        except OSError:
            pytest.skip("something else holds port 8265 already")
        server.listen()
        found = machine(tmp_path)
    assert found["ports"][0] == "warning"
    assert "8265 (its dashboard and job server) is held by python" in found["ports"][1]


@pytest.fixture
def two_nodes(tmp_path):
    """A head here, and a node that sees no file of tmp_path and may not write its caches."""
    from ray.cluster_utils import Cluster

    store = 100 * 2**20
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": store,
            "dashboard_agent_listen_port": free_port(),
        },
    )
    folder = tempfile.mkdtemp(prefix="cr-", dir="/tmp")
    command = [BIN / "ray", "start", "--block", f"--address={made.address}", "--num-cpus=1"]
    command += [f"--object-store-memory={store}", f"--temp-dir={folder}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats"]
    shell = f"mount -t tmpfs tmpfs {tmp_path} && exec {shlex.join(map(str, command))}"
    raylet = subprocess.Popen(
        [*UNSHARED, "bash", "-c", shell],
        env={**os.environ, "XDG_CACHE_HOME": "/proc"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_nodes(made, 2)
        yield made.address
    finally:
        raylet.terminate()
        raylet.wait(30)
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(made, number):
    from cluster.placement.nodes import live_nodes

    begin = time.monotonic()
    while len(live_nodes(made.address)) < number:
        assert time.monotonic() - begin < 120, "the second raylet did not come"
        time.sleep(0.5)


@may_mount
def test_a_node_without_the_shared_folder_is_named(two_nodes, tmp_path):
    import ray

    cfg = load("gp_l_debug", [f"cluster.root={tmp_path}", f"cluster.address={two_nodes}"])
    subject = subject_of(cfg)
    try:
        with joined(subject, 1.0) as cluster:
            assert len(cluster.nodes) == 2
            (other,) = cluster.others
            found = shared_folder(cluster)
            assert found.status is Status.FAULT
            assert f"node {other.name} does not see {tmp_path}" in found.text
            assert list(tmp_path.iterdir()) == []
            assert clocks(cluster).status is Status.OK
            assert elsewhere(checks.memory, cluster).status is Status.OK
            found = elsewhere(checks.folders, cluster)
            assert found.status is Status.FAULT
            assert f"{other.name}: XDG_CACHE_HOME=/proc: cannot be written to" in found.text
    finally:
        ray.shutdown()
