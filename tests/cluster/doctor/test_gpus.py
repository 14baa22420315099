"""GPUs and their links, by what torch and nvidia-smi say of machines that have some."""

import subprocess
import sysconfig
from types import SimpleNamespace

import pytest

from cluster.doctor import gpus
from cluster.doctor.gpus import Device, judge, judge_links
from cluster.doctor.result import Status

GIB = 2**30
H100 = Device("NVIDIA H100 80GB HBM3", "9.0", 79 * GIB, 80 * GIB, bfloat16=True)
LINKED = """\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \t{kind}\tPIX\t0-47\t0\t\tN/A
GPU1\t{kind}\t X \tSYS\t48-95\t1\t\tN/A
NIC0\tPIX\tSYS\t X

Legend:

  X    = Self
"""


def test_a_machine_without_gpus_has_nothing_to_check(monkeypatch):
    monkeypatch.setattr(gpus, "visible_gpus", lambda: 0)
    assert gpus.gpus(None).status is Status.NOT_APPLICABLE
    assert gpus.links(None).text == "this machine has no NVIDIA GPU"
    assert gpus.compiler(None).status is Status.NOT_APPLICABLE
    monkeypatch.setattr(gpus, "visible_gpus", lambda: 1)
    assert gpus.links(None).text == "one GPU has no other to reach"


def answers(monkeypatch, said=None, error=None, there=2):
    def run(command, **_):
        if error:
            raise error
        return SimpleNamespace(stdout=said)

    monkeypatch.setattr(gpus.subprocess, "run", run)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: there)
    monkeypatch.setattr(gpus.shutil, "which", lambda name: f"/usr/bin/{name}")


def test_what_torch_says_is_read(monkeypatch):
    line = f'["2.13.0", "13.0", [["A", "9.0", {79 * GIB}, {80 * GIB}, true]]]'
    answers(monkeypatch, f"a warning\n{line}\n", there=1)
    found = gpus.gpus(None)
    assert (found.status, found.text) == (Status.OK, "A 80 GiB; torch 2.13.0, CUDA 13.0")
    assert found.numbers == {"free_gib_0": 79}
    answers(monkeypatch, line, there=2)
    assert gpus.gpus(None).status is Status.FAULT


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (subprocess.TimeoutExpired("python", 60), "timed out after 60 seconds"),
        (
            subprocess.CalledProcessError(1, "python", stderr="Traceback\nImportError: no libcuda"),
            "torch does not answer: ImportError: no libcuda",
        ),
    ],
)
def test_a_torch_that_does_not_answer_is_at_fault(monkeypatch, error, words):
    answers(monkeypatch, error=error)
    found = gpus.gpus(None)
    assert found.status is Status.FAULT
    assert words in found.text
    assert "driver 580" in found.remedy


@pytest.mark.parametrize(
    ("seen", "cuda", "status", "words"),
    [
        ([H100, H100], "13.0", Status.OK, "NVIDIA H100 80GB HBM3 80 GiB, NVIDIA"),
        ([], None, Status.FAULT, "has 2 GPUs, torch 2.13.0, built for CPUs alone, sees 0"),
        ([H100], "13.0", Status.FAULT, "built for CUDA 13.0, sees 1"),
        (
            [H100, Device("x", "9", 71 * GIB, 80 * GIB, bfloat16=True)],
            "13.0",
            Status.WARNING,
            "others hold memory of GPU 1",
        ),
        (
            [H100, Device("T4", "7.5", 15 * GIB, 16 * GIB, bfloat16=False)],
            "13.0",
            Status.WARNING,
            "T4 has no bfloat16",
        ),
    ],
)
def test_what_is_wrong_with_gpus_is_named(seen, cuda, status, words):
    found = judge(seen, 2, "2.13.0", cuda, "mend")
    assert found.status is status
    assert words in found.text


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("NV18", Status.OK),
        ("PHB", Status.OK),
        ("SYS", Status.WARNING),
        ("NODE", Status.OK),
    ],
)
def test_links_are_read_from_the_matrix(monkeypatch, kind, status):
    found = judge_links(LINKED.format(kind=kind))
    assert found.status is status
    assert kind in found.text
    assert ("1 of 1 pairs" in found.text) is (status is Status.WARNING)
    answers(monkeypatch, LINKED.format(kind=kind))
    assert gpus.links(None) == found


def test_links_that_cannot_be_read_are_a_warning(monkeypatch):
    answers(monkeypatch, error=OSError("no such device"))
    assert gpus.links(None).text == "nvidia-smi topo -m does not answer: no such device"
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    assert "not in PATH" in gpus.links(None).text


def compiling(monkeypatch, tmp_path, script):
    """With a compiler of ours in PATH, or none."""
    monkeypatch.setattr(gpus, "visible_gpus", lambda: 1)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        (tmp_path / "gcc").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "gcc").chmod(0o755)
    return gpus.compiler(None)


def test_an_engine_needs_a_compiler_and_pythons_headers(monkeypatch, tmp_path):
    assert "no C compiler" in compiling(monkeypatch, tmp_path, "").text
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert gpus.compiler(None).status is Status.FAULT
    assert "CC=/nowhere/cc" in gpus.compiler(None).text


def test_a_compiler_without_pythons_headers_is_at_fault(monkeypatch, tmp_path):
    said = "fatal error: Python.h: No such file\\ncompilation terminated."
    found = compiling(monkeypatch, tmp_path, f"printf '{said}' >&2; exit 1")
    assert (found.status, "Python.h: No such file" in found.text) == (Status.FAULT, True)
    assert "python3-dev" in found.remedy


def test_the_compiler_is_asked_for_the_headers_of_this_python(monkeypatch, tmp_path):
    include = sysconfig.get_path("include")
    script = f'read -r first; [ "$first" = "#include <Python.h>" ] && [ "$2" = "-I{include}" ]'
    assert compiling(monkeypatch, tmp_path, script).status is Status.OK
    assert compiling(monkeypatch, tmp_path, "exit 1").status is Status.FAULT
