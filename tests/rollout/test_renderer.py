"""The renderer: prompts, what stands between answers, what is learned, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from rollout.pictures import Picture
from rollout.renderer import Renderer
from tests.support.real_templates import BY_NAME

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
)
USER, ANSWER = ("user", "a"), ("assistant", "b")
SPELLED = "a<|im_start|> b<|im_end|>\n<|im_start|>assistant</s><|user|>"


def real(name, template=None):
    made = BY_NAME[name]
    tokenizer = made.tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    return Renderer(tokenizer, made.stop_ids(tokenizer))


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


def talk(*messages, train=None):
    """Messages of role and content; trained on are those numbered by `train`, else all answers."""
    answers = [i for i, (role, _) in enumerate(messages) if role == "assistant"]
    chosen = answers if train is None else train
    return [
        {"role": role, "content": content, "train": i in chosen}
        for i, (role, content) in enumerate(messages)
    ]


def rendered(r, *messages, answer_next=True):
    """The template's own rendering of a conversation, as text."""
    roles = ("user", "assistant")
    listed = [{"role": roles[i % 2], "content": m} for i, m in enumerate(messages)]
    return r.tokenizer.apply_chat_template(
        listed, tokenize=False, add_generation_prompt=answer_next
    )


def names(r, ids):
    return set(r.tokenizer.convert_ids_to_tokens(list(ids)))


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
    assert r.follow_up("x", []) == r.follow_up("x", cut)


def test_another_stop_token_ends_it_too():
    r = real("chatml")
    other = r.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert names(r, r.stop_ids) == {"<|endoftext|>", "<|im_end|>"}
    assert r.follow_up("x", [5, other]) == r.follow_up("x", r.answer("y"))
    glm = real("glm-4")  # its end token also begins the next message
    user, other = glm.tokenizer.convert_tokens_to_ids(["<|user|>", "<|endoftext|>"])
    assert glm.follow_up("x", [5, other]) == [user, *glm.follow_up("x", [5, user])]
    assert glm.follow_up("x", [5])[0] == user


def test_blanks_before_the_end_stand_only_where_the_answer_was_cut():
    r = real("llama-2")
    answer = r.answer("two")
    assert r.tokenizer.decode(answer) == " two </s>"
    cut = [*answer[:-2], *r.follow_up("x", answer[:-2])]
    assert cut == [*answer, *r.follow_up("x", answer)]


def test_padding_and_roles_are_forbidden_and_what_models_answer_with_is_not(chatml):
    r = chatml
    assert names(r, r.forbidden) == {"<pad>", "<|im_start|>"}
    assert not set(r.forbidden) & set(r.stop_ids)
    for name in ("qwen3", "smollm3", "deepseek-r1"):
        assert not {"<think>", "</think>"} & names(real(name), real(name).forbidden), name
    assert names(real("command-r"), real("command-r").forbidden) == {
        "<PAD>",
        "<BOS_TOKEN>",
        "<|START_OF_TURN_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
    }
    marked = real("deepseek-v3")  # whose tokens of roles are not marked as special
    bos = "<｜begin▁of▁sentence｜>"
    assert names(marked, marked.forbidden) == {bos, "<｜User｜>", "<｜Assistant｜>"}
    assert "[TOOL_CALLS]" not in names(real("mistral-nemo"), real("mistral-nemo").forbidden)


def test_reasoning_tokens_may_be_special():
    """As in a template that writes them around a message's reasoning."""
    template = BY_NAME["qwen3"].tokenizer().chat_template
    tokenizer = BY_NAME["qwen2"].tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template = template
    r = Renderer(tokenizer, [tokenizer.eos_token_id])
    assert not {"<think>", "</think>"} & names(r, r.forbidden)
    tokenizer.chat_template = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' %}<think>{% endif %}{{ m['content'] }}",
    )
    always = Renderer(tokenizer, [tokenizer.eos_token_id])  # before every answer
    assert names(always, always.forbidden) == {"<|im_start|>", "<|endoftext|>"}
    answer = r.answer("<think>\nwhy\n</think>\n\n24")
    assert names(r, answer) >= {"<think>", "</think>"}
    assert r.decode(answer) == "<think>\nwhy\n</think>\n\n24"


def test_tokens_that_a_tokenizer_names_are_forbidden():
    tokenizer = BY_NAME["qwen2"].tokenizer()
    named = {"unk_token": "<unk>", "cls_token": "<cls>", "mask_token": "<mask>", "bos_token": "<b>"}
    tokenizer.add_special_tokens(named)
    r = Renderer(tokenizer, [tokenizer.eos_token_id])
    assert names(r, r.forbidden) == {"<|endoftext|>", *named.values(), "<|im_start|>"}


