"""The texts of GeneralPoints, full and brief."""

from __future__ import annotations

from envs.general_points import prompts

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
