"""check-env: an environment is tried, held to the contract, and its baselines are played."""

import os
import subprocess
import sys
from functools import partialmethod

import psutil
import pytest

from cluster.cli import main
from configs.paths import ROOT
from rollout.environment_trial import Trial, TriedEnvironment
from tests.cluster.commands.folders import said
from tests.support.environments import only_deadline
from tests.support.plugins import PLUGIN

GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """The contract in another process costs seconds; test_environment_trial.py has it."""
    held = partialmethod(TriedEnvironment.broken_clause, processes=False)
    monkeypatch.setattr(TriedEnvironment, "broken_clause", held)


def test_a_plain_environment_is_told_what_it_lacks(capsys):
    assert main(["check-env", GUESS, "largest=3", "--episodes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("played 2 episodes in a process of its own: made in ")
    assert "(cluster.env_deadline_s=30 s)" in lines[0]
    assert lines[1] == "the contract of envs/contract.py holds"
    lacks = ["no expert", "no demonstrations", "no corpus", "no baselines"]
    assert [line.partition(":")[0] for line in lines[2:]] == lacks


def test_a_whole_one_plays_its_baselines(capsys):
    settings = ["prompt_style=brief", "--episodes", "2"]
    assert main(["check-env", "cardinal/GeneralPoints-v0", *settings]) == 0
    out = capsys.readouterr().out
    assert "expert: yes" in out
    assert "look-up" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([PLUGIN, "kind=nan"], 1, "seed 0: environment step: the reward is nan"),
        ([PLUGIN, "kin=nan"], 2, "the nearest is kind"),
        ([PLUGIN, "kind=good"], 1, f"{PLUGIN} breaks the contract: "),
        (["CartPole-v1"], 1, "CartPole-v1: its observations are Box"),
        ([GUESS, "--episodes", "0"], 2, "--episodes 0: must be at least 1"),
    ],
)
def test_what_cannot_be_trained_on_is_named(arguments, code, words, capsys):
    assert main(["check-env", *arguments]) == code
    assert words in said(capsys)


def test_episodes_without_end_are_named(monkeypatch, capsys):
    async def endless(*_):
        return Trial(8, 9, 0.1, 0.1, 0.1, 3)

    monkeypatch.setattr(TriedEnvironment, "play", endless)
    assert main(["check-env", GUESS]) == 0
    assert "3 of them do not end by themselves" in capsys.readouterr().out


CONFIGURATION = """
env: {{id: '{plugin}', settings: {{kind: {kind}}}}}
cluster: {{env_deadline_s: 2}}
ppo: {{updates: 3}}
"""


@pytest.mark.parametrize(("kind", "call"), [("picky", "step"), ("stuck", "reset")])
def test_what_hangs_is_named_at_the_deadline_of_its_configuration(
    kind, call, tmp_path, capsys, monkeypatch
):
    """In the contract as in an episode; and nothing of it is left."""
    only_deadline(monkeypatch, call)
    file = tmp_path / "own.yaml"
    file.write_text(CONFIGURATION.format(plugin=PLUGIN, kind=kind))
    before = set(psutil.Process().children(recursive=True))
    assert main(["check-env", str(file)]) == 1
    words = f"environment {call}: took longer than cluster.env_deadline_s = 2"
    assert words in said(capsys)
    assert set(psutil.Process().children(recursive=True)) <= before


TALKATIVE = """
import gymnasium
from tests.support.plugins import Plugin
print("hello from the import")
class Talkative(Plugin):
    def reset(self, **keywords):
        print("hello from reset", flush=True)
        return super().reset(**keywords)
gymnasium.register("test/Talkative-v0", Talkative)
"""


def test_what_an_environment_prints_is_no_output_of_the_command(tmp_path):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    command = [sys.executable, "-m", "cluster.cli", "check-env", "talkative:test/Talkative-v0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.stdout.startswith("played 8 episodes"), ended.stderr
    assert "hello" not in ended.stdout
    assert {"hello from the import", "hello from reset"} <= {*ended.stderr.splitlines()}


def test_a_thread_that_never_ends_does_not_keep_the_command():
    command = [sys.executable, "-m", "cluster.cli", "check-env", PLUGIN, "kind=thread"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cardinal: {PLUGIN} breaks the contract: ")
