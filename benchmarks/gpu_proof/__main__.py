"""`python -m benchmarks.gpu_proof`: the doctor, the short runs, the page; `--page`: that alone.

Without a GPU it ends with one sentence and exit code 2 before anything starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_proof.page import DOCTOR, MACHINE, write_page
from benchmarks.gpu_proof.runs import make_all
from cluster.placement.nodes import visible_gpus
from configs.load import ConfigError
from configs.paths import ROOT

DOCTOR_S = 1500.0


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 once the page is written, whatever its answers are."""
    parser = argparse.ArgumentParser(description=__doc__)
    day = time.strftime("%Y-%m-%d")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / f"gpu-proof-{day}")
    parser.add_argument("--page", action="store_true", help="write the page of --out again")
    options = parser.parse_args(arguments)
    folder = options.out.resolve()
    if not options.page:
        try:
            gpus = visible_gpus()
        except ConfigError as error:
            return _refuse(str(error))
        if not gpus:
            return _refuse("this machine shows no NVIDIA GPU (/dev/nvidia0, CUDA_VISIBLE_DEVICES)")
        if folder.exists() and any(folder.iterdir()):
            return _refuse(f"--out {options.out}: holds something already; choose a new folder")
        _prove(folder, gpus, day)
    print(write_page(folder))
    return 0


def _refuse(sentence: str) -> int:
    print(f"gpu-proof: {sentence}", file=sys.stderr)
    return 2


def _prove(folder: Path, gpus: int, day: str) -> None:
    folder.mkdir(parents=True)
    machine = {"gpus": gpus, "date": day, "commit": _commit()}
    (folder / MACHINE).write_text(json.dumps(machine))
    print("gpu-proof: cardinal doctor", flush=True)
    command = [sys.executable, "-m", "cluster.cli", "doctor", "--json", f"cluster.root={folder}"]
    said = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=DOCTOR_S, check=False
    )
    (folder / DOCTOR).write_text(said.stdout)
    for run in make_all(folder, gpus):
        print(f"gpu-proof: {run.name}: {run.words or 'ended well'}", flush=True)


def _commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    try:
        said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # a machine without git, on which a copy of the checkout lies
        said = ""
    return said.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
