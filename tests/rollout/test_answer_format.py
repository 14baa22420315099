"""How answers stand in a template: what ends them, what is inside, whether turns can be added."""

import re

import pytest

from rollout.answer_format import answer_format
from rollout.chat_template import ChatTemplate
from rollout.control_tokens import ControlTokens
from tests.support.real_templates import BY_NAME

TURN = "'<|im_start|>' + m['role'] + '\\n' + m['content']"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def read(name, text=None):
    tokenizer = BY_NAME[name].tokenizer()
    if text is not None:
        tokenizer.chat_template = text
    return answer_format(ChatTemplate(tokenizer), ControlTokens(tokenizer, tokenizer.chat_template))


def chatml(turn=TURN, end="<|im_end|>\\n", opening=OPEN):
    return "{% for m in messages %}{{ " + turn + " + '" + end + "' }}{% endfor %}" + opening


def test_it_is_read_from_the_template():
    found = read("chatml")
    assert (found.end, found.begins_next, found.appends) == ("<|im_end|>", False, True)
    assert found.inside == frozenset()
    assert found.around == {"<|im_start|>", "<|im_end|>"}
    assert read("glm-4").end == "<|user|>"
    assert read("glm-4").begins_next
    assert read("gemma-2").end == "<end_of_turn>"
    assert not read("qwen3").appends
    assert read("qwen3").inside == {"<think>", "</think>"}
    assert read("llama-2").around == {"<s>", "</s>"}


def test_tokens_around_reasoning_are_inside_an_answer():
    for key in ("reasoning_content", "thinking"):
        text = chatml(f"{TURN} + ('<think>' + m.{key} if m.{key} else '')")
        assert read("qwen3", text).inside == {"<think>"}


def test_of_doubled_end_tokens_the_first_ends():
    found = read("qwen2", chatml(end="<|im_end|><|endoftext|>\\n"))
    assert (found.end, found.appends) == ("<|im_end|>", True)
    assert found.until_end("a<|im_end|><|im_end|>", 0) == len("a<|im_end|>")
    assert found.until_end("<|im_end|>a", 1) == -1


@pytest.mark.parametrize("before", [" \\n", " END "])
def test_what_stands_before_the_end_belongs_to_the_answer(before):
    found = read("qwen2", chatml(end=before + "<|im_end|>"))
    assert (found.end, found.begins_next, found.appends) == ("<|im_end|>", False, True)


def test_an_end_only_between_messages():
    between = "{% if not loop.last %}{{ '<|im_end|>' }}{% endif %}"
    text = chatml(end="").replace("{% endfor %}", between + "{% endfor %}")
    text = text.replace("{{ '<|im_start|>assistant", "{{ '<|im_end|><|im_start|>assistant")
    found = read("qwen2", text)
    assert (found.end, found.begins_next, found.appends) == ("<|im_end|>", True, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ messages[-1]['content'] }}", "does not repeat each message once and in order"),
        (chatml(TURN + " + m['content']"), "does not repeat each message once and in order"),
        (
            chatml().replace("in messages %}", "in messages | reverse %}"),
            "does not repeat each message once and in order",
        ),
        (chatml(opening=""), "though it begins an answer with '<|im_start|>assistant\\n'"),
        (chatml(end="\\n\\n", turn="m['content']", opening=""), "ends an answer with '\\n\\n'"),
        (
            "{% for m in messages %}{{ (' so <|im_start|>' if loop.index0 == 2 else '') }}"
            "{{ m['content'] }}{% endfor %}",
            "ends an answer with ' so <|im_start|>'",
        ),
        ("{{ nothing.at_all }}", "refuses messages of the roles user"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read("qwen2", text)


def test_turns_cannot_be_added_where_a_template_changes_with_what_follows():
    numbered = chatml("'<|im_start|>' + m['role'] + loop.revindex | string + m['content']")
    assert not read("qwen2", numbered).appends
    last_only = chatml(TURN + " + ('!' if loop.last and loop.index0 % 2 else '')")
    assert not read("qwen2", last_only).appends


def test_a_third_message_in_another_form_cannot_be_added():
    later = chatml("('' if loop.index0 < 4 else 'again ') + " + TURN)
    found = read("qwen2", later)
    assert not found.appends


def test_earlier_answers_must_be_written_from_their_text():
    refuses = "{% if '<think>' in m['content'] %}{{ raise_exception('no tags') }}{% endif %}"
    thinks = "'<|im_start|>' + m['role'] + ('<think>' if loop.last else '') + m['content']"
    text = chatml(thinks).replace("%}{{ ", "%}" + refuses + "{{ ", 1)
    text = text.replace("<|im_start|>assistant\\n", "<|im_start|>assistant")
    with pytest.raises(ValueError, match="takes none as a message's text: no tags"):
        read("qwen2", text)
    drops = chatml(thinks).replace("<|im_start|>assistant\\n", "<|im_start|>assistant")
    drops = drops.replace("+ m['content']", "+ m['content'].split('<think>')[0]")
    with pytest.raises(ValueError, match="writes earlier answers anew, without their text"):
        read("qwen2", drops)
