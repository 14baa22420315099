"""The renderer: what stands between sampled answers, under several chat templates."""

import pytest
from transformers import AutoTokenizer

from rollout.renderer import Renderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
)
LAST_ONLY = "{{ messages[-1]['content'] }}"


def renderer(folder, template, **specials):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if specials:
        tokenizer.add_special_tokens(specials)
    tokenizer.chat_template = template
    return Renderer(tokenizer, [tokenizer.eos_token_id])


@pytest.fixture
def chatml(tiny_model):
    return renderer(
        tiny_model,
        SYSTEM + CHATML,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )


def rendered(r, *messages):
    """The template's own rendering of a conversation."""
    roles = ("user", "assistant")
    listed = [{"role": roles[i % 2], "content": m} for i, m in enumerate(messages)]
    return r.tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=True)


def test_turn_by_turn_gives_what_the_template_gives(chatml):
    r = chatml
    ids = r.prompt("one").token_ids
    ids += (answer := r.answer("two"))
    ids += r.follow_up("three", answer)
    assert r.tokenizer.decode(ids) == rendered(r, "one", "two", "three")
    assert answer[-1] in r.stop_ids
    assert r.tokenizer.decode(ids).count("Be brief.") == 1


def test_the_end_of_an_answer_stands_once(chatml):
    r = chatml
    stopped = r.answer("two")
    cut = stopped[:-1]
    end = r.tokenizer.eos_token_id
    assert stopped + r.follow_up("x", stopped) == cut + r.follow_up("x", cut)
    assert r.follow_up("x", cut)[0] == end != r.follow_up("x", stopped)[0]


def test_role_and_padding_tokens_are_forbidden_and_stops_are_not(chatml):
    added = chatml.tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special}
    assert set(chatml.forbidden) == special - set(chatml.stop_ids)
    assert chatml.tokenizer.convert_tokens_to_ids("<|im_start|>") in chatml.forbidden
    assert chatml.tokenizer.pad_token_id in chatml.forbidden


def test_decoding_leaves_special_tokens_out(chatml):
    assert chatml.decode(chatml.answer("7*4-8/2")) == "7*4-8/2"


def test_only_trained_answers_are_masked(chatml):
    ids, mask = chatml.demonstration(
        [
            {"role": "user", "content": "a", "train": False},
            {"role": "assistant", "content": "wrong", "train": False},
            {"role": "user", "content": "b", "train": False},
            {"role": "assistant", "content": "right", "train": True},
        ]
    )
    assert chatml.tokenizer.decode(ids[mask]) == "right<|im_end|>"
    assert len(ids) == len(mask)
    assert not mask[0]


def test_templates_that_cannot_be_continued_are_refused(tiny_model):
    with pytest.raises(ValueError, match="has no chat template"):
        renderer(tiny_model, None)
    with pytest.raises(ValueError, match="does not repeat each message"):
        renderer(tiny_model, LAST_ONLY)
