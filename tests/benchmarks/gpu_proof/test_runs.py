"""The runs of the proof: which ones there are, that each may be, and what is read of them."""

import json

import pytest

from benchmarks.gpu_proof.runs import RUNS, planned, read_runs
from cluster.placement.layout import weight_channel
from cluster.placement.plan import plan
from cluster.placement.types import Node
from configs.load import dump, load


@pytest.mark.parametrize(
    ("gpus", "names"),
    [(1, ["gp_vl", "colocated", "offload"]), (2, ["gp_l", "gp_vl", "colocated", "offload"])],
)
def test_each_run_fits_so_many_gpus(gpus, names):
    assert [run.name for run in planned(gpus)] == names
    total = {"CPU": 8.0, "GPU": float(gpus), "memory": 64.0 * 2**30}
    for run in planned(gpus):
        cfg = load(run.config, run.overrides)
        assert plan(cfg, [Node("a", "a", total, total)]).gpu
        apart = gpus == 2 and run.name.startswith("gp_")
        assert weight_channel(cfg, gpu=True) == ("nccl" if apart else "ipc")
        assert cfg.cluster.weight_proof
        assert cfg.model.dtype == "bfloat16"


def test_offload_is_what_its_name_says():
    run = planned(1)[-1]
    cfg = load(run.config, run.overrides)
    assert (cfg.learner.offload, cfg.learner.zero_stage) == (True, 1)


def test_pictures_are_trained_on_in_a_short_run():
    run = planned(1)[0]
    cfg = load(run.config, run.overrides)
    assert cfg.env.settings["modality"] == "vision"
    assert cfg.sft.steps * cfg.sft.batch_size <= 1000
    assert cfg.ppo.updates <= 3


def test_a_run_is_read_with_its_configuration_and_its_records(tmp_path):
    made = [
        {"name": name, "command": "c", "seconds": 1.0, "words": w}
        for name, w in (("done", ""), ("refused", "no room"))
    ]
    (tmp_path / RUNS).write_text(json.dumps(made))
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "config.yaml").write_text(dump(load("gp_l_debug", ["seed=5"])))
    (tmp_path / "done" / "metrics.jsonl").write_text('{"kind": "ppo", "elapsed_s": 1.0}\n')
    found = read_runs(tmp_path)
    assert found["done"].cfg.seed == 5
    assert [r["kind"] for r in found["done"].records] == ["ppo"]
    assert (found["refused"].cfg, found["refused"].records) == (None, [])
    assert found["refused"].words == "no room"