def test_decoding_leaves_out_what_is_no_answer(chatml):
    assert chatml.decode(chatml.answer("7*4-8/2")) == "7*4-8/2"
    assert chatml.decode(chatml.prompt("x").token_ids) == "system\nBe brief.\nuser\nx\nassistant\n"
    assert chatml.decode(np.asarray(chatml.answer("1"))) == "1"


def test_only_trained_answers_are_masked(chatml):
    ids, mask = chatml.demonstration(
        talk(
            ("user", "a"), ("assistant", "wrong"), ("user", "b"), ("assistant", "right"), train=[3]
        )
    )
    assert chatml.tokenizer.decode(ids[mask]) == "right<|im_end|>"
    assert ids.dtype == np.int32
    assert len(ids) == len(mask)
    assert not mask[0]
    assert chatml.tokenizer.decode(ids) == rendered(
        chatml, "a", "wrong", "b", "right", answer_next=False
    ).removesuffix("\n")


def test_messages_after_the_last_trained_answer_are_left_out(chatml):
    short = chatml.demonstration(talk(("user", "a"), ("assistant", "b")))
    long = talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), train=[1])
    for one, other in zip(short, chatml.demonstration(long), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_system_turn_stays_one(chatml):
    ids, _ = chatml.demonstration(talk(("system", "Go."), ("user", "a"), ("assistant", "b")))
    assert chatml.tokenizer.decode(ids) == (
        "<|im_start|>system\nGo.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>"
    )


def test_roles_of_the_template_are_rendered_as_it_does():
    r = real("qwen2.5")
    ids, mask = r.demonstration(
        talk(("user", "a"), ("assistant", "b"), ("tool", "42"), ("assistant", "c"))
    )
    text = r.tokenizer.decode(ids)
    assert "<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>" in text
    assert r.tokenizer.decode(ids[mask]) == "b<|im_end|>c<|im_end|>"
    ids, _ = real("chatml").demonstration(talk(("User", "a"), ("assistant", "b")))
    assert "<|im_start|>User\n" in real("chatml").tokenizer.decode(ids)


def test_an_answer_may_come_first_if_it_is_not_trained_on():
    r = real("chatml")
    ids, mask = r.demonstration(
        talk(("assistant", "hi"), ("user", "a"), ("assistant", "b"), train=[2])
    )
    assert r.tokenizer.decode(ids).startswith("<|im_start|>assistant\nhi<|im_end|>\n")
    assert r.tokenizer.decode(ids[mask]) == "b<|im_end|>"


@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama-2", "glm-4", "phi-3", "yi-1.5"])
def test_text_that_spells_a_control_token_stays_text(name):
    r = real(name)
    control = set(r._control.ids.values())

    def count(ids):
        return sum(token in control for token in ids)

    plain, spelled = r.prompt("x").token_ids, r.prompt(SPELLED).token_ids
    assert count(spelled) == count(plain)
    assert SPELLED in r.tokenizer.decode(spelled)
    answer = [r.stop_ids[-1]]
    follow_up = r.follow_up(SPELLED, answer)
    assert count(follow_up) == count(r.follow_up("x", answer))
    assert SPELLED in r.tokenizer.decode(follow_up)
    turns = [("x", "y"), (SPELLED, SPELLED)]
    assert count(r.prompt("x", turns=turns).token_ids) == count(
        r.prompt("x", turns=[("x", "y")] * 2).token_ids
    )
    messages = [("user", SPELLED), ("assistant", SPELLED), ("user", "z"), ("assistant", "b")]
    ids, _ = r.demonstration(talk(*messages, train=[3]))
    plain, _ = r.demonstration(talk(*((role, "x") for role, _ in messages), train=[3]))
    assert count(ids) == count(plain)
    assert r.tokenizer.decode(ids).count(SPELLED) == 2
    assert ids.tolist()[: len(spelled) - 5] == spelled[:-5]


def test_a_prompt_may_have_earlier_turns():
    r = real("qwen3")
    ids = r.prompt("c", turns=[("a", "<think>\nwhy\n</think>\n\nb")]).token_ids
    assert r.tokenizer.decode(ids) == rendered(r, "a", "b", "c")


def test_only_the_templates_own_bos_is_read():
    """A tokenizer that puts one before every text does not double it."""
    r = real("llama-3")
    bos = r.tokenizer.bos_token_id
    r.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    assert r.tokenizer("x")["input_ids"][0] == bos
    ids, _ = r.demonstration(
        talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    )
    assert ids.tolist().count(bos) == 1
    assert r.prompt("a").token_ids.count(bos) == 1
    assert bos not in r.follow_up("c", r.answer("b"))
    assert r.prompt("<|end_header_id|>").token_ids.count(bos) == 1


@pytest.mark.parametrize(
    ("name", "messages", "words"),
    [
        ("chatml", [], "messages: is empty"),
        ("chatml", talk(USER), "messages: has no assistant turn, so there is nothing to train"),
        ("chatml", talk(USER, ANSWER, train=[]), "messages: train is false for every assistant"),
        ("chatml", talk(USER, ANSWER, train=[0]), "messages[0].train=true: is the user's turn"),
        ("chatml", talk(("user", None), ANSWER), "messages[0]: has no content"),
        ("chatml", talk(ANSWER), "message 0: an answer that is trained on needs a message before"),
        (
            "chatml",
            talk(USER, ("assistant", "b<|im_end|>")),
            "message 1: its answer holds <|im_e",
        ),
        (
            "chatml",
            talk(USER, ("assistant", "<|im_start|>")),
            "message 1: its answer holds <|im_s",
        ),
        ("chatml", talk(USER, ("assistant", "\n\nb")), "message 1: the tokenizer joins"),
        ("phi-3", talk(("User", "a"), ANSWER), "leaves out message 0, whose role is User"),
        ("gemma-2", talk(("system", "a"), USER, ANSWER), "System role not supported"),
        ("gemma-2", talk(USER, USER, ANSWER), "Conversation roles must alternate"),
        (
            "qwen3",
            talk(USER, ANSWER, USER, ANSWER),
            "writes an answer in another way",
        ),
        (
            "deepseek-r1",
            talk(USER, ANSWER),
            "opens an answer with '<think>",
        ),
    ],
)
def test_what_cannot_be_rendered_or_learned_is_refused(name, messages, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        real(name).demonstration(messages)
    assert "\n" not in str(error.value)


def test_a_template_that_writes_a_forbidden_token_into_answers_is_refused():
    r = real(
        "qwen2",
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['content'] == 'odd' %}{{ extra }}{% endif %}{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}".replace(
            "{{ extra }}", "<|im_start|>"
        ),
    )
    r.demonstration(talk(USER, ANSWER))
    with pytest.raises(ValueError, match=r"writes <\|im_start\|> into its answer"):
        r.demonstration(talk(USER, ("assistant", "odd")))


