"""The tiny model's tokenizer encodes any text, and what an environment writes in few tokens."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.paths import ROOT
from envs.registry import make
from learner.tiny_tokenizer import IMAGE, VISION_TOKENS, train_tokenizer

GP = "cardinal/GeneralPoints-v0"


def corpus():
    return make(GP, {"prompt_style": "brief"}).corpus()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus())


@given(st.text(max_size=80))
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    specials = ("<pad>", "<eos>", "<user>", "<assistant>")
    if not any(s in text for s in specials):
        assert tokenizer.decode(ids) == text


def test_numbers_ranks_and_operators_are_single_tokens(tokenizer):
    for piece in (" 10", " J", " K", "=", "(", "*", "/", "-", "+", ")", "10", "7"):
        assert len(tokenizer(piece, add_special_tokens=False)["input_ids"]) == 1, piece


def test_its_template_carries_several_turns(tokenizer):
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == "<user>a<assistant>b<eos><user>c<assistant>"


def test_with_pictures_it_has_their_tokens(tokenizer):
    sees = train_tokenizer(corpus(), vision=True)
    for token in VISION_TOKENS:
        assert len(sees(token)["input_ids"]) == 1
        assert len(tokenizer(token)["input_ids"]) > 1
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
    assert sees.apply_chat_template([message], tokenize=False) == f"<user>{IMAGE}a"


def test_it_imports_no_torch():
    code = "import sys, learner.tiny_tokenizer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=500)
