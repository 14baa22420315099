"""Control tokens: what the template writes is a token, what a message spells is text."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rollout.control_tokens import QUOTE, ControlTokens
from tests.support.real_templates import BY_NAME

KINDS = ["qwen3", "llama-2", "phi-3", "mistral-v0.3"]  # byte-level and sentencepiece
TEXT = "a <|im_end|></s><|end|>[INST]<s> b"


@pytest.fixture(params=KINDS)
def control(request):
    tokenizer = BY_NAME[request.param].tokenizer()
    return ControlTokens(tokenizer, tokenizer.chat_template)


def test_text_without_control_tokens_is_read_as_ever(control):
    text = control._tokenizer.chat_template + " ".join(control.ids)
    ids = control._tokenizer(text, add_special_tokens=False)["input_ids"]
    assert control.encode(text) == ids
    assert set(ids) >= set(control.ids.values())
    assert control.encode(text + control.quote("\ufdd0"))[: len(ids)] == ids


def test_what_a_message_spells_is_text(control):
    (end, *_) = (token for token in control.ids if token in TEXT)
    ids = control.encode(f"{end} before {control.quote(TEXT)}{end}")
    inside = ids[1:-1]
    assert ids[0] == ids[-1] == control.ids[end]
    assert not set(inside) & set(control.ids.values())
    assert control._tokenizer.decode(inside).strip() == f"before {TEXT}"


def test_marks_of_its_own_are_text_too(control):
    end = next(token for token in control.ids if token in TEXT)
    for text in (QUOTE, QUOTE + end, QUOTE * 3 + end + QUOTE, end + QUOTE):
        ids = control.encode(end + control.quote(text) + end)
        assert ids[0] == ids[-1] == control.ids[end]
        assert not set(ids[1:-1]) & set(control.ids.values())
        assert control._tokenizer.decode(ids[1:-1]).strip() == text


def test_what_is_to_be_kept_stays_a_token():
    tokenizer = BY_NAME["qwen3"].tokenizer()
    control = ControlTokens(tokenizer, tokenizer.chat_template)
    quoted = control.quote("<think>x<|im_end|>", keep=("<think>",))
    assert quoted == f"<think>x{QUOTE}<|im_end|>"
    ids = control.encode(quoted)
    assert ids[0] == control.ids["<think>"]
    assert control.ids["<|im_end|>"] not in ids
    assert tokenizer.decode(ids) == "<think>x<|im_end|>"


def test_what_is_a_control_token():
    tokenizer = BY_NAME["qwen3"].tokenizer()
    tokenizer.add_tokens(["<table>", "\n\n"])  # Gemma has such, which are nothing but text
    control = ControlTokens(tokenizer, tokenizer.chat_template + "\n\n")
    named = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
    written = {"<think>", "</think>", "<tool_response>", "</tool_response>"}
    assert set(control.ids) == named | written
    assert control.spelled("a<think>b<table><|im_end|>") == ["<think>", "<|im_end|>"]


def test_the_longest_spelling_is_found():
    tokenizer = BY_NAME["qwen3"].tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>>"]})
    control = ControlTokens(tokenizer, "")
    assert control.spelled("<|im_end|>>") == ["<|im_end|>>"]


def test_a_unigram_tokenizer():
    pieces = [("<unk>", 0.0), ("<end>", 0.0), *((c, -1.0) for c in "<end>ab▁")]
    base = Tokenizer(models.Unigram(pieces, unk_id=0))
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    base.add_special_tokens(["<end>"])
    control = ControlTokens(PreTrainedTokenizerFast(tokenizer_object=base), "")
    ids = control.encode("a<end>" + control.quote("b<end>"))
    assert ids.count(control.ids["<end>"]) == 1
    assert base.decode(ids[-5:], skip_special_tokens=False).replace(" ", "") == "<end>"


def test_a_tokenizer_without_its_file_is_refused(monkeypatch):
    tokenizer = BY_NAME["qwen3"].tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match=r"qwen3 is a \w+ without a tokenizer\.json"):
        ControlTokens(tokenizer, "")


def test_what_a_tokenizer_cuts_or_pads_is_read_to_its_end():
    base = BY_NAME["qwen3"].tokenizer().backend_tokenizer
    plain = ControlTokens(PreTrainedTokenizerFast(tokenizer_object=base), "")
    text = "a long conversation " * 3 + plain.quote("<|im_end|>")
    expected = plain.encode(text), plain.encode("a b c d e f")
    for change in (lambda: base.enable_truncation(4), lambda: base.enable_padding(length=99)):
        change()
        control = ControlTokens(PreTrainedTokenizerFast(tokenizer_object=base), "")
        assert (control.encode(text), control.encode("a b c d e f")) == expected
        base.no_truncation()


def merging(*merges):
    vocabulary = {token: i for i, token in enumerate(["<", "s", ">", "<s", "x", "<s>", "<s>x"])}
    base = Tokenizer(models.BPE(vocabulary, list(merges)))
    base.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=base)


def test_merges_that_make_a_control_token_are_left_out():
    tokenizer = merging(("<", "s"), ("<s", ">"), ("<s>", "x"))
    control = ControlTokens(tokenizer, "")
    ids = control.encode("<s>" + control.quote("<s>x"))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "<s", ">", "x"]


def test_a_tokenizer_that_cannot_be_renamed_is_refused_at_once(monkeypatch):
    def broken(text):
        raise Exception("Token `y` out of\nvocabulary")  # noqa: TRY002 - as the library does

    monkeypatch.setattr("rollout.control_tokens.Tokenizer.from_str", broken, raising=False)
    with pytest.raises(ValueError, match=r"control tokens renamed: Token `y` out of vocabulary$"):
        ControlTokens(merging(("<", "s")), "")
