"""A real all_reduce between processes of a Ray: over NCCL where GPUs are free, else over Gloo.

Input: a `Cluster`. Output: whether every rank got the sum, how fast, and over which links.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import socket
import tempfile
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ray

from cluster.doctor.nodes import ANSWER_S, Cluster, on_nodes
from cluster.doctor.result import Finding, fault, not_applicable, ok, warning
from cluster.failures import RunFailure
from cluster.placement.types import Node

MOST_GPUS = 16
MIB = {"nccl": 256, "gloo": 8}
REPEATS = 3
JOIN_S = 30.0
TRANSPORT = re.compile(r"via (P2P|SHM|NET/\w+)|Using network (\w+)")
DEVICES, VERBS, STATUS = Path("/dev/infiniband"), "libibverbs.so.1", Path("/proc/self/status")
IPC_LOCK = 14  # its bit among Linux's capabilities
REMEDY = {
    "gloo": "open all ports between the nodes; where a node has several networks, name the right "
    "one in GLOO_SOCKET_IFNAME",
    "nccl": "open all ports between the nodes; where a node has several networks, name the right "
    "one in NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says more",
}


class Reduced(NamedTuple):
    """What one rank saw.

    seconds: of one all_reduce.
    transports: NCCL's.
    obstacle: what keeps NCCL from InfiniBand and RoCE, and the remedy; "" where nothing is known.
    """

    seconds: float
    transports: frozenset[str]
    obstacle: str = ""


def gloo(cluster: Cluster) -> Finding:
    """Between a rank on each node; on one node, between two."""
    nodes = [node for node in cluster.nodes if not node.idle]
    return _reduce("gloo", nodes * 2 if len(nodes) == 1 else nodes)


def nccl(cluster: Cluster) -> Finding:
    """Between ranks on all free GPUs, up to MOST_GPUS."""
    spread = [node for node in cluster.nodes for _ in range(int(node.free.get("GPU", 0)))]
    if len(spread) < 2:
        return not_applicable(f"it takes two free GPUs, and there is {len(spread) or 'none'}")
    by_node = sorted(spread, key=lambda node: node.id)
    return _reduce("nccl", by_node[:: -(-len(by_node) // MOST_GPUS)])


def _reduce(backend: str, nodes: list[Node]) -> Finding:
    (meeting,) = on_nodes(nodes[:1], [_meeting_point], ANSWER_S)
    if isinstance(meeting, RunFailure):
        return fault(f"node {nodes[0].name}: {meeting}", REMEDY[backend])
    calls = [partial(reduce_as, backend, rank, len(nodes), meeting) for rank in range(len(nodes))]
    answers = on_nodes(nodes, calls, JOIN_S + ANSWER_S, gpus=int(backend == "nccl"))
    lost = [(node, a) for node, a in zip(nodes, answers, strict=True) if isinstance(a, RunFailure)]
    if lost:
        node, why = lost[0]
        return fault(
            f"{len(lost)} of {len(nodes)} ranks failed; on {node.name}: {why}", REMEDY[backend]
        )
    reduced = [answer for answer in answers if isinstance(answer, Reduced)]
    return judge(backend, reduced, len({node.id for node in nodes}))


def judge(backend: str, reduced: list[Reduced], nodes: int) -> Finding:
    """The finding on ranks that all got the sum."""
    seconds, ranks = max(r.seconds for r in reduced), len(reduced)
    transports = frozenset[str]().union(*(r.transports for r in reduced))
    # Each byte crosses each rank's link 2 (n - 1) / n times.
    rate = MIB[backend] / 2**10 * 2 * (ranks - 1) / ranks / seconds
    where = f"{ranks} ranks on {nodes} node{'s' * (nodes > 1)}"
    over = f", over {', '.join(sorted(transports))}" if transports else ""
    text = f"{where} add {MIB[backend]} MiB at {rate:.2g} GiB/s{over}"
    if nodes > 1 and transports & {"NET/Socket", "Socket"}:
        obstacles = sorted({r.obstacle for r in reduced if r.obstacle})
        remedy = "; ".join(obstacles) or "NCCL_DEBUG=INFO says why"
        return warning(
            f"{text}: NCCL goes over TCP",
            f"for InfiniBand or RoCE: {remedy}; see docs/cluster.md",
            gib_per_s=rate,
        )
    return ok(text, gib_per_s=rate)


def _meeting_point() -> str:
    """host:port that is free on this node."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def reduce_as(backend: str, rank: int, ranks: int, meeting: str) -> Reduced:
    """Be one rank.

    Raises:
        RuntimeError: the others do not come, or the sum is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "nccl"
        os.environ.setdefault("NCCL_DEBUG", "INFO")
        os.environ["NCCL_DEBUG_FILE"] = str(log)
        seconds = _seconds(backend, rank, ranks, meeting)
        seen = transports(log.read_text() if log.is_file() else "")
        return Reduced(seconds, seen, rdma_obstacle())


def rdma_obstacle() -> str:
    """What keeps this process from InfiniBand and RoCE, and the remedy."""
    if not DEVICES.is_dir():
        return f"give the processes the devices, of which {DEVICES} would have some"
    try:
        ctypes.CDLL(VERBS)
    except OSError:
        return (
            f"install {VERBS} and its providers, which NCCL opens (libibverbs1, ibverbs-providers)"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not _may_lock(STATUS.read_text()):
        return (
            f"raise `ulimit -l`, which is {limit // 1024} KiB, to unlimited (LimitMEMLOCK of the "
            "container runtime, for NCCL pins memory)"
        )
    return ""


def _may_lock(status: str) -> bool:
    """Whether the process has CAP_IPC_LOCK, by its status in /proc."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.M)
    return found is not None and bool(int(found[1], 16) >> IPC_LOCK & 1)


def _seconds(backend: str, rank: int, ranks: int, meeting: str) -> float:
    """Of the fastest of a few."""
    import torch
    from torch import distributed

    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    distributed.init_process_group(
        backend,
        init_method=f"tcp://{meeting}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=JOIN_S),
    )
    seconds = []
    try:
        for _ in range(REPEATS):
            values = torch.full((MIB[backend] * 2**18,), rank + 1.0, device=device)
            distributed.barrier()
            begin = time.monotonic()
            distributed.all_reduce(values)
            low, high = float(values.min()), float(values.max())  # waits for the device
            seconds.append(time.monotonic() - begin)
            if not low == high == ranks * (ranks + 1) / 2:
                raise RuntimeError(f"the sum of 1 … {ranks} came out as {low:g} … {high:g}")
    finally:
        distributed.destroy_process_group()
    return min(seconds)


def transports(log: str) -> frozenset[str]:
    """NCCL's links by its own log."""
    return frozenset(match[1] or match[2] for match in TRANSPORT.finditer(log))
