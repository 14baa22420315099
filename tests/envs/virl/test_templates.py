"""Wordings of the user's own: each message can have a file, checked with the settings."""

from __future__ import annotations

import pytest

from envs.registry import check_settings
from envs.virl.env import VIRL
from envs.virl.settings import Settings

TEXTS = {
    "prompt": "$directions|$history|$observation|$turns",
    "feedback": "$verdict: $reason",
    "answer": "{'current observation': '$observation', 'action': '$action'} $instruction",
}


@pytest.fixture
def templates(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return {name: str(tmp_path / f"{name}.txt") for name in TEXTS}


@pytest.mark.parametrize("action_space", ["absolute", "relative"])
def test_templates_replace_every_message(templates, action_space):
    env, plain = (
        VIRL(action_space=action_space, verify_iter=2, templates=given) for given in (templates, {})
    )
    message = env.reset(seed=3)[0]["message"]
    shown = plain.reset(seed=3)[0]["message"]
    directions, history, observation, turns = message.split("|")
    assert directions in shown
    assert history in shown
    assert observation in history
    assert turns.split(", ")[0] == ("north" if action_space == "absolute" else "left")
    assert env.step("nonsense")[0]["message"] == f"illegal: {plain.step('nonsense')[4]['message']}"
    answer = env.expert()
    assert answer.endswith(env.sentences[env.point.instruction])
    observation, reward, *_ = env.step(answer)
    assert reward == 1.0
    assert observation["restart"] == 1


def test_demonstrations_and_corpus_use_the_templates(templates):
    env = VIRL(templates=templates, trajectories="suboptimal")
    for demonstration in env.demonstrations(5, 0):
        contents = [message["content"] for message in demonstration.messages]
        assert contents[0].count("|") == 3
        assert all(text.startswith("{'current") for text in contents[1::2])
    assert any(text.startswith("$directions|") for text in env.corpus())


def test_a_wrong_template_is_refused_with_the_settings(templates, tmp_path):
    (tmp_path / "answer.txt").write_text("$observation")
    with pytest.raises(ValueError, match=r"VIRL\.templates\.answer=.*must have the field \$action"):
        Settings(templates=templates)
    with pytest.raises(ValueError, match=r"templates\.solved: there is no such message"):
        check_settings("cardinal/VIRL-v0", {"templates": {"solved": "a.txt"}})
