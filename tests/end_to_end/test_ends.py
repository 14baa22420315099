"""A run that is taken away: its last step is saved, nothing stays behind, and it can come again."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sys
import time

import pytest

from configs.paths import ROOT
from report.metrics import read
from tests.end_to_end.test_train import cardinal, finish, left_behind, marked, wait_for

KEYS = ("gp_l_debug", "sft.steps=30", "ppo.updates=6", "eval.episodes=32", "rollout.in_flight=16")


def begin(run, *arguments):
    return cardinal(*arguments, env=marked(run), start_new_session=True)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def cursor(run):
    return json.loads((run / "checkpoints" / "state" / "cursor.json").read_text())


def learned(run):
    """Losses by step and update, and how many tokens each update trained on."""
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


def taken_away(run, *arguments, when, signals=(signal.SIGTERM,)):
    """Begin a run, and signal it once a record fulfils the condition; its code and last words."""
    process = begin(run, *arguments)
    wait_for(run, when, 900)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    code, _, err = finish(process, 300)
    assert gone(run), left_behind(run)
    return code, err


def finished(run, *arguments):
    code, _, err = finish(begin(run, *arguments), 1500)
    assert code == 0, err[-3000:]
    assert gone(run), left_behind(run)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_taken_away_in_every_phase_it_comes_again(tmp_path):
    run, smooth = tmp_path / "one", tmp_path / "smooth"
    new = ("train", *KEYS, f"cluster.root={tmp_path}")
    code, err = taken_away(
        run, *new, "name=one", when=lambda r: r["kind"] == "sft" and r["step"] >= 10
    )
    assert code == 75, err[-3000:]
    status = json.loads((run / "status.json").read_text())
    assert status == {"status": "interrupted", "cause": "SIGTERM"}
    assert err.strip().splitlines()[-1] == "cardinal: ended by SIGTERM"
    assert err.count("`cardinal resume` ") == 1
    at = cursor(run)
    assert (at["phase"], at["step"]) == ("sft", max(learned(run)[0]))
    assert f"goes on after SFT step {at['step']}, the last checkpoint" in err

    code, err = taken_away(
        run, "resume", run, when=lambda r: r["kind"] == "ppo" and r["update"] >= 2
    )
    assert code == 75, err[-3000:]
    at = cursor(run)
    assert (at["phase"], at["update"]) == ("ppo", max(learned(run)[1]))

    code, err = taken_away(
        run,
        *("resume", run),
        when=lambda r: r["kind"] == "ppo" and r["update"] > at["update"],
        signals=[signal.SIGINT] * 3,
    )
    assert code == 130, err[-3000:]
    assert f"goes on after PPO update {cursor(run)['update']}, the last checkpoint" in err

    finished(run, "resume", run)
    finished(smooth, *new, "name=smooth")
    (there_sft, there_ppo), (here_sft, here_ppo) = learned(smooth), learned(run)
    assert {step: here_sft[step] for step in there_sft} == there_sft
    assert here_ppo == there_ppo


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_closed_terminal_takes_it_away(tmp_path):
    """A lost connection: nothing can be shown any more, and the run's last step is saved."""
    run = tmp_path / "one"
    pid, terminal = pty.fork()
    if not pid:
        command = [sys.executable, "-m", "cluster.cli", "train", *KEYS]
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored, under nohup
        command += [f"cluster.root={tmp_path}", "name=one", "cluster.grace_s=120"]
        os.execve(sys.executable, command, marked(run))
    while not any(r["kind"] == "ppo" and r["update"] >= 2 for r in read(run)):
        if select.select([terminal], [], [], 1.0)[0]:  # what nobody reads would hold it up
            os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert gone(run), left_behind(run)
    status = json.loads((run / "status.json").read_text())
    assert status == {"status": "interrupted", "cause": "SIGHUP"}
    assert cursor(run)["update"] == max(learned(run)[1]) >= 2
