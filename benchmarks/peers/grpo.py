"""Cardinal against TRL: GRPO on one checkpoint, game, batch and number of passes, both in one run.

`python -m benchmarks.peers.grpo` prints a JSON row for each staleness: episodes/s of both sides,
medians over the updates of rounds that take turns. TRL lives in an environment of its own, made
from benchmarks/peers/requirements.txt where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import psutil

from configs.load import load
from configs.paths import ROOT
from configs.schema import RunConfig
from configs.seeds import update_seeds
from envs.registry import make, register, with_preset
from report.metrics import Record, read
from rollout.renderer import Renderer

PEERS = ROOT / "benchmarks" / "peers"
SIZES = {  # settings beside those of the demo
    "demo": ["ppo.optimizer.lr=4e-5"],
    "smollm2": [
        "ppo.optimizer.lr=1e-6",
        "rollout.context_tokens=128",
        "rollout.kv_cache_gib=2",
        "cluster.object_store_gib=2",
    ],
}
BRIEF = [  # hardly an evaluation: only updates are timed
    *(f"eval.variants.{name}=null" for name in ("held_out", "rule_11_12_13", "three_tries")),
    "eval.episodes=1",
    "eval.samples=1",
]
GRPO = [  # as TRL computes it
    "ppo.estimator=grpo",
    "ppo.baseline=mean",
    "ppo.entropy_coef=0",
    "ppo.optimizer.schedule=constant",
    "ppo.optimizer.warmup=0",
]


@dataclass(frozen=True)
class Timing:
    """Of the updates after the warm-up.

    seconds, cpu_seconds: of each; CPU of all processes.
    reward: the mean.
    tokens: sampled, an update.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    reward: float
    tokens: float


class CpuClock:
    """CPU seconds of a process and its descendants, sampled; `at` interpolates."""

    def __init__(self, pid: int) -> None:
        self._root, self._spent = psutil.Process(pid), dict[int, float]()
        self.times, self.seconds = [time.time()], [0.0]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.2):
            try:
                for process in [self._root, *self._root.children(recursive=True)]:
                    spent = process.cpu_times()
                    self._spent[process.pid] = spent.user + spent.system
            except psutil.NoSuchProcess:
                continue
            self.times.append(time.time())
            self.seconds.append(sum(self._spent.values()))

    def stop(self) -> None:
        """Take no more samples."""
        self._ended.set()
        self._thread.join()

    def at(self, moments: list[float]) -> list[float]:
        """CPU seconds spent until each moment (Unix seconds)."""
        return np.interp(moments, self.times, self.seconds).tolist()


def timing(updates: list[Record], clock: CpuClock, warmup: int) -> Timing:
    """Of updates, each with the time of its end, reward and tokens; `warmup` are left out."""
    ends = [update["time"] for update in updates]
    counted, spent = updates[warmup:], clock.at(ends)
    return Timing(
        np.diff(ends[warmup - 1 :]).tolist(),
        np.diff(spent[warmup - 1 :]).tolist(),
        statistics.mean(update["reward"] for update in counted),
        statistics.mean(update["tokens"] for update in counted),
    )


def run(command: list[str], log: Path, env: dict[str, str] | None = None) -> CpuClock:
    """Run a command to its end, its output in a file; its CPU clock."""
    with log.open("w") as output:
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=variables)
        clock = CpuClock(process.pid)
        try:
            code = process.wait()
        finally:
            clock.stop()
    if code:
        raise SystemExit(f"{' '.join(command[:5])} … ended with {code}:\n{log.read_text()[-3000:]}")
    return clock


def cardinal(cfg: list[str], folder: Path, name: str) -> CpuClock:
    """A run of `cardinal train gp_l` in folder/name."""
    command = [sys.executable, "-m", "cluster.cli", "train", "gp_l", *cfg]
    return run([*command, f"cluster.root={folder}", f"name={name}"], folder / f"{name}.log")


def ours(cfg: list[str], folder: Path, name: str, warmup: int) -> Timing:
    """PPO updates of a run of Cardinal."""
    clock = cardinal(cfg, folder, name)
    records = [r for r in read(folder / name) if r["kind"] == "ppo"]
    return timing([r | {"tokens": r["action_tokens"]} for r in records], clock, warmup)


