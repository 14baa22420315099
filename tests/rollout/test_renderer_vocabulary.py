"""Which tokenizer a renderer reads, and which of its tokens a model must have rows for."""

import json
import shutil

import pytest

from rollout.renderer import Renderer

USER = {"role": "user", "content": "a", "train": False}


def test_mistrals_own_tokenizer_beside_it_is_not_read(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "tekken.json").write_text("{}")
    ids = Renderer.load(tiny_model).prompt("1 2").token_ids
    assert Renderer.load(str(folder)).prompt("1 2").token_ids == ids


@pytest.mark.parametrize("needed", ["", "written", "named", "stop"])
def test_a_control_token_without_a_row_is_needed_where_something_writes_it(
    tiny_model, tmp_path, needed
):
    """Gemma 3's text models have none for the token of pictures, which they never read."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = Renderer.load(tiny_model).tokenizer
    rows = len(tokenizer)
    assert Renderer.load(tiny_model).vocabulary == rows
    names = {"bos_token": "<soft>"} if needed == "named" else {"extra_special_tokens": ["<soft>"]}
    tokenizer.add_special_tokens(names, replace_extra_special_tokens=False)
    template = tokenizer.chat_template
    if needed == "written":
        tokenizer.chat_template = template.replace("'<user>'", "'<user><soft>'")
    if needed == "named":
        tokenizer.chat_template = "{{ bos_token }}" + template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    if needed == "stop":
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [rows]}))
    own = Renderer.load(str(folder))
    assert own.tokenizer.convert_tokens_to_ids("<soft>") == rows
    assert own.vocabulary == rows + bool(needed)
    assert max(own.forbidden) < rows, "no engine or learner could forbid it"
    if not needed:
        assert max(own.prompt("see <soft>").token_ids) < rows, "what a message spells is text"
        answer = {"role": "assistant", "content": "<soft>", "train": True}
        with pytest.raises(ValueError, match=r"its answer holds <soft>, which .* never sampled"):
            own.demonstration([USER, answer])
