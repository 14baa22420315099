"""What docs/gpu.md claims of GPUs (each ◇ with its number), and which run shows it.

Input: the page, and what the runs have left. Output: an answer to each claim, with its evidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.doctor.result import Status
from cluster.doctor.trials import proven
from configs.schema import RunConfig
from report.metrics import Record

MARK = re.compile(r"◇(\d+)")


@dataclass(frozen=True)
class Run:
    """What a run of the proof has left.

    name: of its folder.
    command: that made it.
    words: why it failed; "" of one that ended well.
    cfg: its configuration; None where it did not begin.
    records: of its metrics.jsonl.
    """

    name: str
    command: str
    seconds: float
    words: str
    cfg: RunConfig | None
    records: Sequence[Record]


@dataclass(frozen=True)
class Evidence:
    """What shows a claim.

    claim: in words for those who do not know the project.
    run: whose records are read.
    gpus: that it takes.
    shows: "trained" (it ended well), "proven" (its weight proof too), or "restarted".
    """

    claim: str
    run: str
    gpus: int
    shows: str


@dataclass(frozen=True)
class Answer:
    """yes, no or not shown, and why."""

    answer: str
    evidence: str


SHOWN_BY = {
    1: Evidence("a policy trains with engines and learner on GPUs apart", "gp_l", 2, "trained"),
    2: Evidence("a policy trains with both on the same GPUs in turn", "colocated", 1, "trained"),
    3: Evidence("weights reach engines on other GPUs by NCCL", "gp_l", 2, "proven"),
    4: Evidence("weights reach engines on the same GPU by CUDA IPC", "colocated", 1, "proven"),
    5: Evidence("the optimizer's state stays in the host's memory", "offload", 1, "proven"),
    6: Evidence("a learner that was killed joins NCCL again", "restart", 2, "restarted"),
}


def read_claims(page: str) -> list[int]:
    """The number of each ◇, in the order of the page."""
    return [int(number) for number in MARK.findall(page)]


def answer(number: int, gpus: int, runs: Mapping[str, Run]) -> Answer:
    """What the runs show of a claim."""
    evidence = SHOWN_BY[number]
    if gpus < evidence.gpus:
        return Answer("not shown", f"it takes {evidence.gpus} GPUs, and this machine has {gpus}")
    run = runs.get(evidence.run)
    if run is None:
        return Answer("not shown", f"the run {evidence.run} was not made")
    if run.words:
        return Answer("no", f"the run {run.name} failed: {run.words}")
    return _shown(run, evidence.shows)


def _shown(run: Run, shows: str) -> Answer:
    updates = [r for r in run.records if r["kind"] == "ppo"]
    if not updates or run.cfg is None:
        return Answer("no", f"the run {run.name} ended without an update")
    trained = f"the run {run.name} trained for {len(updates)} PPO update{'s' * (len(updates) > 1)}"
    if shows == "trained":
        return Answer("yes", trained)
    if shows == "restarted":
        restarts = [r for r in run.records if r["kind"] == "restart" and r["who"] == "learner"]
        later = restarts and any(r["time"] > restarts[-1]["time"] for r in updates)
        if not later:
            return Answer("no", f"no update of {run.name} came after its rank was killed")
        return Answer("yes", f"{trained}, some after its rank was killed and had joined again")
    proof = proven(run.cfg, run.records)
    if proof is None:
        return Answer("no", f"the run {run.name} has no proof of its weights")
    return Answer("yes" if proof.status is Status.OK else "no", f"{trained}; {proof.text}")