def theirs(python: Path, job: dict[str, object], folder: Path, name: str, warmup: int) -> Timing:
    """Updates of TRL."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(job | {"folder": str(folder / name)}))
    log = folder / f"{name}.log"
    clock = run([str(python), str(PEERS / "trl_side.py"), str(file)], log)
    lines = [json.loads(s) for s in log.read_text().splitlines() if s.startswith('{"update"')]
    return timing(lines, clock, warmup)


def peer_job(
    cfg: RunConfig,
    model: str,
    threads: int,
    evaluation: range = range(0),
    every_s: float = 0.0,
    budget_s: float = 0.0,
) -> dict[str, object]:
    """What TRL's side reads: the updates that `cfg` makes from a model's folder.

    Args:
        cfg: of a run of Cardinal that would make the same updates.
        model: the folder.
        threads: of torch.
        evaluation: seeds of the episodes that are played greedily; none: no evaluation.
        every_s: seconds of training between evaluations.
        budget_s: seconds of training after which it ends, with an evaluation.
    """
    register()
    renderer = Renderer.load(model)
    settings = with_preset(cfg.env.id, cfg.env.settings, cfg.preset)
    env = make(cfg.env.id, settings)

    def prompt(seed: int) -> dict[str, object]:
        ids = list(renderer.prompt(env.reset(seed=seed)[0]["message"]).token_ids)
        return {"text": renderer.tokenizer.decode(ids), "token_ids": ids, "seed": seed}

    updates = range(1, cfg.ppo.updates + 1)
    return {
        "evaluation": [prompt(seed) for seed in evaluation],
        "every_s": every_s,
        "budget_s": budget_s,
        "env": cfg.env.id,
        "settings": settings,
        "model": model,
        "dtype": cfg.model.dtype,
        "prompts": [prompt(seed) for update in updates for seed in update_seeds(cfg, update)],
        "threads": threads,
        "updates": cfg.ppo.updates,
        "episodes": cfg.ppo.episodes,
        "minibatch": cfg.ppo.minibatch,
        "epochs": cfg.ppo.epochs,
        "group": cfg.ppo.group_size,
        "answer_tokens": cfg.rollout.answer_tokens,
        "lr": cfg.ppo.optimizer.lr,
    }


def python_with_trl(folder: Path) -> Path:
    """The Python of an environment with the peer's packages, made where these are not all there."""
    python, wanted = folder / "bin" / "python", PEERS / "requirements.txt"
    installed = folder / wanted.name  # written last: an install may be interrupted
    if not installed.is_file() or installed.read_bytes() != wanted.read_bytes():
        venv.create(folder, with_pip=True)
        install = ["-m", "pip", "install", "--quiet", "-r", str(wanted)]
        subprocess.run([str(python), *install], check=True)
        shutil.copy(wanted, installed)
    return python


def checkpoint(size: str, steps: int, folder: Path) -> str:
    """The model that both sides begin with."""
    if size == "smollm2":
        target = folder / "smollm2"
        subprocess.run([sys.executable, ROOT / "tools" / "fetch_smollm2.py", target], check=True)
        return str(target)
    cardinal([*BRIEF, f"sft.steps={steps}", "ppo.updates=0"], folder, "start")
    return str(folder / "start" / "checkpoints" / "sft")


def row(name: str, episodes: int, own: list[Timing], peer: list[Timing]) -> dict[str, object]:
    """A printed row: medians over all updates of all rounds."""
    seconds, cpu = (
        [statistics.median(x for t in side for x in getattr(t, kind)) for side in (own, peer)]
        for kind in ("seconds", "cpu_seconds")
    )
    return {
        "name": name,
        "ours": round(episodes / seconds[0], 1),
        "reference": round(episodes / seconds[1], 1),
        "ratio": round(seconds[1] / seconds[0], 3),
        "unit": "episodes/s",
        "update_seconds": [round(s, 3) for s in seconds],
        "update_cpu_seconds": [round(s, 3) for s in cpu],
        "updates": [sum(len(t.seconds) for t in side) for side in (own, peer)],
        "reward": [round(statistics.mean(t.reward for t in side), 3) for side in (own, peer)],
        "sampled_tokens": [round(statistics.mean(t.tokens for t in side)) for side in (own, peer)],
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--model", help="folder to begin with; default: SFT of the demo, SmolLM2")
    parser.add_argument("--sft-steps", type=int, default=300, help="of the demo's checkpoint")
    parser.add_argument("--updates", type=int, default=10, help="of a round")
    parser.add_argument("--warmup", type=int, default=2, help="updates that are not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", nargs="*", default=[], help="more settings of Cardinal's runs")
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "cardinal-trl")
    args = parser.parse_args(arguments)
    if not 1 <= args.warmup < args.updates:  # an update is timed from the end of the one before
        parser.error(f"--warmup is {args.warmup}; it must be from 1 to --updates - 1")
    return args


def main(arguments: list[str] | None = None) -> None:
    """Print the rows."""
    args = parse(arguments)
    python = python_with_trl(args.venv)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        model = args.model or checkpoint(args.size, args.sft_steps, folder)
        batch = [f"ppo.{key}={getattr(args, key)}" for key in ("updates", "episodes", "minibatch")]
        batch += [f"ppo.epochs={args.epochs}", f"ppo.group_size={args.group}"]
        batch += [f"rollout.in_flight={args.episodes}"]  # TRL generates all of them at once
        settings = [
            "sft.steps=0",
            *BRIEF,
            *GRPO,
            *SIZES[args.size],
            *batch,
            f"model.path={model}",
            *args.ours,
        ]
        job = peer_job(load("gp_l", settings), model, args.threads)
        peer: list[Timing] = []
        own: dict[int, list[Timing]] = {bound: [] for bound in args.staleness}
        for number in range(args.rounds):
            peer.append(theirs(python, job, folder, f"trl-{number}", args.warmup))
            for bound, timings in own.items():
                # Engine and learner take turns at bound 0, and share the cores at others.
                threads = args.threads if bound == 0 else max(1, args.threads // 2)
                key = [f"{part}.threads={threads}" for part in ("learner", "rollout")]
                cfg = [*key, *settings, f"ppo.max_staleness={bound}"]
                timings.append(ours(cfg, folder, f"cardinal-{bound}-{number}", args.warmup))
        for bound, timings in own.items():
            name = f"GRPO against TRL, {args.size}, staleness {bound}"
            print(json.dumps(row(name, args.episodes, timings, peer)), flush=True)


if __name__ == "__main__":
    main()
