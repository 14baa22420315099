"""Scaling on paper: 1 to 512 GPUs, 1.5B to 72B, in virtual time on the real ledger.

`measure` prints what the parts cost on this machine, and small real runs beside their predictions;
`predict` prints a row for each model and number of GPUs; `page` prints docs/scaling.md from the
rows of both, and `plot` draws its picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.scaling import page
from benchmarks.scaling.hardware import GPUS as KINDS
from benchmarks.scaling.hardware import Hardware
from benchmarks.scaling.layouts import LAYOUTS
from benchmarks.scaling.parts import Parts
from benchmarks.scaling.sizes import GPUS, MODELS, UPDATES
from configs.paths import ROOT
from report.metrics import Record, append, read_lines

RESULTS = ROOT / "benchmarks" / "results"
MEASURED, PREDICTED = RESULTS / "scaling_measured.jsonl", RESULTS / "scaling.jsonl"


def rounded(value: Any) -> Any:
    """Floats with four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def show(rows: Iterable[Record]) -> None:
    """Print rows as they come."""
    for row in rows:
        print(json.dumps(rounded(row)), flush=True)


def measure(options: argparse.Namespace) -> None:
    """This machine; rows are added to a file as they come, and those that it has are left out."""
    from benchmarks.scaling.measure import rows

    names = [list(LAYOUTS)[number] for number in options.layouts]
    known = read_lines(options.measured)
    for row in rows(known, names, options.rounds, options.seconds, options.updates):
        show([row])
        append(options.measured, rounded(row))


def predict(options: argparse.Namespace) -> None:
    """GPUs."""
    from benchmarks.scaling.gpu import Model
    from benchmarks.scaling.sizes import row

    host, hardware = Parts.of(read_lines(options.measured)).host, Hardware(options.gpu)
    show(
        row(hardware, Model(model), gpus, host, options.episodes, options.updates)
        for model in options.models
        for gpus in options.gpus
    )


def write_page(options: argparse.Namespace) -> None:
    """The documentation."""
    sys.stdout.write(page.page(read_lines(options.measured), read_lines(options.predicted)))


def plot(options: argparse.Namespace) -> None:
    """Its picture."""
    page.draw(read_lines(options.predicted), options.out)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure")
    command.set_defaults(do=measure)
    numbers = range(len(LAYOUTS))
    command.add_argument("--layouts", type=int, nargs="*", default=list(numbers), choices=numbers)
    command.add_argument("--measured", type=Path, default=MEASURED)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--seconds", type=float, default=8.0, help="of each run on the buffer")
    command.add_argument("--updates", type=int, default=24, help="of each layout's run")
    command = commands.add_parser("predict")
    command.set_defaults(do=predict)
    command.add_argument("--gpu", default="H100", choices=KINDS)
    command.add_argument("--models", nargs="+", default=list(MODELS))
    command.add_argument("--gpus", type=int, nargs="+", default=list(GPUS))
    command.add_argument("--episodes", type=int, default=2048, help="of an update")
    command.add_argument("--updates", type=int, default=UPDATES, help="simulated, after a warm-up")
    command.add_argument("--measured", type=Path, default=MEASURED)
    for name, do in (("page", write_page), ("plot", plot)):
        command = commands.add_parser(name)
        command.set_defaults(do=do)
        command.add_argument("--measured", type=Path, default=MEASURED)
        command.add_argument("--predicted", type=Path, default=PREDICTED)
    command.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "scaling.png")
    options = parser.parse_args(arguments)
    options.do(options)


if __name__ == "__main__":
    main()