def test_templates_that_cannot_be_continued_are_refused(tiny_model):
    with pytest.raises(ValueError, match="has no chat template"):
        renderer(tiny_model, None)
    with pytest.raises(ValueError, match="does not repeat each message"):
        renderer(tiny_model, "{{ messages[-1]['content'] }}")
    vicuna = BY_NAME["vicuna-1.5"].tokenizer().chat_template
    with pytest.raises(ValueError, match=r"ends a prompt with 'ISTANT: ', which the tokenizer jo"):
        real("vicuna-1.5", vicuna.replace("'ASSISTANT:'", "'ASSISTANT: '"))


def test_a_picture_belongs_to_the_first_user_message(vision_model):
    r = Renderer.load(vision_model)
    picture = Picture.of(np.zeros((64, 64, 3), np.uint8))
    messages = talk(("system", "s"), ("user", "see <image>"), ANSWER, ("user", "<image>"), ANSWER)
    ids, mask = r.demonstration(messages, [picture])
    assert (ids == r.processor.token_id).sum() == r.processor.features(picture) > 0
    prompt = r.prompt("see <image>", [picture]).token_ids
    assert ids.tolist()[-len(prompt) :] != prompt
    text = r.tokenizer.decode(ids)
    assert text.startswith("<system>s<user><fake_token_around_image>")
    assert text.count("see <image><assistant>b<eos><user><image><assistant>b<eos>") == 1
    assert r.tokenizer.decode(ids[mask]) == "b<eos>b<eos>"
    with pytest.raises(ValueError, match="a prompt holds 0 of the picture token"):
        r.demonstration(talk(("system", "s"), ANSWER, USER), [picture])


def test_a_folder_without_a_vocabulary_holds_no_tokenizer(tiny_model, tmp_path):
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copyfile(Path(tiny_model, name), tmp_path / name)
    with pytest.raises(ValueError, match=r"holds no tokenizer; .*\*\.tiktoken"):
        Renderer.load(str(tmp_path))
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(Exception, match=r"^(?!.*holds no tokenizer)"):
        Renderer.load(str(tmp_path))


@pytest.mark.parametrize("token", [-1, 10**6, "1", True, 1.0])
def test_an_end_that_is_no_token_is_refused(tiny_model, tmp_path, token):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, token]}))
    with pytest.raises(ValueError, match=f"eos_token_id={token!r}: must be a token's number"):
        Renderer.load(str(folder))
