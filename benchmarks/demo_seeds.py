"""The demo three times: does PPO raise success over SFT's, with intervals apart, for every seed?

Run `python -m benchmarks.demo_seeds` (about five minutes per seed); prints one JSON row per seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path


def run(seed: int, root: str, overrides: list[str]) -> dict[str, object]:
    """Train the demo with one seed; returns its row."""
    name = f"seed-{seed}"
    keys = [f"name={name}", f"seed={seed}", f"cluster.root={root}", *overrides]
    command = [sys.executable, "-m", "cluster.cli", "train", "gp_l", *keys]
    subprocess.run(command, check=True, stdout=sys.stderr)
    summary = json.loads((Path(root) / name / "summary.json").read_text())
    sft, ppo = (summary["stages"][stage]["train"] for stage in ("sft", "ppo"))
    seconds = summary["seconds"]
    return {
        "name": f"demo, seed {seed}: sampled success on training hands, PPO against SFT",
        "ours": ppo["success"],
        "reference": sft["success"],
        "ratio": round(ppo["success"] / sft["success"], 3) if sft["success"] else None,
        "unit": "share of episodes",
        "intervals": {"sft": sft["interval"], "ppo": ppo["interval"]},
        "apart": sft["interval"][1] < ppo["interval"][0],
        "sft_share_of_training": round(seconds["sft"] / (seconds["sft"] + seconds["ppo"]), 3),
        "seconds": round(summary["elapsed_s"]),
        "variants": {
            name: [summary["stages"][stage][name]["success"] for stage in ("start", "sft", "ppo")]
            for name in summary["stages"]["ppo"]
        },
        "parity": summary["parity"],
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        for seed in options.seeds:
            print(json.dumps(run(seed, root, options.overrides)), flush=True)


if __name__ == "__main__":
    main()
