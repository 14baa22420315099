"""The nodes that a run may use, as data for a plan: of a live cluster, or this machine.

Input: an address. Output: nodes, or within ten seconds one sentence: nobody answers there, or the
cluster runs another Ray or Python. It only reads: no cluster is joined, nothing is started.
"""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cluster.failures import ClusterBusyError, first_line
from cluster.placement.cards import smallest_card
from cluster.placement.plan import plan
from cluster.placement.types import Needs, Node, Plan
from configs.load import ConfigError
from configs.schema import RunConfig

T = TypeVar("T")
CONNECT_S, ANSWER_S = 4.0, 6.0  # with the rest of a check under ten seconds
SETTLE_S = 3.0
DEVICES, VISIBLE = Path("/dev"), "CUDA_VISIBLE_DEVICES"


def address_of(configured: str | None) -> str | None:
    """The cluster's address: the configured one, or the one that a Ray job finds."""
    address = configured or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def live_nodes(address: str) -> list[Node]:
    """The living nodes of a cluster.

    Args:
        address: host:port of Ray's head, http(s)://host:port of its job server, or auto.

    Raises:
        ConfigError: the address is none of these, does not answer in time, asks for a token that
            this side lacks, or belongs to a cluster with another Ray or Python.
    """
    address = reachable(address)
    read = _from_server if "://" in address else _from_head
    silent = f"cluster.address={address}: no Ray answers"
    return with_deadline(ANSWER_S, lambda: read(address), silent)


def plan_live(
    cfg: RunConfig,
    address: str,
    needs: Callable[[Sequence[Node]], Needs],
    learn: bool = True,
    measured: Callable[[Sequence[Node]], Sequence[Node]] = tuple,
) -> Plan:
    """The plan for a live cluster.

    A busy one is asked again for SETTLE_S: what ended a moment ago still counts there.

    Args:
        cfg: the run.
        address: as `live_nodes` takes it.
        needs: bytes of the run's processes on such nodes.
        learn: False places rollout workers only.
        measured: the nodes with the memory of their GPUs (`ray_options.measured_cards`).

    Raises:
        ConfigError: as `live_nodes`.
        PlacementError: as `cluster.placement.plan.plan`.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        nodes = measured(live_nodes(address))
        try:
            return plan(cfg, nodes, needs(nodes), learn)
        except ClusterBusyError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def reachable(address: str) -> str:
    """The address with `auto` resolved, once something listens there.

    Raises:
        ConfigError: nothing does, or it is no address.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"cluster.address={address}: Ray Client cannot carry a run; send it to the job server "
            "with `cardinal submit`, or start it on a node of the cluster"
        )
    where = f"cluster.address={address}"
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        head = canonicalize_bootstrap_address("auto")
        if not head:
            raise ConfigError(f"{where}: no Ray runs on this machine")
        address = str(head)
    try:
        url = urlsplit(address if "://" in address else f"gcs://{address}")
        host, port = url.hostname, url.port or {"https": 443}.get(url.scheme, 80)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not host or (url.scheme == "gcs" and not url.port):
        raise ConfigError(f"{where}: must be host:port, http(s)://host:port or auto")

    def connect() -> None:
        socket.create_connection((host, port), timeout=CONNECT_S).close()

    with_deadline(CONNECT_S + 1, connect, f"{where}: nothing answers there")
    return address


def same_versions(address: str, ray_there: str, python_there: str) -> None:
    """Refuse a cluster with another Ray or Python.

    To join a cluster all three numbers of Python must be equal, as Ray checks; to send it a job,
    which runs in the cluster's own Python, the first two.

    Raises:
        ConfigError: names both sides' versions.
    """
    import ray

    here = {"Ray": ray.__version__, "Python": platform.python_version()}
    numbers = 2 if "://" in address else 3
    for name, there, n in (("Ray", ray_there, 3), ("Python", python_there, numbers)):
        if there.split(".")[:n] != here[name].split(".")[:n]:
            raise ConfigError(
                f"cluster.address={address}: the cluster runs {name} {there} and this side {name} "
                f"{here[name]}; they must be equal"
            )


