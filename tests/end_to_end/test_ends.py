"""A run that is taken away: its last step is saved, nothing stays behind, and it can come again."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.end_to_end.test_train import cardinal, finish, left_behind, marked, wait_for

KEYS = ("gp_l_debug", "sft.steps=30", "ppo.updates=6", "eval.episodes=32", "rollout.in_flight=16")


def begin(run, *arguments):
    # As from a terminal: a shell's `&` has SIGINT ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return cardinal(*arguments, env=marked(run), start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, previous)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def cursor(run):
    return json.loads((run / "checkpoints" / "state" / "cursor.json").read_text())


def learned(run):
    """Losses by step and update; episodes' lengths by update."""
    found = records(run)
    sft = {r["step"]: r["loss"] for r in found if r["kind"] == "sft"}
    return sft, {r["update"]: (r["loss"], r["tokens"]) for r in found if r["kind"] == "ppo"}


def gone(run):
    """Ray's last processes end a moment after the command."""
    for _ in range(20):
        if not left_behind(run):
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_taken_away_in_every_phase_it_comes_again(tmp_path):
    run = tmp_path / "one"
    process = begin(run, "train", *KEYS, "name=one", f"cluster.root={tmp_path}")
    wait_for(run, lambda r: r["kind"] == "sft" and r["step"] >= 10, 900)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, 300)
    assert (code, json.loads((run / "status.json").read_text())) == (
        75,
        {"status": "interrupted", "cause": "SIGTERM"},
    ), err[-3000:]
    assert err.strip().splitlines()[-1].startswith("cardinal: ended by SIGTERM; `cardinal resume")
    at = cursor(run)
    assert at["phase"] == "sft"
    assert at["step"] == max(r["step"] for r in records(run) if r["kind"] == "sft")
    assert f"goes on after SFT step {at['step']}, the last checkpoint" in err
    assert gone(run), left_behind(run)

    process = begin(run, "resume", run)
    wait_for(run, lambda r: r["kind"] == "ppo" and r["update"] >= 2, 900)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, 300)
    assert code == 75, err[-3000:]
    at = cursor(run)
    assert at["phase"] == "ppo"
    assert at["update"] == max(r["update"] for r in records(run) if r["kind"] == "ppo")
    assert gone(run), left_behind(run)

    process = begin(run, "resume", run)
    wait_for(run, lambda r: r["kind"] == "ppo" and r["update"] > at["update"], 900)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    code, _, err = finish(process, 300)
    assert code == 130, err[-3000:]
    assert f"goes on after PPO update {cursor(run)['update']}, the last checkpoint" in err
    assert gone(run), left_behind(run)

    code, _, err = finish(begin(run, "resume", run), 1500)
    assert code == 0, err[-3000:]
    assert gone(run), left_behind(run)

    smooth = tmp_path / "smooth"
    again = begin(smooth, "train", *KEYS, "name=smooth", f"cluster.root={tmp_path}")
    code, _, err = finish(again, 1500)
    assert code == 0, err[-3000:]
    (there_sft, there_ppo), (here_sft, here_ppo) = learned(smooth), learned(run)
    assert {step: here_sft[step] for step in there_sft} == there_sft
    print("PPO, smooth and taken away:", there_ppo, here_ppo)
    assert here_ppo.keys() == there_ppo.keys()
    assert [t for _, t in here_ppo.values()] == [t for _, t in there_ppo.values()]
