"""The page of the proof: each ◇ of docs/gpu.md answered, for readers who do not know the project.

Input: the proof's folder (doctor.json, runs.json, run folders). Output: Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.claims import SHOWN_BY, Run, answer, read_claims
from benchmarks.gpu_proof.runs import read_runs
from configs.paths import ROOT

DOCTOR, MACHINE = "doctor.json", "machine.json"
INTRODUCTION = """\
Cardinal trains language and vision-language models by reinforcement learning: *engines* (vLLM)
let a model play a game, a *learner* (DeepSpeed) improves it, and the new weights travel back over
a *weight channel*. Its page `docs/gpu.md` marks with ◇ what had never run on a GPU when it was
written. `make gpu-proof` tried each of them on this machine; below is what happened.

*yes*: it ran here, and the evidence says what was measured. *no*: it was tried and failed.
*not shown*: this machine could not try it. The weight proof that the evidence names perturbs one
kind of the learner's weights after another, sends them to the engines, and compares both sides'
log-probabilities of what the engines then sample: they agree only if the weights have arrived.
"""
CLOSING = """\
## What to do with this page

Send it to the project as an issue, with the folder that it lies in if an answer is *no*: the logs
of each run are there (`NAME.log`, `NAME/logs`).
"""


def write_page(folder: Path) -> Path:
    """Write page.md beside what it is made of."""
    page = folder / "page.md"
    page.write_text(render(folder))
    return page


def render(folder: Path) -> str:
    """The page."""
    machine = json.loads((folder / MACHINE).read_text())
    doctor = json.loads((folder / DOCTOR).read_text())
    runs = read_runs(folder)
    parts = [
        f"# Cardinal on {machine['gpus']} GPU{'s' * (machine['gpus'] != 1)}, {machine['date']}",
        INTRODUCTION,
        f"Machine: {_gpus(doctor)}; commit {machine['commit']}.",
        _answers(machine["gpus"], runs),
        _doctor(doctor),
        _runs(runs),
        CLOSING,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _gpus(doctor: Mapping[str, Any]) -> str:
    found = [c["finding"] for c in doctor["checks"] if c["check"] == "GPUs" and not c["where"]]
    return found[0] if found else "the doctor did not come to its GPUs"


def _answers(gpus: int, runs: Mapping[str, Run]) -> str:
    rows = []
    for number in read_claims((ROOT / "docs" / "gpu.md").read_text()):
        given, claim = answer(number, gpus, runs), SHOWN_BY[number].claim
        rows.append((f"◇{number}", claim, f"**{given.answer}**", given.evidence))
    return "## Each ◇\n\n" + _table(("", "claim", "answer", "evidence"), rows)


def _doctor(doctor: Mapping[str, Any]) -> str:
    rows = []
    for check in doctor["checks"]:
        where = f" ({check['where']})" if check["where"] else ""
        remedy = f" → {check['remedy']}" if check["remedy"] else ""
        rows.append((check["check"] + where, check["status"], check["finding"] + remedy))
    title = "## What `cardinal doctor` says of this machine\n\n"
    return title + _table(("check", "status", "finding"), rows)


def _runs(runs: Mapping[str, Run]) -> str:
    rows = [
        (run.name, f"{run.seconds:.0f} s", run.words or "ended well", f"`{run.command}`")
        for run in runs.values()
    ]
    return "## The runs\n\n" + _table(("run", "took", "end", "command"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