def local_node(cpus: float, memory: int) -> Node:
    """This machine as the one node of a local Ray.

    Args:
        cpus: that the run asks for; a local Ray offers as many, on one machine they take turns.
        memory: bytes that are free.
    """
    gpus = visible_gpus()
    total = {"CPU": local_cpus(cpus), "GPU": float(gpus), "memory": float(memory)}
    card = smallest_card(gpus) if gpus else None
    return Node("local", "this machine", total, total, card=card)


def visible_gpus() -> int:
    """GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, as Ray counts them.

    Raises:
        ConfigError: it names one twice, or one that is not there: CUDA would then hide more of
            them without a word.
    """
    there = len(list(DEVICES.glob("nvidia[0-9]*")))
    named = os.environ.get(VISIBLE)
    if named is None or not there:
        return there
    if named in ("", "-1", "NoDevFiles"):
        return 0
    devices = [device.strip() for device in named.split(",")]
    numbers = [int(device) for device in devices if device.lstrip("-").isdigit()]
    if len(set(devices)) < len(devices) or any(not 0 <= n < there for n in numbers):
        raise ConfigError(
            f"{VISIBLE}={named}: must name GPUs of this machine, which has {there}, each once, by "
            f"numbers from 0 to {there - 1} or by their UUIDs"
        )
    return len(devices)


def local_cpus(cpus: float) -> float:
    """Logical CPUs of a local Ray for processes that ask for `cpus`."""
    return float(max(int(cpus) + 1, os.cpu_count() or 1))


def with_deadline(seconds: float, call: Callable[[], T], otherwise: str) -> T:
    """The value of a call that may hang in a library, made in a thread that is left if it does.

    Raises:
        ConfigError: `otherwise` and the cause; a ConfigError of the call is passed on.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except BaseException as error:  # noqa: BLE001 - a thread's boundary; raised below
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    if failed and isinstance(failed[0], ConfigError):
        raise failed[0]
    cause = first_line(failed[0]) if failed else f"nothing came within {seconds:g} s"
    raise ConfigError(f"{otherwise} ({cause})") from (failed[0] if failed else None)


def _from_head(address: str) -> list[Node]:
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.autoscaler.v2.sdk import get_cluster_status

    known = get_cluster_metadata(GcsClient(address))
    same_versions(address, known["ray_version"], known["python_version"])
    status = get_cluster_status(address, timeout=int(ANSWER_S))
    return _distinct_names(
        Node(
            n.node_id or "",
            n.ip_address,
            n.total_resources(),
            n.available_resources(),
            _accelerator(n.total_resources(), n.labels or {}),
            n.labels or {},
        )
        for n in [*status.active_nodes, *status.idle_nodes]
    )


def _from_server(address: str) -> list[Node]:
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient
    from ray.util.state import list_nodes

    client = SubmissionClient(address)

    def get(path: str) -> dict[str, Any]:
        reply = client._do_request("GET", path)
        reply.raise_for_status()
        return reply.json()["data"]

    known = get("/api/v0/cluster_metadata")
    same_versions(address, known["rayVersion"], known["pythonVersion"])
    report = (get("/api/cluster_status")["clusterStatus"] or {}).get("loadMetricsReport", {})
    usage = report.get("usageByNode") or {}
    nodes = []
    for n in list_nodes(address=address, detail=True, limit=10_000, timeout=int(ANSWER_S)):
        if n.state == "ALIVE":
            used = {k: pair[0] for k, pair in usage.get(n.node_id, {}).items()}  # CPU and GPU
            free = {k: v - used.get(k, 0.0) for k, v in n.resources_total.items()}
            total, labels = n.resources_total, n.labels or {}
            accelerator = _accelerator(total, labels)
            nodes.append(Node(n.node_id, n.node_ip, total, free, accelerator, labels))
    return _distinct_names(nodes)


def _distinct_names(nodes: Iterable[Node]) -> list[Node]:
    """Nodes named by address; where several share one, the id's beginning is added."""
    nodes = list(nodes)
    count = Counter(node.name for node in nodes)
    return [
        node if count[node.name] == 1 else replace(node, name=f"{node.name}/{node.id[:4]}")
        for node in nodes
    ]


def _accelerator(total: Mapping[str, float], labels: Mapping[str, str]) -> str | None:
    prefix = "accelerator_type:"
    types = [name.removeprefix(prefix) for name in total if name.startswith(prefix)]
    return types[0] if types else labels.get("ray.io/accelerator-type")
