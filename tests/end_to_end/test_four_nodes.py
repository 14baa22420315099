"""A head without work and three more raylets: placement, refusals, fan-out, the whole job."""

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

import pytest

from cluster.cli import main
from cluster.failures import PlacementError
from cluster.placement import ray_options
from cluster.placement.nodes import live_nodes, plan_live
from cluster.placement.types import Needs
from configs.load import load
from tests.cluster.fakes import FakeToken
from tests.end_to_end.test_train import ROOT, cardinal, finish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
SMALL = (  # two cards make 10: learned within seconds, so that success is not 0
    "env.settings.num_cards=2",
    "env.settings.target=10",
    "env.settings.hands=all",
    "eval.variants={train: {}}",
    "eval.episodes=64",
    "sft.steps=40",
    "sft.demonstrations=512",
    "sft.optimizer.lr=3e-3",
    "sft.log_every=1",
    "ppo.updates=1",
    "ppo.critic_warmup=0",
    "ppo.episodes=32",
    "cluster.weight_proof=false",
    "learner.ranks=2",
    "learner.zero_stage=3",
)
PACKED = ("rollout.workers=2", "rollout.cpus=0.5", "learner.cpus=0.5")
SPLIT = ("rollout.workers=2", "rollout.cpus=0.4", "learner.cpus=0.6")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three raylets of one CPU and a head without any; this process is on the head."""
    import ray
    from ray.cluster_utils import Cluster

    port, agent = free_port(), free_port()
    store = {"object_store_memory": 150 * 2**20}
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_port": port,
            "dashboard_agent_listen_port": agent,
            "_system_config": {"metrics_report_interval_ms": 1000},
            **store,
        },
    )
    # A folder each, as machines have: raylets unpack a job's working directory over one another.
    folders = [tempfile.mkdtemp(prefix="cr-", dir="/tmp") for _ in range(3)]
    for folder in folders:
        made.add_node(num_cpus=1, temp_dir=folder, **store)
    made.wait_for_nodes()
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(address=made.address, runtime_env=environment, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def received():
    """Bytes that each raylet's object store took from other nodes so far, by node id."""
    import ray

    found = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
        mine = [line for line in lines if line.startswith("ray_object_manager_bytes{")]
        sizes = [float(line.rsplit(" ", 1)[1]) for line in mine if 'Type="Received"' in line]
        assert sizes, f"raylet {node['NodeID']} exports no object_manager_bytes"
        found[node["NodeID"]] = sum(sizes)
    return found


def test_weights_cross_to_a_node_once_however_many_engines_it_holds(cluster):
    """Two receivers on each of two raylets; the third receives nothing."""
    import ray
    import torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.handles import BufferHandle
    from cluster.stream.buffer import TrajectoryBuffer
    from cluster.weights.object_store import publish

    class Receiver:
        """What RolloutActor.receive does with references, without an engine."""

        async def receive(self, version, refs):
            return float(sum([len((await ref).parts) for ref in refs]))

        def node(self):
            return ray.get_runtime_context().get_node_id()

    actor = ray.remote(num_cpus=0)(Receiver)
    first, second, third = (n["NodeID"] for n in ray.nodes() if n["Resources"].get("CPU"))
    workers = [
        actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(at, soft=False)).remote()
        for at in (first, first, second, second)
    ]
    before = received()
    buckets = [[(f"w{i}", torch.rand(2**20))] for i in range(4)]
    buffer = BufferHandle(TrajectoryBuffer.remote(workers, load("gp_l_debug", SMALL)))
    done = publish(1, buckets, buffer, 60)()
    assert done.paused_seconds == [1.0] * 4
    assert done.bytes == 16 * 2**20
    moved, deadline = {}, time.monotonic() + 30
    while time.monotonic() < deadline and moved.get(first, 0) < done.bytes:
        time.sleep(1)
        moved = {node: size - before[node] for node, size in received().items()}
    time.sleep(3)  # a second transfer would still come
    moved = {node: size - before[node] for node, size in received().items()}
    for node in (first, second):
        assert done.bytes <= moved[node] < 1.2 * done.bytes
    assert moved[third] < 2**20


def said(capsys, *arguments):
    """(exit code, stdout, stderr) of a command run here, and it took less than ten seconds."""
    begin = time.monotonic()
    code = main([*map(str, arguments)])
    seconds = time.monotonic() - begin
    assert seconds < 10, f"{arguments} took {seconds:.1f} s"
    return code, *capsys.readouterr()


