"""Published figures of GPUs, links and libraries, from hardware.yaml: each with unit and source."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

FILE = Path(__file__).with_name("hardware.yaml")
GPUS = ("H100", "A100")


class Figure(NamedTuple):
    """One input of a prediction."""

    value: float
    unit: str
    source: str


@cache
def figures() -> dict[str, dict[str, Figure]]:
    """All of them, by group and name."""
    groups = yaml.safe_load(FILE.read_text())
    return {
        group: {name: Figure(float(row[0]), *row[1:]) for name, row in rows.items()}
        for group, rows in groups.items()
    }


class Hardware:
    """The values of one kind of GPU, and of all nodes and engines: `hardware.gpu("peak")`."""

    def __init__(self, gpu: str) -> None:
        self.name = gpu

    def gpu(self, name: str) -> float:
        """Of the GPU."""
        return figures()[self.name][name].value

    def node(self, name: str) -> float:
        """Of a node and its links."""
        return figures()["node"][name].value

    def engine(self, name: str) -> float:
        """Of an engine."""
        return figures()["engine"][name].value

    def collective_bandwidth(self, members: int) -> float:
        """Bytes/s at which each of so many GPUs gathers, whole nodes of them together.

        In a node over NVLink. Over several, data enters a node once, through all of its adapters.
        """
        nvlink, links = self.gpu("nvlink"), self.node("links")
        if members <= self.node("gpus"):
            return nvlink * links
        return min(nvlink, self.node("gpus") * self.gpu("nic")) * links
