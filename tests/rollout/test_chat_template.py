"""The chat template: its own words, one day for all time, and no message left out."""

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from rollout.chat_template import TODAY, ChatTemplate, common_length
from rollout.processor import PictureProcessor
from rollout.renderer import Renderer
from tests.support.real_templates import BY_NAME


def template(name, text=None):
    tokenizer = BY_NAME[name].tokenizer()
    if text is not None:
        tokenizer.chat_template = text
    return ChatTemplate(tokenizer)


def user(text):
    return {"role": "user", "content": text}


def test_the_day_never_changes():
    assert datetime(2024, 7, 26) == TODAY
    assert "Today Date: 26 Jul 2024" in template("llama-3.2").render([user("x")], answer_next=True)
    assert "July 26, 2024" in template("granite-3.3").render([user("x")], answer_next=False)


def test_it_is_that_of_the_library():
    shown = template("qwen2")
    for answer_next in (False, True):
        expected = (
            BY_NAME["qwen2"]
            .tokenizer()
            .apply_chat_template([user("x")], tokenize=False, add_generation_prompt=answer_next)
        )
        assert shown.render([user("x")], answer_next=answer_next) == expected


def test_of_several_templates_the_default_is_taken():
    several = {"tool_use": "{{ 'tools' }}", "default": "{{ messages[0].content }}"}
    assert template("qwen2", several).render([user("x")], answer_next=False) == "x"
    with pytest.raises(ValueError, match="has no chat template"):
        template("qwen2", {"tool_use": "x"})


def test_a_processor_without_one_has_that_of_its_tokenizer(tmp_path, vision_model):
    folder = Path(shutil.copytree(vision_model, tmp_path / "model"))
    text = PictureProcessor.load(folder).processor.chat_template
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for template, words in (
        (text, None),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "list of a message"),
    ):
        (folder / "tokenizer_config.json").write_text(
            json.dumps(settings | {"chat_template": template})
        )
        if words is None:
            assert Renderer.load(str(folder)).prompt("x") == Renderer.load(vision_model).prompt("x")
        else:
            with pytest.raises(ValueError, match=words):
                Renderer.load(str(folder))


def test_a_processor_prefers_its_own(vision_model):
    processor = PictureProcessor.load(vision_model)
    own = processor.processor.chat_template
    processor.tokenizer.chat_template = "{{ 'of the tokenizer' }}"
    assert ChatTemplate(processor.tokenizer, processor).source == own


def test_its_own_words_refuse():
    with pytest.raises(
        ValueError, match=r"^chat template of gemma-2 refuses messages of the roles "
    ):
        template("gemma-2").render([user("x"), user("y")], answer_next=True)
    four = [{"role": role, "content": ""} for role in ("user", "assistant", "user", "user")]
    with pytest.raises(
        ValueError, match=r"roles user, assistant, user, …: Conversation roles must"
    ):
        template("gemma-2").render(four, answer_next=True)
    with pytest.raises(ValueError, match=r"refuses messages of the roles : .*empty conversation"):
        template("qwen2").render([], answer_next=False)
    with pytest.raises(ValueError, match="refuses messages of the roles user: "):
        template("qwen2", "{{ messages[3].content.x }}").render([user("x")], answer_next=False)


def test_a_message_that_is_left_out_is_named():
    phi = template("phi-3")
    phi.check_roles(["system", "user", "assistant"])
    with pytest.raises(ValueError, match="leaves out message 1, whose role is tool"):
        phi.check_roles(["user", "tool", "assistant"])
    with pytest.raises(ValueError, match="leaves out message 0, whose role is User"):
        phi.check_roles(["User", "assistant"])
    template("chatml").check_roles(["User", "tool", "assistant"])


def test_where_texts_part():
    assert common_length("abc", "abd") == 2
    assert common_length("abc", "ab") == common_length("ab", "abc") == 2
    assert common_length("", "x") == 0
