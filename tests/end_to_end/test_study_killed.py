"""A real study, killed at random moments: nothing finished is done again, the rest continues."""

import hashlib
import json
import os
import random
import signal
import time

import pytest

from cluster.checkpoints.cursor import Cursor
from report.study.compute import until
from tests.end_to_end.test_train import cardinal, finish, left_behind, marked

STUDY = """
base: gp_l_debug
root: {root}
seeds: [{seed}]
set: {{learner.checkpoint_every: 1, ppo.updates: 0, sft.log_every: 1}}
arms:
  sft: {{set: {{sft.steps: 12}}}}
  sft_ppo: {{from: sft, set: {{sft.steps: 0, ppo.updates: 6}}}}
  sft_more: {{from: sft, match: sft_ppo}}
"""
WAIT_S = 300


def records(run):
    file = run / "metrics.jsonl"
    if not file.is_file():
        return []
    return [
        json.loads(line)
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


def gone(folder):
    """What is still there after processes had time to notice that others ended."""
    deadline = time.monotonic() + 60
    while (found := left_behind(folder)) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def contents(run):
    """Digest of each file of a run."""
    return {
        str(file.relative_to(run)): hashlib.blake2b(file.read_bytes()).hexdigest()
        for file in sorted(run.rglob("*"))
        if file.is_file()
    }


def saved(run):
    """Whether a run has a checkpoint to continue from."""
    return Cursor.load(run / "checkpoints").begun


def kill(process, happened, after):
    """SIGKILL of the study alone, `after` seconds after something happened."""
    deadline = time.monotonic() + WAIT_S
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(after)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_killed_study_repeats_nothing_and_goes_on(tmp_path):
    chance = random.Random()
    delays = [chance.uniform(0, 2), chance.uniform(0, 4)]
    print("seconds until the kills:", delays)
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY.format(root=tmp_path / "runs", seed=1))
    folder = tmp_path / "runs" / "mine"
    sft, ppo, more = (folder / arm / "seed1" for arm in ("sft", "sft_ppo", "sft_more"))

    def start():
        return cardinal("study", file, env=marked(folder))

    kill(start(), lambda: saved(sft), delays[0])
    before = {r["step"]: r["time"] for r in records(sft) if r["kind"] == "sft"}

    kill(
        start(),
        lambda: any(r["kind"] == "ppo" and r["update"] > 1 for r in records(ppo)),
        delays[1],
    )
    again = {r["step"]: r["time"] for r in records(sft) if r["kind"] == "sft"}
    assert sorted(again) == list(range(1, 13))
    assert again[1] == before[1]
    finished = contents(sft)
    first = {r["update"]: r["time"] for r in records(ppo) if r["kind"] == "ppo"}

    code, out, err = finish(start())
    assert code == 0, err[-3000:]
    assert contents(sft) == finished
    found = [r for r in records(ppo) if r["kind"] == "ppo"]
    assert [r["update"] for r in found] == list(range(1, 7))
    assert found[0]["time"] == first[1]
    assert "sft/seed1: finished" in out
    assert "sft/seed1: begins" not in out
    spent = {run: until(run) for run in (ppo, more)}
    assert spent[more].flops == pytest.approx(spent[ppo].flops, rel=0.1)

    whole = {run: contents(run) for run in (sft, ppo, more)}
    results = (folder / "results.csv").read_bytes()
    code, out, err = finish(start(), 60)
    assert code == 0 and "begins" not in out, err[-3000:]
    assert {run: contents(run) for run in (sft, ppo, more)} == whole
    assert (folder / "results.csv").read_bytes() == results
    assert gone(folder) == []


@pytest.mark.slow
def test_an_interrupted_study_ends_its_slots(tmp_path):
    """Ctrl-C with two slots: one line, exit code 130, no process left, and it continues."""
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY.format(root=tmp_path / "runs", seed="1, 2"))
    folder = tmp_path / "runs" / "mine"
    process = cardinal("study", file, "--parallel", 2, env=marked(folder))
    runs = [folder / "sft" / f"seed{seed}" for seed in (1, 2)]
    deadline = time.monotonic() + WAIT_S
    while not all(any(r["kind"] == "sft" for r in records(run)) for run in runs):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, 90)
    assert code == 130
    assert err.strip().splitlines()[-1].startswith("cardinal: interrupted")
    assert gone(folder) == []
    code, out, err = finish(cardinal("study", file, "--parallel", 2, env=marked(folder)), 600)
    assert code == 0, err[-3000:]
    assert out.count(": begins") == 6
    assert out.count(": finished") == 6
    assert "Traceback" not in (folder / "slot0.log").read_text()
