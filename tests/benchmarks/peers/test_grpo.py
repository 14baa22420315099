"""The part of the comparison that needs no peer package: the common job, the clocks, the row."""

import json
import os
import re
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from benchmarks.peers import grpo
from configs.load import load
from configs.paths import ROOT
from configs.seeds import update_seeds
from envs.registry import make
from learner.init_model import init_model

BATCH = ["ppo.updates=2", "ppo.episodes=8", "ppo.minibatch=4", "ppo.group_size=4"]


@pytest.fixture(scope="module")
def cfg():
    return load("gp_l", ["sft.steps=0", *grpo.BRIEF, *grpo.GRPO, *grpo.SIZES["demo"], *BATCH])


@pytest.fixture(scope="module")
def model(cfg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    init_model(folder, cfg, make(cfg.env.id, cfg.env.settings).corpus())
    return str(folder)


@pytest.mark.parametrize("size", grpo.SIZES)
def test_its_settings_are_a_configuration(size):
    cfg = load("gp_l", [*grpo.BRIEF, *grpo.GRPO, *grpo.SIZES[size], *BATCH])
    assert list(cfg.eval.variants) == ["train"]
    assert (cfg.ppo.estimator, cfg.ppo.epochs, cfg.env.settings["verify_iter"]) == ("grpo", 2, 1)
    assert cfg.ppo.baseline == "mean", "as TRL's"
    assert cfg.ppo.entropy_coef == 0, "as TRL's"


def test_the_peer_gets_the_prompts_of_our_episodes_in_their_order(cfg, model):
    from transformers import AutoTokenizer

    job = json.loads(json.dumps(grpo.peer_job(cfg, model, 2)))
    seeds = [*update_seeds(cfg, 1), *update_seeds(cfg, 2)]
    assert [p["seed"] for p in job["prompts"]] == seeds
    assert len(set(seeds)) == 4
    tokenizer = AutoTokenizer.from_pretrained(model)
    read = tokenizer(text=[p["text"] for p in job["prompts"]])["input_ids"]
    assert read == [p["token_ids"] for p in job["prompts"]]  # as benchmarks/peers/trl_side.py asks
    sizes = [job[key] for key in ("episodes", "minibatch", "epochs", "group", "threads")]
    assert sizes == [8, 4, 2, 4, 2]


def test_every_key_that_the_peer_reads_is_in_its_job(cfg, model):
    source = (ROOT / "benchmarks" / "peers" / "trl_side.py").read_text()
    assert set(re.findall(r'job\["(\w+)"\]', source)) == {*grpo.peer_job(cfg, model, 2), "folder"}


def test_its_packages_are_pinned_and_its_transformers_is_ours():
    lines = (ROOT / "benchmarks" / "peers" / "requirements.txt").read_text().splitlines()
    lock = (ROOT / "requirements" / "cpu.lock").read_text()
    assert "trl==1.16.0" in lines
    (transformers,) = [line for line in lines if line.startswith("transformers")]
    assert f"{transformers}\n" in lock
    assert (ROOT / "requirements" / "torch.txt").read_text().strip() in lines


def test_updates_are_timed_from_end_to_end_after_the_warmup():
    clock = SimpleNamespace(at=lambda moments: [2 * m for m in moments])
    ends, rewards, tokens = (10.0, 20.0, 23.0, 27.0), (9.0, 9.0, 1.0, 2.0), (8, 8, 4, 6)
    updates = [
        {"time": end, "reward": reward, "tokens": n}
        for end, reward, n in zip(ends, rewards, tokens, strict=True)
    ]
    timed = grpo.timing(updates, clock, warmup=2)
    assert timed == grpo.Timing([3.0, 4.0], [6.0, 8.0], 1.5, 5)


@pytest.mark.parametrize("warmup", ["0", "10"])
def test_a_warmup_that_leaves_nothing_to_time_is_refused(warmup, capsys):
    with pytest.raises(SystemExit):
        grpo.main(["--warmup", warmup, "--updates", "10"])
    assert f"--warmup is {warmup}; it must be from 1 to" in capsys.readouterr().err


def test_a_row_compares_medians_over_all_rounds():
    own = [grpo.Timing([1.0, 2.0], [3.0, 3.0], 0.5, 40), grpo.Timing([2.0], [3.0], 0.7, 44)]
    row = grpo.row("x", 256, own, [grpo.Timing([4.0], [6.0], 0.0, 48.2)])
    assert (row["ours"], row["reference"], row["ratio"]) == (128.0, 64.0, 2.0)
    assert row["update_cpu_seconds"] == [3.0, 6.0]
    assert row["updates"] == [3, 1]
    assert row["reward"] == [0.6, 0.0]
    assert row["sampled_tokens"] == [42, 48]


def test_cpu_seconds_of_descendants_are_counted_and_kept_after_their_end(tmp_path, monkeypatch):
    seen, clocks, make = tmp_path / "seen", [], grpo.CpuClock
    monkeypatch.setattr(grpo, "CpuClock", lambda pid: clocks.append(make(pid)) or clocks[-1])

    def tell():
        """The process ends once its seconds have been sampled."""
        while not clocks or clocks[0].seconds[-1] < 0.5:
            time.sleep(0.01)
        seen.touch()

    threading.Thread(target=tell, daemon=True).start()
    burn = (
        "import pathlib, time\n"
        "begin = time.process_time()\n"
        "while time.process_time() < begin + 0.5: pass\n"
        f"while not pathlib.Path({str(seen)!r}).exists(): time.sleep(0.01)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        "time.sleep(0.5)"
    )
    clock = grpo.run([sys.executable, "-c", parent], tmp_path / "log")
    (spent,) = clock.at([time.time()])
    assert 0.5 <= spent < 20
    assert clock.seconds == sorted(clock.seconds)
    with pytest.raises(SystemExit, match=r"ended with 3:\nwhat it said"):
        grpo.run(
            [sys.executable, "-c", "print('what it said'); raise SystemExit(3)"],
            tmp_path / "log",
        )
    assert os.path.getsize(tmp_path / "log")
