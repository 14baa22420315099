"""The texts of GeneralPoints, full and brief."""

from __future__ import annotations

import re

import pytest

from envs.general_points import prompts
from envs.general_points.env import GeneralPoints
from envs.general_points.settings import Settings
from envs.registry import check_settings

NAMES = ("A", "5", "10", "K")


def prompt(style="full", rule="ten", target=24, vision=False, cot=False, wording=0):
    return prompts.prompt(style, NAMES, rule, target, vision, cot, wording)


def test_a_brief_prompt_is_the_cards_and_what_face_cards_count():
    assert prompt("brief") == "A 5 10 K=10"
    assert prompt("brief", rule="ranks") == "A 5 10 K=13"
    assert prompt("brief", rule="seven", target=30) == "A 5 10 K=7 =30"
    assert prompt("brief", vision=True) == "J=10 Q=10 K=10"
    assert prompt("brief", vision=True, rule="ranks") == "J=11 Q=12 K=13"


def test_a_full_prompt_states_cards_rule_target_and_format():
    text = prompt()
    for part in (
        "['A', '5', '10', 'K']",
        "'J', 'Q' and 'K' count as 10,",
        "24 points",
        '"cards": [w, x, y, z]',
        '"number": [a, b, c, d]',
        '"formula"',
    ):
        assert part in text
    assert "count as 11, 12 and 13" in prompt(rule="ranks")
    assert "an equation that equals 30" in prompt(target=30)
    assert '"thought"' in prompt(cot=True)
    assert '"thought"' not in text


def test_a_picture_prompt_does_not_tell_the_cards():
    text = prompt(vision=True)
    assert "in the image" in text
    assert "'A'" not in text
    assert "10, " not in text.split("Note")[0]


def test_wordings_differ_and_say_the_same():
    texts = {prompt(wording=i) for i in range(len(prompts.WORDINGS))}
    assert len(texts) == len(prompts.WORDINGS) >= 3
    assert all("24" in text and "4 cards" in text for text in texts)


def test_answers():
    def answer(style, vision=False, thought=None):
        return prompts.answer(style, NAMES, (1, 5, 10, 10), "10+10+5-1", 24, vision, thought)

    assert answer("brief") == "10+10+5-1"
    assert answer("brief", vision=True) == "A 5 10 K: 10+10+5-1"
    assert answer("brief", thought="10+10=20") == "10+10=20; 10+10+5-1"
    assert answer("full", thought="10+10=20") == (
        "{\n  \"cards\": ['A', '5', '10', 'K'],\n  \"number\": [1, 5, 10, 10],\n"
        '  "thought": "10+10=20",\n  "formula": "10+10+5-1=24",\n}'
    )


def test_feedback_tells_as_much_as_its_mode_allows():
    def feedback(style, mode, name="wrong", prefix="10+", misread=False):
        reason = "your formula evaluates to 26, not 24"
        return prompts.feedback(style, mode, name, reason, prefix, misread)

    assert [feedback("brief", mode) for mode in ("none", "binary", "verifier", "prefix_hint")] == [
        "again",
        "no",
        "wrong",
        "wrong 10+",
    ]
    assert feedback("brief", "verifier", misread=True) == "wrong misread"
    assert feedback("brief", "verifier", "solved") == "solved"
    assert feedback("full", "none") == "Try again."
    assert "26" not in feedback("full", "binary")
    assert feedback("full", "verifier").startswith(
        "You failed this trial because your formula evaluates to 26, not 24."
    )
    assert "a solution begins with 10+" in feedback("full", "prefix_hint")


@pytest.fixture
def templates(tmp_path):
    """A path for each message, with texts that name every field."""
    texts = {
        "prompt": "$cards|$names|$target|$num_cards|$rule|$jack $queen $king",
        "feedback": "$verdict: $reason [$prefix]",
        "solved": "Bravo",
        "exhausted": "Genug",
        "answer": '{"number": [$numbers], "cards": [$cards], "formula": "$formula=$target"} $names',
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return {name: str(tmp_path / f"{name}.txt") for name in texts}


def test_templates_replace_every_message(templates):
    env = GeneralPoints(
        templates=templates,
        feedback="prefix_hint",
        preset="paper_code",
        verify_iter=2,
        parser="lenient",
    )
    plain = GeneralPoints(preset="paper_code")
    observation, info = env.reset(seed=3)
    plain.reset(seed=3)
    assert env.hand == plain.hand
    quoted = ", ".join(f"'{name}'" for name in info["cards"])
    assert observation["message"] == (
        f"{quoted}|{' '.join(info['cards'])}|24|4|'J', 'Q' and 'K' count as 10|10 10 10"
    )
    numbers = "+".join(map(str, env.hand.numbers))
    message = env.step(f'{{"formula": "{numbers}"}}')[0]["message"]
    assert message.startswith("wrong: ")
    assert "[" in message
    assert env.step("x")[0]["message"] == "illegal: illegal characters []"
    assert env.step("x")[0]["message"] == "Genug"
    env.reset(seed=3)
    answer = env.expert()
    assert answer.endswith(f'=24"}} {" ".join(info["cards"])}')
    observation, reward, terminated, *_ = env.step(answer)
    assert (observation["message"], reward, terminated) == ("Bravo", 5, True)


def test_demonstrations_and_corpus_use_the_templates(templates):
    env = GeneralPoints(templates=templates, trajectories="suboptimal", face_rule="ranks")
    for demonstration in env.demonstrations(5, 0):
        contents = [message["content"] for message in demonstration.messages]
        assert "|11 12 13" in contents[0]
        assert all(": " in text and text.endswith("]") for text in contents[2::2])
        assert all(text.startswith('{"number"') for text in contents[1::2])
    texts = list(env.corpus())
    assert any(text.startswith("Bravo") for text in texts)


def test_a_thought_has_its_field(templates, tmp_path):
    (tmp_path / "answer.txt").write_text("<think>$thought</think>{'formula': '$formula'}")
    env = GeneralPoints(templates={"answer": templates["answer"]}, cot=True)
    env.reset(seed=0)
    assert re.match(r"<think>.*=24</think>", env.expert())
    assert env.step(env.expert())[1:3] == (5.0, True)


def test_a_wrong_template_is_refused_with_the_settings(templates, tmp_path):
    (tmp_path / "answer.txt").write_text("$cards")
    with pytest.raises(ValueError, match=r"templates\.answer=.*must have the field \$formula"):
        Settings(templates=templates)
    with pytest.raises(ValueError, match=r"templates\.prompts: there is no such message"):
        check_settings("cardinal/GeneralPoints-v0", {"templates": {"prompts": "a.txt"}})
