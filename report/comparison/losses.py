"""A run's PPO updates against those of its replay: which is the first that differs, and in what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from report.metrics import Record, read
from report.terminal import Terminal

COMPARED = ("loss", "policy_loss", "value_loss", "entropy", "kl", "grad_norm")


@dataclass(frozen=True)
class UpdatePair:
    """One update of both.

    run, replay: numbers by name, of COMPARED.
    """

    update: int
    run: Record
    replay: Record

    @property
    def differing(self) -> list[str]:
        """Names of the numbers that are not the same to the last digit."""
        return [name for name in self.run if self.run[name] != self.replay.get(name)]


def update_pairs(run: Path, replay: Path) -> list[UpdatePair]:
    """The updates that both folders have a record of."""
    ours, theirs = dict(_updates(run)), dict(_updates(replay))
    return [UpdatePair(n, ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]


def _updates(folder: Path) -> Iterator[tuple[int, Record]]:
    for record in read(folder):
        if record["kind"] == "ppo":
            yield record["update"], {name: record[name] for name in COMPARED if name in record}


def print_losses(pairs: list[UpdatePair], console: Console | None = None) -> None:
    """Print both losses of each update, and one sentence."""
    console = console or Terminal()
    table = Table("update", "loss of the run", "of the replay", "differ in")
    for pair in pairs:
        losses = [f"{numbers['loss']:.9g}" for numbers in (pair.run, pair.replay)]
        table.add_row(str(pair.update), *losses, ", ".join(pair.differing) or "–")
    console.print(table)
    console.print(verdict(pairs), soft_wrap=True)


def verdict(pairs: list[UpdatePair]) -> str:
    """Whether the replay is the run."""
    first = next((pair for pair in pairs if pair.differing), None)
    if first is None:
        return f"{len(pairs)} of {len(pairs)} updates are the run's to the last digit"
    name = first.differing[0]
    was, now = first.run[name], first.replay.get(name)
    return f"update {first.update} is the first that differs: {name} was {was}, and is {now}"
