"""The short runs of the proof: which ones so many GPUs allow, made one after another.

Input: a folder. Output: a run folder for each, and runs.json with commands, seconds and failures.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.phases import steady
from benchmarks.chaos.run import FaultyRun
from benchmarks.gpu_proof.claims import Run
from cluster.doctor.trials import last_words, records
from configs.load import load
from configs.paths import ROOT

RUN_S = 1200.0
RUNS = "runs.json"
BFLOAT16 = "model.dtype=bfloat16"
SHARED = ("cluster.layout=colocated", "rollout.gpu_memory=0.4")
PICTURES = (
    "sft.steps=20",
    "sft.demonstrations=640",
    "ppo.updates=2",
    "ppo.critic_warmup=0",
    "ppo.episodes=64",
    "eval.episodes=64",
    "eval.variants={train: {}}",
)


@dataclass(frozen=True)
class Planned:
    """A run of the proof: a configuration and its overrides."""

    name: str
    config: str
    overrides: tuple[str, ...]


def planned(gpus: int) -> list[Planned]:
    """Two GPUs are used apart and shared, one is shared."""
    layout = () if gpus > 1 else SHARED
    found = [
        Planned("gp_l", "gp_l_debug", (BFLOAT16,)),
        Planned("gp_vl", "gp_vl", (BFLOAT16, *layout, *PICTURES)),
        Planned("colocated", "gp_l_debug", (BFLOAT16, *SHARED)),
        Planned(
            "offload",
            "gp_l_debug",
            (BFLOAT16, *SHARED, "learner.zero_stage=1", "learner.offload=true"),
        ),
    ]
    return found if gpus > 1 else found[1:]


def make_all(folder: Path, gpus: int) -> Iterator[Run]:
    """Make the runs, and write runs.json after each."""
    kept: list[dict[str, object]] = []
    for plan in planned(gpus):
        print(f"gpu-proof: run {plan.name}", flush=True)
        kept.append(_train(plan, folder))
        yield _written(folder, kept)
    if gpus > 1:
        print("gpu-proof: run restart", flush=True)
        kept.append(_restart(folder))
        yield _written(folder, kept)


def _written(folder: Path, kept: list[dict[str, object]]) -> Run:
    (folder / RUNS).write_text(json.dumps(kept, indent=1))
    return read_runs(folder)[str(kept[-1]["name"])]


def _train(plan: Planned, folder: Path) -> dict[str, object]:
    keys = [f"name={plan.name}", f"cluster.root={folder}", *plan.overrides]
    command = [sys.executable, "-m", "cluster.cli", "train", plan.config, *keys]
    begin, log = time.monotonic(), folder / f"{plan.name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        try:
            code = process.wait(RUN_S)
            words = last_words(log.read_text(), code)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            words = f"it did not end within {RUN_S:g} s"
    shown = shlex.join([".venv/bin/cardinal", *command[3:]])
    return _made(plan.name, shown, begin, words)


def _made(name: str, command: str, begin: float, words: str) -> dict[str, object]:
    seconds = round(time.monotonic() - begin, 1)
    return {"name": name, "command": command, "seconds": seconds, "words": words}


def _restart(folder: Path) -> dict[str, object]:
    """Kill the learner's rank of a run over nccl, and wait for an update of its successor."""
    begin, words = time.monotonic(), ""
    run = FaultyRun(folder, "restart", BFLOAT16, "rollout.workers=1", "cluster.channel=nccl")
    try:
        steady(run)
        at = time.time()
        run.processes("rank")[0].kill()
        run.until(lambda: run.read("restart", at), "the learner group restarts")
        back = float(str(run.read("restart", at)[0]["time"]))
        run.until(lambda: run.read("ppo", back), "an update after the restart")
    except TimeoutError as error:
        words = str(error)
    finally:
        run.end()
    command = "benchmarks.faults: SIGKILL of the learner's rank, with cluster.channel=nccl"
    return _made("restart", command, begin, words)


def read_runs(folder: Path) -> dict[str, Run]:
    """The runs that were made, by name."""
    found = {}
    for made in json.loads((folder / RUNS).read_text()):
        file = folder / made["name"] / "config.yaml"
        cfg = load(file, allow_no_training=True) if file.is_file() else None
        found[made["name"]] = Run(**made, cfg=cfg, records=records(file.parent))
    return found
