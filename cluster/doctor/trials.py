"""Tiny runs, each as `cardinal train` does it, from the first engine to an update with its proof.

Input: a `Cluster`. Output: results read from each run's records: the engine, each weight channel,
sleep and wake, bfloat16. The run folders are removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ray

from cluster.doctor.machine import SMALLEST
from cluster.doctor.nodes import Cluster
from cluster.doctor.result import Finding, Result, fault, not_applicable, ok
from cluster.placement.memory import available_bytes, memory_bytes, tiny_size
from cluster.placement.plan import cpus
from cluster.workers.parity_limit import parity_limit
from configs.load import load
from configs.paths import ROOT
from configs.schema import RunConfig
from report.metrics import METRICS, Record, read

TRIAL_S, END_S = 360.0, 20.0  # for a trial (117 on an H200), and for its processes to end
OVERRIDES = (
    "model.init.layers=1",
    "sft.steps=0",
    "ppo.updates=1",
    "ppo.critic_warmup=0",
    "ppo.episodes=8",
    "ppo.minibatch=8",
    "rollout.in_flight=8",
    "rollout.block=4",
    "eval.variants={train: {}}",
    "eval.episodes=4",
    "eval.sampled_questions=0",
    "learner.checkpoint_minutes=0",
    f"cluster.start_deadline_s={TRIAL_S / 2:g}",
)
COLOCATED = ("cluster.layout=colocated", "rollout.gpu_memory=0.3")
BFLOAT16 = "model.dtype=bfloat16"
ENGINE, SLEEP, BF16 = "engine", "sleep and wake", "bfloat16"
REMEDY = {
    ENGINE: "mend what vLLM names; no run starts before this one does",
    SLEEP: "cluster.layout=disaggregated does without",
    BF16: "model.dtype=float32 does without",
    "channel object_store": "no run can be trusted here: engines play with other weights",
    "channel nccl": "cluster.channel=object_store does without",
    "channel ipc": "cluster.channel=object_store does without",
}


@dataclass(frozen=True)
class Trial:
    """A tiny run: what it differs in, and what it shows in this order."""

    name: str
    overrides: tuple[str, ...]
    shows: tuple[str, ...]


def trials(gpus: int) -> list[Trial]:
    """Those that so many free GPUs allow."""
    if not gpus:
        return [
            Trial("cpu", (), (ENGINE, "channel object_store")),
            Trial("cpu_bfloat16", (BFLOAT16,), (BF16,)),
        ]
    ipc = (*COLOCATED, BFLOAT16, "cluster.channel=ipc")
    store = (*COLOCATED, BFLOAT16, "cluster.channel=object_store")
    found = [
        Trial("ipc", ipc, (ENGINE, "channel ipc", BF16, SLEEP)),
        Trial("object_store", store, ("channel object_store",)),
    ]
    if gpus > 1:
        found.append(Trial("nccl", (BFLOAT16, "cluster.channel=nccl"), ("channel nccl",)))
    return found


def missing(gpus: int) -> dict[str, str]:
    """What no trial shows with so many free GPUs, and why."""
    if not gpus:
        return dict.fromkeys(("channel nccl", "channel ipc", SLEEP), "needs a free GPU")
    return {} if gpus > 1 else {"channel nccl": "needs two free GPUs, and there is one"}


def run_trials(cluster: Cluster) -> Iterator[Result]:
    """The results of all trials that are possible here."""
    gpus = int(sum(node.free.get("GPU", 0) for node in cluster.nodes))
    root = Path(cluster.subject.cfg.cluster.root).resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".cardinal-doctor-", dir=root)
    except OSError as error:
        yield Result(ENGINE, "", fault(f"cluster.root={root}: no run can be begun: {error}"), 0.0)
        return
    try:
        for group in side_by_side(trials(gpus), cluster.subject.starts_ray and not gpus):
            for trial, words, seconds in _train(group, Path(folder)):
                cfg = configuration(trial, folder)
                for name, finding in judge(trial, cfg, records(Path(folder) / trial.name), words):
                    yield Result(name, "", finding, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, reason in missing(gpus).items():
        yield Result(name, "", not_applicable(reason), 0.0)


def side_by_side(found: list[Trial], own: bool) -> list[list[Trial]]:
    """The trials, in groups of those that run at the same time.

    All do on an own Ray without GPUs, where there is memory for each: one alone often waits for
    its own processes. GPUs and others' nodes take one after another.
    """
    smallest = load(SMALLEST)
    need = sum(memory_bytes(smallest, tiny_size(smallest)).values())
    if own and available_bytes() > len(found) * need:
        return [found]
    return [[trial] for trial in found]


def processors() -> float:
    """Logical CPUs of a local Ray on which trials fit side by side."""
    return len(trials(0)) * cpus(load(SMALLEST))


def configuration(trial: Trial, root: str | Path) -> RunConfig:
    """The run that a trial is."""
    return load(SMALLEST, overrides(trial, root))


def overrides(trial: Trial, root: str | Path) -> list[str]:
    """Of the smallest configuration."""
    return [f"name={trial.name}", f"cluster.root={root}", *OVERRIDES, *trial.overrides]


def records(folder: Path) -> list[Record]:
    """What a run has recorded; nothing where it did not begin."""
    return list(read(folder)) if (folder / METRICS).is_file() else []


def judge(
    trial: Trial, cfg: RunConfig, recorded: Sequence[Record], words: str
) -> Iterator[tuple[str, Finding]]:
    """A finding for each thing that a trial shows; those after a fault were not reached.

    words: why the run failed; "" of one that ended well.
    """
    broken = ""
    for name in trial.shows:
        finding = not_applicable(f"{broken} is at fault") if broken else _seen(name, cfg, recorded)
        if finding is None:
            broken = name
            finding = fault(words or f"the trial ended without {name}", REMEDY[name])
        yield name, finding


def _seen(name: str, cfg: RunConfig, recorded: Sequence[Record]) -> Finding | None:
    """What the records show of one thing; None where they do not."""
    kinds = {record["kind"] for record in recorded}
    if name == ENGINE:
        return ok("vLLM starts on a tiny model") if "placement" in kinds else None
    if name == SLEEP:
        words = "engines sleep while the learner steps, and wake with its weights"
        return ok(words) if "ppo" in kinds else None
    return proven(cfg, recorded)


def proven(cfg: RunConfig, recorded: Sequence[Record]) -> Finding | None:
    """What the weight proof of a run has measured; None where it has not come to its end.

    A run that fails it ends there.
    """
    found = [r["check"] for r in recorded if r["kind"] == "sync" and r["check"]]
    if not found:
        return None
    checks = found[-1]
    if not all(check["parity_tokens"] for check in checks.values()):
        return fault("the weight proof had no tokens to compare", "look at the run's episodes")
    worst = max(check["parity_mean_abs"] for check in checks.values())
    tokens = sum(check["parity_tokens"] for check in checks.values())
    return ok(
        f"log-probabilities of engine and learner differ by {worst:.1g} on average (limit "
        f"{parity_limit(cfg):g}), over {tokens:.0f} tokens, once each of {len(checks)} kinds of "
        "weight was perturbed",
        parity_mean_abs=worst,
        parity_tokens=tokens,
    )


def _train(group: Sequence[Trial], root: Path) -> Iterator[tuple[Trial, str, float]]:
    """Run trials at the same time, each in a process of its own, on this Ray.

    Yields:
        In their order: the trial, why it failed or "", and the seconds that it took.
    """
    begin = time.monotonic()
    with ExitStack() as stack:
        started = []
        for trial in group:
            process = _start(trial, root)
            stack.callback(_end, process)
            started.append((trial, process))
        for trial, process in started:
            try:
                process.wait(max(0.0, begin + TRIAL_S - time.monotonic()))
                said = _said(trial, root).read_text(errors="replace")
                words = last_words(said, process.returncode)
            except subprocess.TimeoutExpired:
                _end(process)
                words = f"a tiny run did not end within {TRIAL_S:g} s"
            yield trial, words, time.monotonic() - begin


def _start(trial: Trial, root: Path) -> subprocess.Popen[bytes]:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "cluster.cli", "train", SMALLEST, *overrides(trial, root)]
    with _said(trial, root).open("wb") as said:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": address},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )


def _said(trial: Trial, root: Path) -> Path:
    """The file of what a trial says of its failure."""
    return root / f"{trial.name}.log"


def last_words(said: str, code: int) -> str:
    """Why a process of `cardinal` failed, by its standard error; "" if it did not."""
    if code == 0:
        return ""
    lines = [line for line in said.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("cardinal: ")]
    return (own or lines or [f"a tiny run ended with code {code}"])[-1].removeprefix("cardinal: ")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a trial's processes, by request and then by force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
