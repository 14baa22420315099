"""One machine: files, folders, memory, disk, shared memory and ports that a run needs there.

Input: a `Subject`. Output: a `Finding`; what a run's own checks refuse is raised as they raise it.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.doctor.result import Finding, fault, ok, warning
from cluster.doctor.versions import Requirements
from cluster.placement.memory import GIB, available_bytes, memory_bytes, tiny_size
from cluster.preflight.machine import (
    SHARED_MEMORY,
    check_open_files,
    check_places,
    check_room,
    check_shared_memory,
)
from configs.load import load
from configs.model_folder import ModelSize
from configs.schema import RunConfig

SMALLEST = "gp_l_debug"  # the configuration of the smallest run
RAY_PORTS = {6379: "its head", 8265: "its dashboard and job server", 52365: "its agent"}
FULL = 0.95  # of the disk with Ray's temporary folder: Ray then takes no object that spills


@dataclass(frozen=True)
class Subject:
    """What is looked for on each machine.

    cfg, size: the run for whose files a machine must have room, and the sizes of its policy.
    requirements: of packages.
    starts_ray: whether the run starts a Ray of its own here, with its object store.
    """

    cfg: RunConfig
    size: ModelSize
    requirements: Requirements
    starts_ray: bool


def open_files(subject: Subject) -> Finding:
    """The limit on open files."""
    check_open_files(subject.cfg)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = limit == resource.RLIM_INFINITY
    return ok(f"a process may open {'any number of' if unlimited else limit} files")


def folders(subject: Subject) -> Finding:
    """Home, temporary and cache folders, and the runs' own."""
    check_places(subject.cfg)
    root = Path(subject.cfg.cluster.root).absolute()
    return ok(f"{root}, the home folder and the temporary ones may be written")


def memory(subject: Subject) -> Finding:
    """Free memory for the processes of the smallest run."""
    free, smallest = available_bytes(), load(SMALLEST)
    need = sum(memory_bytes(smallest, tiny_size(smallest)).values())
    if free < need:
        return fault(
            f"{free / GIB:.1f} GiB of memory are free, and the smallest run takes {need / GIB:.1f}",
            "end other programs, or raise the limit of the container",
        )
    return ok(f"{free / GIB:.1f} GiB free, {os.cpu_count()} processors", free_gib=free / GIB)


def disk(subject: Subject) -> Finding:
    """Room for what the run writes, and for what Ray spills."""
    check_room(subject.cfg, subject.size, local=False)
    temporary = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    used = shutil.disk_usage(temporary)
    if used.free < (1 - FULL) * used.total:
        return warning(
            f"{temporary} is {1 - used.free / used.total:.0%} full: from {FULL:.0%} on Ray takes "
            "no object that its memory has no room for",
            "free some, or set RAY_TMPDIR to another disk",
        )
    return ok(f"{temporary} has {used.free / GIB:.1f} GiB free", free_gib=used.free / GIB)


def shared_memory(subject: Subject) -> Finding:
    """Room in /dev/shm for the object store and the weights that engines load."""
    if not SHARED_MEMORY.is_dir():
        return fault(f"{SHARED_MEMORY} is not there", "mount a tmpfs there")
    check_shared_memory(subject.cfg, subject.size, store=subject.starts_ray)
    free = shutil.disk_usage(SHARED_MEMORY).free
    return ok(f"{SHARED_MEMORY} has {free / GIB:.1f} GiB free", free_gib=free / GIB)


def ports(subject: Subject) -> Finding:
    """A free port that this machine reaches under its own address; those with fixed numbers."""
    named = os.environ.get("VLLM_PORT", "")
    if named and not named.isdigit():
        return fault(
            f"VLLM_PORT={named}: must be a number; Kubernetes sets it so for a service called vllm",
            "unset VLLM_PORT, or rename the service",
        )
    address = _own_address()
    try:
        _answers_itself(address)
    except OSError as error:
        return fault(
            f"{address}, this machine's own address, cannot be reached from it: {error}",
            "open the ports of this machine to itself: torch's and vLLM's processes meet there",
        )
    taken = [f"{port} ({use}) is held by {who}" for port, use, who in _taken()]
    if taken:
        return warning(
            f"of Ray's ports {', '.join(taken)}: `ray start --head` does not start here",
            "end it, or give `ray start` other ports; a run that starts its own Ray needs none",
        )
    return ok(f"{address} reaches itself, Ray's ports {', '.join(map(str, RAY_PORTS))} are free")


def _own_address() -> str:
    """The address under which others reach this machine; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 53))
        except OSError:  # without a network it is alone
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _answers_itself(address: str) -> None:
    with socket.socket() as server:
        server.bind((address, 0))
        server.listen()
        socket.create_connection(server.getsockname(), timeout=4).close()


def _taken() -> Iterator[tuple[int, str, str]]:
    """Ray's fixed ports that something else listens on: number, use and who."""
    for port, use in RAY_PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                holder = _holder(port)
                if holder is None or not _is_rays(holder):
                    yield port, use, f"{holder.name()} {holder.pid}" if holder else "another user"


def _holder(port: int) -> psutil.Process | None:
    """The process that listens on a port; None where this user may not know."""
    for process in psutil.process_iter():
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
        except psutil.Error:
            continue
    return None


def _is_rays(process: psutil.Process) -> bool:
    """Whether it belongs to a Ray that runs here already."""
    try:
        command = " ".join(process.cmdline())
        return command.startswith("ray::") or "/ray/" in command
    except psutil.Error:
        return False