def planned(cluster):
    return plan_live(load("gp_l_debug", [*SMALL, *PACKED]), cluster.address, lambda nodes: Needs())


def test_check_prints_the_plan_of_the_live_cluster_alone(cluster, capsys, tmp_path):
    import ray

    for address in (cluster.address, f"http://{cluster.head_node.webui_url}"):
        code, out, err = said(
            capsys,
            "check",
            "gp_l_debug",
            f"cluster.root={tmp_path}",
            *SMALL,
            *PACKED,
            "--address",
            address,
        )
        assert (code, err) == (0, "")
        assert out.startswith(f"placement on {address}")
        for words in ("learner ranks 0-1", "rollout worker 0", "rollout worker 1", "(no work)"):
            assert words in " ".join(out.split()), out
    assert list(tmp_path.iterdir()) == []
    assert ray.available_resources()["CPU"] == 3


def test_what_this_cluster_cannot_do_is_refused_in_one_line(cluster, capsys, tmp_path):
    """The real way of each: `cardinal train` with this cluster's address."""
    import ray

    run = ("train", "gp_l_debug", *SMALL, f"cluster.address={cluster.address}")
    for wanted, words in (
        (["learner.ranks=8"], "too few CPUs: 1 rollout worker x 1, 8 learner ranks x 1"),
        (["learner.cpus=2"], "a learner rank asks for 2 CPU (learner.cpus) and the largest node"),
        (["cluster.accelerator=H100"], "cluster.accelerator=H100: the cluster has none"),
        (["rollout.tensor_parallel=2"], "rollout.tensor_parallel=2 counts GPUs"),
        (["rollout.kv_cache_gib=4000", *PACKED], "too little memory: a rollout worker needs 4001"),
        (["cluster.root=runs", *PACKED], "cluster.root=runs: the run spans 3 nodes without shared"),
        (["ppo.updats=1"], "ppo.updats: there is no such key"),
    ):
        code, out, err = said(capsys, *run, f"cluster.root={tmp_path}", *wanted)
        assert code == 2
        assert err.startswith("cardinal: ")
        assert err.count("\n") == 1
        assert words in err
        assert out == ""
    hold = ray.remote(num_cpus=1)(Idle).remote()
    ray.get(hold.ready.remote(), timeout=60)
    deadline = time.monotonic() + 20
    while sum(n.free.get("CPU", 0) for n in live_nodes(cluster.address)) > 2:  # head notices
        assert time.monotonic() < deadline
        time.sleep(0.2)
    code, _, err = said(capsys, *run, f"cluster.root={tmp_path}", *PACKED)
    ray.kill(hold)
    assert code == 75, "it may be free later"
    assert "the cluster is busy" in err
    assert "wait until they end" in err
    assert list(tmp_path.iterdir()) == []


class Idle:
    """Holds what it reserved."""

    def ready(self):
        """Once it is there."""


def test_another_python_on_the_other_side_is_refused(cluster, capsys, tmp_path):
    """The head's own record of its versions is changed for a moment."""
    from ray._raylet import GcsClient

    head, key = GcsClient(cluster.address), b"CLUSTER_METADATA"
    true = head.internal_kv_get(key, namespace=b"cluster")
    other = json.dumps(json.loads(true) | {"python_version": "3.10.2"}).encode()
    head.internal_kv_put(key, other, True, b"cluster")
    try:
        code, _, err = said(
            capsys,
            "train",
            "gp_l_debug",
            f"cluster.root={tmp_path}",
            f"cluster.address={cluster.address}",
        )
    finally:
        head.internal_kv_put(key, true, True, b"cluster")
    assert code == 2
    assert "the cluster runs Python 3.10.2 and this side Python 3." in err


def test_nodes_that_do_not_share_the_run_folder_are_found_out(cluster, tmp_path, monkeypatch):
    """/proc/self/cwd is another folder for each process, as /data is for each node."""
    import ray

    monkeypatch.chdir(tmp_path)
    found = planned(cluster)
    ray_options.check_shared_storage(tmp_path, str(tmp_path), found, 60)
    with pytest.raises(PlacementError) as error:
        ray_options.check_shared_storage(Path("/proc/self/cwd"), str(tmp_path), found, 60)
    assert "does not see /proc/self/cwd" in str(error.value)
    with pytest.raises(PlacementError) as error:
        ray_options.check_shared_storage(tmp_path, "/proc/self/fd/0/no", found, 60)
    assert "does not see /proc/self/fd/0/no" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert ray.is_initialized()


