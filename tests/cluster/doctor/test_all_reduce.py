"""all_reduce: real ranks of Gloo on this machine; which nodes are ranks; what NCCL's log says."""

import socket
import subprocess
import sys

import pytest

from cluster.doctor import all_reduce
from cluster.doctor.all_reduce import Reduced, gloo, judge, nccl, rdma_obstacle, transports
from cluster.doctor.result import Status
from cluster.failures import RunFailure
from configs.paths import ROOT
from tests.cluster.doctor.fakes import cluster, node

RANK = """
import sys
from cluster.doctor.all_reduce import reduce_as
print(reduce_as("gloo", int(sys.argv[1]), 2, sys.argv[2]).seconds)
"""


@pytest.mark.slow
def test_two_real_ranks_get_the_sum():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{probe.getsockname()[1]}"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), meeting],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert all(float(line) > 0 for line in said)


@pytest.fixture
def ranks(monkeypatch):
    """Which nodes were asked to be ranks, and what they answer."""
    asked = {}

    def on_nodes(nodes, calls, seconds, gpus=0):
        names = [n.name for n in nodes]
        if len(calls) == 1:
            return ["10.0.0.1:9"]
        asked.update(names=names, calls=[call.args for call in calls], gpus=gpus)
        return [asked.get(f"answer {i}", Reduced(0.5, frozenset())) for i in range(len(calls))]

    monkeypatch.setattr(all_reduce, "on_nodes", on_nodes)
    return asked


def test_each_node_with_work_is_a_rank_of_gloo(ranks):
    found = gloo(cluster(node("head", 0), node("a"), node("b")))
    assert ranks["names"] == ["a", "b"]
    assert ranks["calls"] == [("gloo", i, 2, "10.0.0.1:9") for i in (0, 1)]
    assert ranks["gpus"] == 0
    assert (found.status, found.text) == (Status.OK, "2 ranks on 2 nodes add 8 MiB at 0.016 GiB/s")


def test_one_node_is_two_ranks(ranks):
    assert gloo(cluster(node("a"))).text.startswith("2 ranks on 1 node add")
    assert ranks["names"] == ["a", "a"]


@pytest.mark.parametrize(
    ("free", "names"),
    [((2,), "aa"), ((1, 1), "ab"), ((8, 8, 8), "aaaabbbbcccc"), ((16,), "a" * 16)],
)
def test_free_gpus_of_all_nodes_are_ranks_of_nccl(ranks, free, names):
    made = cluster(*(node(n, gpus=float(g)) for n, g in zip("abc", free, strict=False)))
    nccl(made)
    assert "".join(ranks["names"]) == names
    assert ranks["gpus"] == 1


@pytest.mark.parametrize(("gpus", "words"), [(0, "none"), (1, "1")])
def test_nccl_needs_two_gpus(ranks, gpus, words):
    found = nccl(cluster(node("a", gpus=gpus)))
    assert found.status is Status.NOT_APPLICABLE
    assert found.text.endswith(f"there is {words}")


def test_a_rank_that_fails_is_named(ranks):
    ranks["answer 1"] = RunFailure("does not answer within 75 s")
    found = gloo(cluster(node("a"), node("b")))
    assert found.status is Status.FAULT
    assert found.text == "1 of 2 ranks failed; on b: does not answer within 75 s"
    assert "GLOO_SOCKET_IFNAME" in found.remedy


def test_a_node_without_a_meeting_point_is_named(monkeypatch):
    monkeypatch.setattr(all_reduce, "on_nodes", lambda *a, **k: [RunFailure("is gone")])
    assert gloo(cluster(node("a"))).text == "node a: is gone"


@pytest.mark.parametrize(
    ("links", "nodes", "status"),
    [
        ({"NET/IB"}, 2, Status.OK),
        ({"NET/Socket"}, 2, Status.WARNING),
        ({"Socket"}, 2, Status.WARNING),
        ({"P2P", "Socket"}, 1, Status.OK),  # no packet leaves the node
    ],
)
def test_nccl_over_tcp_is_a_warning(links, nodes, status):
    found = judge("nccl", [Reduced(0.25, frozenset(links)), Reduced(0.5, frozenset())], nodes)
    assert found.status is status
    assert found.numbers["gib_per_s"] == pytest.approx(0.5)  # by the slower rank
    assert f"over {', '.join(sorted(links))}" in found.text


def test_the_remedy_for_tcp_is_what_is_missing(ranks):
    reduced = [Reduced(0.5, frozenset({"Socket"}), obstacle) for obstacle in ("", "do b", "do a")]
    found = judge("nccl", [*reduced, reduced[1]], 2)
    assert found.remedy == "for InfiniBand or RoCE: do a; do b; see docs/cluster.md"
    assert "NCCL_DEBUG=INFO says why" in judge("nccl", reduced[:1] * 2, 2).remedy


def test_what_keeps_a_process_from_infiniband(monkeypatch, tmp_path):
    status = "Name:\tpython\nCapBnd:\t00000000ffffffff\nCapEff:\t{:016x}\n"
    monkeypatch.setattr(all_reduce, "STATUS", tmp_path / "status")
    (tmp_path / "status").write_text(status.format(0xFFFF ^ 1 << 14))
    monkeypatch.setattr(all_reduce, "DEVICES", tmp_path / "infiniband")
    assert rdma_obstacle().startswith(f"give the processes the devices, of which {tmp_path}/")
    (tmp_path / "infiniband").mkdir()
    monkeypatch.setattr(all_reduce, "VERBS", "libnone.so.1")
    assert rdma_obstacle().startswith("install libnone.so.1 and its providers")
    monkeypatch.setattr(all_reduce, "VERBS", "libc.so.6")
    limits = {all_reduce.resource.RLIMIT_MEMLOCK: 8 * 2**20}
    monkeypatch.setattr(all_reduce.resource, "getrlimit", lambda kind: (limits[kind], -1))
    assert rdma_obstacle().startswith("raise `ulimit -l`, which is 8192 KiB, to unlimited")
    (tmp_path / "status").write_text(status.format(1 << 14))  # of root
    assert rdma_obstacle() == ""
    (tmp_path / "status").write_text("")
    assert rdma_obstacle() != ""
    limits[all_reduce.resource.RLIMIT_MEMLOCK] = all_reduce.resource.RLIM_INFINITY
    assert rdma_obstacle() == ""


def test_the_links_are_in_the_log_of_nccl():
    log = (
        "h:1:2 [0] NCCL INFO Using network IB\n"
        "h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA\n"
        "h:1:2 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM\n"
    )
    assert transports(log) == {"IB", "NET/IB", "P2P"}
    assert transports("") == frozenset()
