"""check-env: an environment is tried, held to the contract, and its baselines are played."""

import pytest

from cluster.cli import main
from tests.cluster.commands.folders import said
from tests.support.plugins import PLUGIN

GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"
TRIED = "rollout.environment_trial.trial"


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """The contract's other process costs seconds; tests/envs/test_contract.py starts it."""
    from envs import contract

    check = contract.check
    monkeypatch.setattr(contract, "check", lambda *a: check(*a, processes=False))


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
    from rollout.environment_trial import Trial

    async def endless(*_):
        return Trial(8, 9, 0.1, 0.1, 0.1, 3)

    monkeypatch.setattr(TRIED, endless)
    assert main(["check-env", GUESS]) == 0
    assert "3 of them do not end by themselves" in capsys.readouterr().out
