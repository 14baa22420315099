"""The GPUs of one machine and their links, as torch and nvidia-smi see them.

torch is asked in a process of its own: CUDA takes memory of each GPU that it is asked about.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass

from cluster.doctor.machine import Subject
from cluster.doctor.result import Finding, fault, not_applicable, ok, warning
from cluster.placement.memory import GIB
from cluster.placement.nodes import visible_gpus

NONE = "this machine has no NVIDIA GPU"
ASK_S = 60.0
BUSY = 0.1  # of a GPU's memory, from which on something else is on it
DIRECT = re.compile(r"NV\d+|PIX|PXB|PHB|NODE")  # links within one processor
ASK = """
import json, torch
gpus = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    p = torch.cuda.get_device_properties(i)
    gpus.append([p.name, f"{p.major}.{p.minor}", free, total, torch.cuda.is_bf16_supported(False)])
print(json.dumps([torch.__version__, torch.version.cuda, gpus]))
"""


@dataclass(frozen=True)
class Device:
    """One GPU as torch sees it; memory in bytes."""

    name: str
    capability: str
    free: int
    total: int
    bfloat16: bool


def gpus(subject: Subject) -> Finding:
    """Whether torch sees the GPUs that the system has, and their memory is free."""
    there = visible_gpus()
    if not there:
        return not_applicable(NONE)
    remedy = "`tools/setup.sh gpu` installs torch for GPUs; its CUDA 13 needs driver 580 or newer"
    try:
        torch_version, cuda, seen = json.loads(
            _output([sys.executable, "-c", ASK]).splitlines()[-1]
        )
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return fault(f"torch does not answer: {_why(error)}", remedy)
    return judge([Device(*values) for values in seen], there, torch_version, cuda, remedy)


def judge(
    seen: list[Device], there: int, torch_version: str, cuda: str | None, remedy: str
) -> Finding:
    """The finding on the GPUs that torch sees.

    Args:
        seen: by torch.
        there: number of those that the system has and CUDA_VISIBLE_DEVICES leaves.
        torch_version: of torch.
        cuda: that torch was built for; None of a build for CPUs.
        remedy: where torch sees fewer.
    """
    if len(seen) < there:
        built = f"CUDA {cuda}" if cuda else "CPUs alone"
        return fault(
            f"this machine has {there} GPUs, torch {torch_version}, built for {built}, sees "
            f"{len(seen)}",
            remedy,
        )
    shown = ", ".join(f"{d.name} {d.total / GIB:.0f} GiB" for d in seen)
    numbers = {f"free_gib_{i}": d.free / GIB for i, d in enumerate(seen)}
    busy = [f"GPU {i}" for i, d in enumerate(seen) if d.free < (1 - BUSY) * d.total]
    if busy:
        return warning(
            f"{shown}; others hold memory of {', '.join(busy)}",
            "end what runs there (`nvidia-smi`), or lower rollout.gpu_memory",
            **numbers,
        )
    old = [d.name for d in seen if not d.bfloat16]
    if old:
        return warning(f"{shown}; {old[0]} has no bfloat16", "train with model.dtype=float32")
    return ok(f"{shown}; torch {torch_version}, CUDA {cuda}", **numbers)


def links(subject: Subject) -> Finding:
    """How the GPUs of this machine reach each other."""
    there = visible_gpus()
    if there < 2:
        return not_applicable("one GPU has no other to reach" if there else NONE)
    if shutil.which("nvidia-smi") is None:
        return warning("nvidia-smi is not in PATH: links are not known", "put it into the image")
    try:
        return judge_links(_output(["nvidia-smi", "topo", "-m"]))
    except (OSError, subprocess.SubprocessError) as error:
        return warning(f"nvidia-smi topo -m does not answer: {_why(error)}", "see the driver's log")


def judge_links(matrix: str) -> Finding:
    """The finding on the output of `nvidia-smi topo -m`."""
    rows = [line.split() for line in matrix.splitlines() if re.match(r"GPU\d+\s", line)]
    number = len(rows)
    pairs = {
        f"GPU{i}–GPU{j}": row[1 + j] for i, row in enumerate(rows) for j in range(i + 1, number)
    }
    kinds = ", ".join(sorted(set(pairs.values())))
    slow = [f"{pair} {kind}" for pair, kind in pairs.items() if not DIRECT.fullmatch(kind)]
    if slow:
        return warning(
            f"{len(slow)} of {len(pairs)} pairs are linked across both processors: {slow[0]}",
            "place tensor-parallel engines on GPUs of one processor",
        )
    return ok(f"{len(pairs)} pairs, linked by {kinds}")


def compiler(subject: Subject) -> Finding:
    """Whether Triton can build what loads its kernels, as it does when an engine starts.

    It takes CC, gcc or clang, in this order, and Python's headers (triton/runtime/build.py).
    """
    if not visible_gpus():
        return not_applicable(NONE)
    remedy = "install gcc and Python's headers (Debian, Ubuntu: gcc python3-dev)"
    named = os.environ.get("CC")
    found = named or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        return fault(
            "there is no C compiler (CC, gcc, clang), with which vLLM builds kernels as it starts",
            remedy,
        )
    shown = f"CC={named}" if named else found
    command = [found, "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-x", "c", "-"]
    try:
        _output(command, "#include <Python.h>\n")
    except (OSError, subprocess.SubprocessError) as error:
        return fault(
            f"{shown} cannot build kernels for Python {sys.version.split()[0]}: {_why(error)}",
            remedy,
        )
    return ok(f"{shown} and Python's headers are there")


def _output(command: list[str], given: str = "") -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=ASK_S, input=given
    )
    return done.stdout


def _why(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error) or type(error).__name__
    lines = str(said).strip().splitlines()
    return next((line for line in lines if "error:" in line), lines[-1])  # gcc goes on after it
