"""One machine: each broken situation is a fault that names what is wrong."""

import os
import resource
import socket
from collections import namedtuple

import pytest

from cluster.doctor import machine
from cluster.doctor.machine import Subject
from cluster.doctor.result import Status
from cluster.doctor.versions import read_requirements
from cluster.placement.memory import tiny_size
from cluster.preflight import machine as preflight
from configs.load import ConfigError, load

Usage = namedtuple("Usage", "total used free")
GIB = 2**30


@pytest.fixture
def subject(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_PORT", raising=False)
    cfg = load("gp_l_debug", [f"cluster.root={tmp_path / 'runs'}"])
    return Subject(cfg, tiny_size(cfg), read_requirements(), starts_ray=True)


def disks(monkeypatch, **free):
    """So much is free at each place, in GiB, of a hundred."""
    sizes = {name.replace("_", "/"): int(gib * GIB) for name, gib in free.items()}

    def usage(place):
        left = sizes.get(str(place).strip("/"), 90 * GIB)
        return Usage(100 * GIB, 100 * GIB - left, left)

    for module in (machine.shutil, preflight.shutil):
        monkeypatch.setattr(module, "disk_usage", usage)


def test_this_machine_is_well(subject):
    for check in (machine.open_files, machine.folders, machine.memory, machine.shared_memory):
        assert check(subject).status is Status.OK, check
    assert machine.disk(subject).status in (Status.OK, Status.WARNING)


def test_a_low_limit_on_open_files_is_named(subject, monkeypatch):
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(ConfigError, match=r"ulimit -Hn is 100: .* raise it"):
        machine.open_files(subject)
    unlimited = (9, resource.RLIM_INFINITY)
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda _: unlimited)
    assert machine.open_files(subject).text == "a process may open any number of files"


def test_a_home_that_cannot_be_written_is_named(subject, monkeypatch):
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(ConfigError, match="HOME=/proc: cannot be written to"):
        machine.folders(subject)


def test_too_little_memory_is_at_fault(subject, monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: GIB)
    found = machine.memory(subject)
    assert found.status is Status.FAULT
    assert found.text.startswith("1.0 GiB of memory are free, and the smallest run takes ")
    monkeypatch.setattr(machine, "available_bytes", lambda: 64 * GIB)
    found = machine.memory(subject)
    assert (found.status, found.numbers["free_gib"]) == (Status.OK, 64)


def test_a_full_disk_is_named_with_what_the_run_writes(subject, monkeypatch):
    disks(monkeypatch)
    assert machine.disk(subject).status is Status.OK
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda place: Usage(9, 9, 0))
    with pytest.raises(ConfigError, match=r"cluster.root=.*: the run writes .* there are 0.0 GiB"):
        machine.disk(subject)


def test_a_full_temporary_folder_is_a_warning(subject, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/one")
    disks(monkeypatch, one=4.9)
    found = machine.disk(subject)
    assert found.status is Status.WARNING
    assert found.text.startswith("/one is 95% full")
    disks(monkeypatch, one=5.1)
    assert machine.disk(subject).status is Status.OK
    monkeypatch.setenv("RAY_TMPDIR", "/two")
    disks(monkeypatch, one=50, two=1)
    assert machine.disk(subject).text.startswith("/two is 99% full")


def test_a_full_dev_shm_is_named(subject, monkeypatch):
    disks(monkeypatch, dev_shm=0.1)
    with pytest.raises(ConfigError, match=r"/dev/shm has 0\.10 GiB free, and the run needs"):
        machine.shared_memory(subject)
    joins = Subject(subject.cfg, subject.size, subject.requirements, starts_ray=False)
    assert machine.shared_memory(joins).status is Status.OK  # the store is Ray's already
    disks(monkeypatch, dev_shm=0.0)
    with pytest.raises(ConfigError, match=r"the run needs 0\.00 GiB \(weight bucket"):
        machine.shared_memory(joins)


def test_no_dev_shm_is_at_fault(subject, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "gone")
    assert machine.shared_memory(subject).status is Status.FAULT


@pytest.fixture
def fixed_port(monkeypatch):
    """A port of Ray's, on which a program of ours listens."""
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(machine, "RAY_PORTS", {port: "its head"})
        yield port


def test_a_taken_port_is_named_with_who_holds_it(subject, fixed_port):
    found = machine.ports(subject)
    assert found.status is Status.WARNING
    assert f"{fixed_port} (its head) is held by " in found.text
    assert f" {os.getpid()}: `ray start --head` does not start here" in found.text


def test_a_port_that_ray_itself_holds_is_well(subject, fixed_port, monkeypatch):
    monkeypatch.setattr(machine, "_is_rays", lambda process: process.pid == os.getpid())
    assert machine.ports(subject).status is Status.OK
    monkeypatch.setattr(machine, "_holder", lambda port: None)
    assert f"{fixed_port} (its head) is held by another user" in machine.ports(subject).text


def test_a_free_port_is_well(subject, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(machine, "RAY_PORTS", {port: "its head"})
    assert machine.ports(subject).text.endswith(f"Ray's ports {port} are free")


@pytest.mark.parametrize(
    ("command", "rays"),
    [
        (["ray::DashboardAgent"], True),
        (["/x/ray/core/src/ray/raylet/raylet", "--y"], True),
        (["redis-server", "*:6379"], False),
        (["x", "ray::y"], False),
    ],
)
def test_rays_own_processes_are_known(command, rays):
    class Process:
        def cmdline(self):
            return command

    assert machine._is_rays(Process()) is rays


def test_an_address_that_cannot_be_reached_is_at_fault(subject, monkeypatch):
    monkeypatch.setattr(machine, "_own_address", lambda: "192.0.2.1")  # of no machine
    found = machine.ports(subject)
    assert found.status is Status.FAULT
    assert found.text.startswith("192.0.2.1, this machine's own address, cannot be reached")


@pytest.mark.parametrize(("value", "bad"), [("tcp://10.0.0.1:8000", True), ("8000", False)])
def test_a_port_of_vllm_that_is_no_number_is_at_fault(subject, monkeypatch, value, bad):
    monkeypatch.setenv("VLLM_PORT", value)
    found = machine.ports(subject)
    assert (found.status is Status.FAULT) is bad
    assert ("VLLM_PORT=tcp" in found.text) is bad
