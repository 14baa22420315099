"""Real runs of small layouts on this machine, and what the simulation says of them.

A run is `cardinal train` in processes of its own; what it did is read from its own records. Lengths
of its episodes, and how much of the machine others used meanwhile, are inputs of the prediction.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import psutil

from benchmarks.scaling.parts import Parts
from benchmarks.simulation.virtual import VirtualCluster
from cluster.stream.ledger import Ledger
from configs.load import load
from configs.paths import ROOT
from configs.schema import RunConfig
from report.metrics import Record, read

LAYOUTS = {
    "1 engine, 1 rank, staleness 0": (),
    "1 engine, 1 rank, staleness 1": ("ppo.max_staleness=1",),
    "2 engines, 1 rank, staleness 0": ("rollout.workers=2",),
}
KEYS = (  # the demo's model and update, from the random model, and nothing else
    "sft.steps=0",
    "ppo.critic_warmup=0",
    "eval.episodes=1",
    "eval.sampled_questions=0",
    "eval.variants.held_out=null",
    "eval.variants.rule_11_12_13=null",
    "eval.variants.three_tries=null",
    "cluster.weight_proof=false",
    "rollout.cpus=0.5",
    "learner.cpus=0.5",
    "learner.checkpoint_minutes=0",
)
SKIPPED = 4  # updates at the begin of a run, in which engines and kernels warm up
SAMPLE_S = 0.25


@dataclass
class Machine:
    """Seconds of processors that were busy, sample by sample: all of them, and a run's own."""

    times: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def cores_left(self, begin: float, end: float) -> float:
        """Cores that nobody else used, on average."""
        chosen = [i for i, at in enumerate(self.times) if begin <= at <= end]
        if len(chosen) < 2:
            return float(os.cpu_count() or 1)
        first, last = chosen[0], chosen[-1]
        seconds = self.times[last] - self.times[first]
        others = (self.busy[last] - self.busy[first]) - (self.own[last] - self.own[first])
        return max(0.25, (os.cpu_count() or 1) - max(0.0, others) / seconds)


@contextmanager
def watched(process: psutil.Process) -> Iterator[Machine]:
    """Sample the processors on a thread."""
    machine, over = Machine(), threading.Event()
    known: dict[int, float] = {}

    def look() -> None:
        while not over.wait(SAMPLE_S):
            with suppress(psutil.Error):
                for each in (process, *process.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = each.cpu_times()
                        known[each.pid] = times.user + times.system
            total = psutil.cpu_times()
            machine.times.append(time.time())
            machine.busy.append(total.user + total.nice + total.system + total.softirq)
            machine.own.append(sum(known.values()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield machine
    finally:
        over.set()
        thread.join()


def configuration(layout: str, updates: int, root: Path) -> tuple[RunConfig, list[str]]:
    """A layout's configuration, and the arguments of its command."""
    name = layout.replace(" ", "-").replace(",", "")
    keys = [*KEYS, *LAYOUTS[layout], f"ppo.updates={updates}", f"cluster.root={root}"]
    keys.append(f"name={name}")
    return load("gp_l", keys), ["gp_l", *keys]


@dataclass(frozen=True)
class Measured:
    """What a run did after its first updates.

    update_s: mean seconds of an update. prompt, answer: mean tokens of an episode.
    """

    update_s: float
    learner_idle: float
    engine_idle: float
    episodes_per_s: float
    tokens_per_s: float
    prompt: float
    answer: float
    cores: float


def run(layout: str, updates: int, root: Path) -> Measured:
    """Run a layout.

    Raises:
        RuntimeError: it did not end well; the end of its output.
    """
    cfg, arguments = configuration(layout, updates, root)
    command = [sys.executable, "-m", "cluster.cli", "train", *arguments]
    log = root / f"{cfg.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            with watched(psutil.Process(process.pid)) as machine:
                code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code:
        raise RuntimeError(f"{layout}: exit code {code}: {log.read_text()[-2000:]}")
    return measured([r for r in read(root / cfg.name) if r["kind"] == "ppo"], machine)


def measured(records: list[Record], machine: Machine) -> Measured:
    """Of a run's records, those of its first updates left out."""
    used = records[SKIPPED:]
    seconds = sum(r["seconds"] for r in used)
    episodes = sum(r["episodes"] for r in used)
    tokens, answers = (sum(r[name] for r in used) for name in ("tokens", "action_tokens"))
    idle = [share for r in used for share in r["engine_idle"] if share is not None]
    return Measured(
        update_s=seconds / len(used),
        learner_idle=sum(r["learner_idle"] * r["seconds"] for r in used) / seconds,
        engine_idle=fmean(idle),
        episodes_per_s=episodes / seconds,
        tokens_per_s=tokens / seconds,
        prompt=(tokens - answers) / episodes,
        answer=answers / episodes,
        cores=machine.cores_left(records[SKIPPED - 1]["time"], records[-1]["time"]),
    )


def compare(layout: str, parts: Parts, found: Measured, updates: int = 6) -> Record:
    """A row: what the run did, what the simulation says of it, and their ratios."""
    cfg, _ = configuration(layout, 10**6, Path())
    costs = parts.costs(cfg, found.prompt, found.answer, found.cores)
    predicted = VirtualCluster(cfg, costs, Ledger()).run(updates)
    figures = {
        name: {"measured": getattr(found, name), "predicted": getattr(predicted, name)}
        for name in ("update_s", "episodes_per_s", "tokens_per_s", "learner_idle", "engine_idle")
    }
    return {
        "name": "layout",
        "layout": layout,
        "cores": found.cores,
        "prompt": found.prompt,
        "answer": found.answer,
        "ratio": predicted.episodes_per_s / found.episodes_per_s,
        **figures,
    }
