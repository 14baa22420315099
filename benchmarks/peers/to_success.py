"""Cardinal against TRL's GRPO by what is learned: seconds until the best success of TRL's.

`python -m benchmarks.peers.to_success` prints a JSON row for each setting of TRL's that is tried,
then one for each seed of Cardinal's demo, as it is. Both begin with the demo's SFT checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import date
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.grpo import (
    GRPO,
    PEERS,
    cardinal,
    checkpoint,
    peer_job,
    python_with_trl,
    run,
)
from configs.load import load
from configs.seeds import evaluation_seeds
from report.metrics import read

UPDATES = 1500  # of TRL's at most: its budget ends it
OTHERS = [f"eval.variants.{name}=null" for name in ("held_out", "rule_11_12_13", "three_tries")]


class Point(NamedTuple):
    """Greedy success on training hands after so many seconds of training."""

    seconds: float
    success: float


class Setting(NamedTuple):
    """Of TRL's."""

    lr: float
    group: int
    epochs: int


def theirs(
    python: Path,
    setting: Setting,
    model: str,
    args: argparse.Namespace,
    folder: Path,
    budget: float,
) -> list[Point]:
    """TRL's curve; the seconds of its evaluations are not counted."""
    keys = [f"ppo.optimizer.lr={setting.lr}", f"ppo.group_size={setting.group}"]
    keys += [f"ppo.epochs={setting.epochs}", f"ppo.updates={UPDATES}", f"seed={args.seeds[0]}"]
    cfg = load("gp_l", ["sft.steps=0", *GRPO, *OTHERS, *keys, f"eval.episodes={args.episodes}"])
    seeds = evaluation_seeds(cfg)
    job = peer_job(cfg, model, args.threads, seeds, every_s=args.every, budget_s=budget)
    file, log = folder / "job.json", folder / "trl.log"
    file.write_text(json.dumps(job | {"folder": str(folder / "trl")}))
    run([str(python), str(PEERS / "trl_side.py"), str(file)], log)
    lines = [json.loads(s) for s in log.read_text().splitlines() if s.startswith('{"step"')]
    return [Point(line["seconds"], line["greedy"]) for line in lines]


def ours(model: str, seed: int, folder: Path, args: argparse.Namespace) -> list[Point]:
    """The demo's PPO; its evaluations are counted, from the first one's end."""
    keys = [
        f"model.path={model}",
        f"seed={seed}",
        f"eval.every={args.eval_every}",
        "eval.start=true",
    ]
    keys += ["sft.steps=0", f"eval.episodes={args.episodes}", "eval.sampled_questions=0"]
    name = f"cardinal-{seed}"
    cardinal([*OTHERS, *keys, *args.ours], folder, name)
    played = [r for r in read(folder / name) if r["kind"] == "eval"]
    return [Point(r["time"] - played[0]["time"], r["success"]) for r in played]


def best(points: list[Point]) -> Point:
    """The first of the highest."""
    return max(points, key=lambda point: (point.success, -point.seconds))


def until(points: list[Point], success: float) -> float | None:
    """Seconds to the first evaluation that is as good; None where there is none."""
    return next((point.seconds for point in points if point.success >= success), None)


def sweep(python: Path, model: str, folder: Path, args: argparse.Namespace) -> list[Point]:
    """Every setting for `--short` seconds; the best of them for `--long`."""
    found = dict[Setting, list[Point]]()
    for setting in map(Setting._make, product(args.lr, args.group, args.epochs)):
        found[setting] = theirs(python, setting, model, args, folder, args.short)
        show(f"TRL, {setting}", found[setting])
    chosen = max(found, key=lambda setting: best(found[setting]).success)
    points = theirs(python, chosen, model, args, folder, args.long)
    show(f"TRL, {chosen}, the best of them for longer", points)
    return points


def show(name: str, points: list[Point], **more: object) -> None:
    """Print a row."""
    top = best(points)
    row = {
        "name": name,
        "start": points[0].success,
        "best": top.success,
        "best_after_s": round(top.seconds),
        "last": points[-1].success,
        "seconds": round(points[-1].seconds),
        **more,
        "curve": [[round(point.seconds), round(point.success, 3)] for point in points],
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(row), flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="SFT checkpoint of the demo; default: it is trained first")
    parser.add_argument("--sft-steps", type=int, default=750)
    parser.add_argument("--lr", type=float, nargs="+", default=[2e-5, 4e-5, 8e-5])
    parser.add_argument("--group", type=int, nargs="+", default=[8])
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--short", type=float, default=150, help="seconds of each setting")
    parser.add_argument("--long", type=float, default=600, help="seconds of the best one")
    parser.add_argument("--every", type=float, default=15, help="seconds between evaluations")
    parser.add_argument("--eval-every", type=int, default=5, help="updates of Cardinal's")
    parser.add_argument("--episodes", type=int, default=1000, help="of an evaluation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of Cardinal's runs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", nargs="*", default=[], help="more settings of Cardinal's runs")
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "cardinal-trl")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Print the rows."""
    args = parse(arguments)
    python = python_with_trl(args.venv)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        model = args.model or checkpoint("demo", args.sft_steps, folder)
        peer = sweep(python, model, folder, args)
        aim = best(peer)
        for seed in args.seeds:
            points = ours(model, seed, folder, args)
            own = until(points, aim.success)
            ratio = None if own is None else round(own / aim.seconds, 3)
            after = [p.success for p in peer if p.seconds <= points[-1].seconds]
            more = {"seconds_to_their_best": own and round(own), "of_their_seconds": ratio}
            equal = {"theirs_after_as_long": max(after)}
            show(f"Cardinal, the demo's PPO, seed {seed}", points, **more, **equal)


if __name__ == "__main__":
    main()