def test_ranks_that_wait_for_a_placement_say_so_by_the_deadline(cluster, tmp_path):
    """Somebody takes the CPUs between the plan and the start."""
    import ray
    from ray.train.v2.api.exceptions import ControllerError

    from cluster.driver.learner_group import cause_of, make_trainer
    from cluster.job import Job

    cfg = load("gp_l_debug", [*SMALL, *PACKED, "cluster.start_deadline_s=4"])
    found = planned(cluster)
    holds = [ray.remote(num_cpus=1)(Idle).remote() for _ in range(3)]
    ray.get([hold.ready.remote() for hold in holds], timeout=60)
    begin = time.monotonic()
    trainer = make_trainer(Job(cfg, FakeToken(tmp_path), "", [], None), found)
    with pytest.raises(ControllerError) as error:
        trainer.fit()
    assert time.monotonic() - begin < 40
    said = cause_of(error.value, cfg, found)
    assert said.startswith("2 learner ranks waited 4 s (cluster.start_deadline_s) for 0.5 CPU each")
    for hold in holds:
        ray.kill(hold)


# --- the whole job ---------------------------------------------------------------------------


def records(run, kind):
    lines = map(json.loads, (run / "metrics.jsonl").open())
    return [line for line in lines if line["kind"] == kind]


def losses(run):
    return [record["loss"] for record in records(run, "sft")]


def took(name, begin):
    print(f"{name}: {time.monotonic() - begin:.0f} s")


def train(*overrides):
    """`cardinal train` to its end, which is a good one; nothing stays behind if it is not."""
    process = cardinal("train", "gp_l_debug", *overrides)
    try:
        code, _, err = finish(process)
        assert code == 0, err[-3000:]
    finally:
        process.kill()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run of two ranks and one worker on a Ray of its own."""
    root = tmp_path_factory.mktemp("local")
    begin = time.monotonic()
    train("name=local", f"cluster.root={root}", *SMALL)
    took("local", begin)
    return root / "local"


def submit(cluster, tmp_path, *overrides):
    """`ray job submit` of this checkout; its output."""
    checkout = tmp_path / "checkout"
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    done = subprocess.run(
        [
            BIN / "ray",
            "job",
            "submit",
            f"--address=http://{cluster.head_node.webui_url}",
            "--working-dir",
            ".",
            "--",
            sys.executable,
            "-m",
            "cluster.cli",
            "train",
            "gp_l_debug",
            *overrides,
        ],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


def nodes_of(run):
    """Node ids by role, as the run's own record of its places has them."""
    (record,) = records(run, "placement")
    return record["workers"], record["ranks"]


def test_ranks_packed_on_one_node_and_workers_on_two_others(cluster, local, tmp_path):
    before, begin = received(), time.monotonic()
    submit(cluster, tmp_path, "name=packed", f"cluster.root={tmp_path}", *SMALL, *PACKED)
    took("packed", begin)
    run = tmp_path / "packed"
    workers, ranks = nodes_of(run)
    assert len(set(workers)) == 2
    assert len(set(ranks)) == 1
    assert not set(ranks) & set(workers)

    assert losses(run) == pytest.approx(losses(local), abs=1e-5)
    assert len(losses(run)) == 40
    here, there = records(run, "eval")[-1], records(local, "eval")[-1]
    assert here["stage"] == there["stage"] == "ppo"
    assert there["success"] > 0
    low, high = there["interval"]
    assert low <= here["success"] <= high

    sent = sum(record["bytes"] for record in records(run, "sync"))
    time.sleep(3)  # the metrics of the last second
    moved = {node: size - before[node] for node, size in received().items()}
    for node in workers:
        assert sent <= moved[node] < 1.5 * sent, (sent, moved)


def test_ranks_split_over_two_nodes_learn_the_same(cluster, local, tmp_path):
    begin = time.monotonic()
    train(
        "name=split",
        f"cluster.root={tmp_path}",
        f"cluster.address={cluster.address}",
        *SMALL,
        *SPLIT,
        "ppo.updates=0",
    )
    took("split", begin)
    workers, ranks = nodes_of(tmp_path / "split")
    assert len(set(ranks)) == 2
    assert len(set(workers)) == 2
    assert losses(tmp_path / "split") == pytest.approx(losses(local), abs=1e-5)
