"""A person at the terminal: answers in by pipe, messages, grades and pictures out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from cluster.cli import main
from configs.paths import ROOT
from envs.base import EnvironmentFailure
from envs.registry import make
from envs.viewer.play import Game

GP = "cardinal/GeneralPoints-v0"


@pytest.fixture
def play(monkeypatch, capsys):
    """Play an environment with given input lines; returns what was printed."""

    def run(env, lines, seed=0, pictures=None):
        answers = iter(lines)

        def read(prompt):
            print(prompt, end="")
            try:
                return next(answers)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", read)
        game = Game(env, seed, pictures)
        game.run()
        return game, capsys.readouterr().out

    return run


def test_wrong_then_right_answer_show_verdict_reward_and_total(play):
    env = make(GP, {"prompt_style": "brief"})
    message = env.reset(seed=3)[0]["message"]
    game, out = play(env, ["1+1", env.expert()], seed=3)
    assert message in out
    assert "foreign: reward -2, total -2" in out
    assert "The verifier: you used numbers that the cards do not give" in out
    assert "solved: reward +5, total +3" in out
    assert "terminated: success 1" in out
    assert "seed 4" in out  # the next episode had begun when the input ended
    assert (game.played, game.solved, game.total) == (1, 1, 3.0)
    assert "1 episodes to their end, 1 of them solved, rewards +3 in all" in out


def test_question_mark_shows_the_expert_and_costs_nothing(play):
    env = make(GP, {"prompt_style": "brief"})
    env.reset(seed=0)
    game, out = play(env, ["?", " ? "])
    assert out.count(f"The expert: {env.expert()}") == 2
    assert game.total == 0


def test_a_pasted_json_is_one_answer(play):
    env = make(GP, {})
    env.reset(seed=0)
    pasted = env.expert().splitlines()
    assert len(pasted) > 3
    game, _ = play(env, ["", "  ", *pasted])
    assert (game.played, game.solved) == (1, 1)


@pytest.mark.parametrize("end", [[""], []])
def test_an_unfinished_paste_ends_at_a_blank_line_or_with_the_input(play, end):
    game, out = play(make(GP, {}), ["```json", '{"formula": "1+1=24"', *end])
    assert out.count("reward") == 2  # one grade, and the goodbye
    assert game.total < 0


def test_pictures_are_saved_and_named_by_path(play, tmp_path):
    env = make(GP, {"modality": "vision", "image_size": 96, "prompt_style": "brief"})
    env.reset(seed=0)
    _, out = play(env, ["1+1", env.expert()], pictures=tmp_path / "shown")
    first = tmp_path / "shown" / "seed-0-turn-1.png"
    assert f"[picture: {first}]" in out
    assert Image.open(first).size == (96, 96)
    names = {file.name for file in first.parent.iterdir()}
    assert names == {"seed-0-turn-1.png", "seed-1-turn-1.png"}  # a retry has no picture of its own


def test_a_walk_to_its_end_leaves_a_map(play, tmp_path):
    env = make("cardinal/VIRL-v0", {"prompt_style": "brief"})
    env.reset(seed=0)
    answers, ended = [], False
    while not ended:
        answers.append(env.expert())
        ended = env.step(answers[-1])[2]
    game, out = play(env, answers, pictures=tmp_path)
    assert (game.played, game.solved) == (1, 1)
    assert f"[overview: {tmp_path / 'seed-0-overview.png'}]" in out
    assert Image.open(tmp_path / "seed-0-overview.png").size == (640, 640)


def test_an_interrupt_is_an_end(monkeypatch, capsys):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    Game(make(GP, {}), 0).run()
    assert "Goodbye" in capsys.readouterr().out


def test_a_broken_environment_is_named(play, monkeypatch):
    env = make(GP, {})

    def broken(action):
        raise EnvironmentFailure("the table fell over")

    monkeypatch.setattr(env, "step", broken)
    with pytest.raises(EnvironmentFailure, match="seed 7 failed: the table fell over"):
        play(env, ["1"], seed=7)


def test_the_command_plays_through_a_pipe():
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "play", GP, "prompt_style=brief", "--seed", "5"],
        input="?\n1+1\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "seed 5" in done.stdout
    assert "answer> 1+1" in done.stdout
    assert done.stdout.endswith("Goodbye.\n")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cardinal/Chess-v0"], "Chess"),
        ([GP, "face_rul=ten"], "settings.face_rul: there is no such key; the nearest is face_rule"),
        ([GP, "suits=red"], "suits needs modality=vision"),
    ],
)
@pytest.mark.parametrize("command", [["play"], ["gallery", "--out", "nowhere"]])
def test_what_cannot_be_played_is_refused_in_one_line(command, arguments, said, capsys):
    assert main([command[0], *arguments, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
