"""Every benchmark runs in its smallest size, so that none is broken when its figure is wanted."""

import importlib
import json
import math

import pytest

from configs.paths import ROOT
from tests.support.slow import fast

SMALLEST = {  # arguments, and how many rows they print
    "learner_throughput": ("--threads 1 --turns 2 --seconds 0.01 --trajectories 4", 3),
    "virl": ("--episodes 4 --sizes 32", 4),
    "model_sizes": ("--table", None),
    "partitioned_memory": ("--size tiny", 1),
    "pictures": ("--trajectories 4", 3),
    "rollout": ("--episodes 8 --in-flight 4 --rounds 1 --styles brief", 5),
    "checkpoints": ("--config gp_l_debug --blocks 1 --steps 1", 1),
    "simulated_cluster": (
        "--engines 4 --in-flight 2 --ranks 2 --episodes 32 --rate 40 --updates 3 --seconds 3 "
        "--synchronous 3 --processes 1",
        6,
    ),
    "vocabulary": ("--vocabulary 300 --tokens 64 --steps 1", 1),
    "soak": ("--quiet 0.5 --rare 3 --random 0.5 --faults 3", 1),
    "supervision": ("--workers 1 --seconds 3", 1),
    "sync": ("--model tiny --rounds 1", 1),
    "demo_seeds": (
        "sft.steps=2 sft.batch_size=4 sft.demonstrations=4 sft.keep=[] sft.eval_every=0 "
        "ppo.updates=1 ppo.episodes=4 ppo.minibatch=4 ppo.epochs=1 ppo.critic_warmup=0 "
        "eval.episodes=4 eval.every=0 rollout.in_flight=4 rollout.block=4 --seeds 0",
        1,
    ),
}
SLOW = {
    "rollout",
    "demo_seeds",
    "partitioned_memory",
    "pictures",
    "sync",
    "simulated_cluster",
    "soak",
    "supervision",
    "vocabulary",
}  # start an engine, a run, Ray
DIFFERENCES = (  # of two measurements: any sign
    *("added_s", "share_at_five_minutes", "grown_mib", "growth_mib", "more_files"),
    *("more_processes", "driver_share", "buffer_share", "worker_share", "all_share"),
)


def test_none_is_left_out():
    files = (ROOT / "benchmarks").glob("[a-z]*.py")
    names = {file.stem for file in files if "__main__" in file.read_text()}
    assert names == {*SMALLEST, "faults"}  # that one: tests/end_to_end/test_faults.py


@pytest.mark.parametrize("name", fast(SMALLEST.keys() - SLOW, SMALLEST))
def test_it_runs_in_its_smallest_size(name, capfd):
    arguments, rows = SMALLEST[name]
    importlib.import_module(f"benchmarks.{name}").main(arguments.split())
    printed = capfd.readouterr().out.splitlines()
    if rows is None:
        assert printed[0].startswith("| model |")
        return
    found = [json.loads(line) for line in printed if line.startswith("{")]
    assert len(found) == rows
    for row in found:
        assert row.get("name") or row.get("benchmark")
        figures = {k: v for k, v in row.items() if isinstance(v, int | float)}
        assert figures
        assert all(math.isfinite(v) for v in figures.values())
        assert all(v >= 0 for k, v in figures.items() if not k.endswith(DIFFERENCES))
