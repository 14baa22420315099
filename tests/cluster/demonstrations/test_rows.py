"""A row of demonstrations: the usual forms are read, and every other one is a sentence."""

import io
import json

import pytest
from PIL import Image

from cluster.demonstrations.files import slices
from cluster.demonstrations.rows import LengthLimit, conversation, render, rendered_rows
from configs.load import ConfigError
from rollout.renderer import Renderer

USER, ANSWER = {"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}
HUMAN, GPT = {"from": "human", "value": "1 2"}, {"from": "gpt", "value": "3"}
TEXT = {"type": "text", "text": "1 2"}
READ = [
    {"role": "user", "content": "1 2", "train": False},
    {"role": "assistant", "content": "3", "train": True},
]


def picture(shade=90, side=64):
    sink = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


ONE, TWO = picture(1), picture(2)


def shown(*parts):
    return {"role": "user", "content": [*parts]}


@pytest.mark.parametrize(
    ("row", "pictures"),
    [
        ({"messages": [USER, ANSWER]}, []),
        ({"messages": READ, "seed": 3, "anything": None}, []),
        ({"messages": [USER | {"name": None}, ANSWER], "tools": []}, []),
        ({"messages": [shown(TEXT | {"image": None}), ANSWER]}, []),
        (
            {
                "messages": [
                    shown({"type": "text", "text": "1 "}, {"type": "text", "text": "2"}),
                    ANSWER,
                ]
            },
            [],
        ),
        ({"messages": [USER, ANSWER], "images": [ONE, TWO]}, [ONE, TWO]),
        ({"messages": [USER, ANSWER], "images": [{"bytes": ONE, "path": None}]}, [ONE]),
        ({"messages": [USER, ANSWER], "images": ["one.png"]}, [ONE]),
        ({"messages": [USER, ANSWER], "image": ONE, "images": None}, [ONE]),
        ({"messages": [shown({"type": "image"}, TEXT), ANSWER], "images": [ONE]}, [ONE]),
        ({"messages": [shown({"type": "image", "image": ONE}, TEXT), ANSWER]}, [ONE]),
        ({"messages": [shown({"type": "image", "path": "one.png"}, TEXT), ANSWER]}, [ONE]),
        (
            {
                "messages": [
                    shown({"type": "image"}, {"type": "image", "bytes": TWO}, TEXT),
                    ANSWER,
                ],
                "image": ONE,
            },
            [ONE, TWO],
        ),
        ({"messages": [USER | {"tool_calls": []}, ANSWER | {"name": "", "tool_calls": {}}]}, []),
        ({"conversations": [HUMAN, GPT]}, []),
        (
            {
                "conversations": [
                    {"from": "user", "value": "1 2"},
                    {"from": "assistant", "value": "3"},
                ],
                "messages": None,
            },
            [],
        ),
        ({"conversations": [HUMAN | {"value": "<image>\n1 2"}, GPT], "image": "one.png"}, [ONE]),
        (
            {
                "conversations": [HUMAN | {"value": "<image><image>\n1 2"}, GPT],
                "images": [TWO, ONE],
            },
            [TWO, ONE],
        ),
    ],
)
def test_the_usual_forms_are_read(tmp_path, row, pictures):
    (tmp_path / "one.png").write_bytes(ONE)
    found = conversation(row, tmp_path)
    assert found.messages == READ
    assert found.pictures == pictures


def test_turns_of_all_roles_keep_their_place(tmp_path):
    turns = [{"role": "system", "content": "s"}, USER, ANSWER | {"train": False}, USER, ANSWER]
    found = conversation({"messages": turns}, tmp_path).messages
    assert [m["role"] for m in found] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["train"] for m in found] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([USER], "is of type list; it must be an object with messages"),
        ({"text": "a"}, "has neither messages nor conversations"),
        ({"messages": None}, "has neither messages nor conversations"),
        ({"messages": [USER, ANSWER], "conversations": [HUMAN, GPT]}, "has both messages and conv"),
        ({"messages": []}, "messages: is empty; it must be a list of at least one turn"),
        ({"messages": "hello"}, "messages: is of type str; it must be a list"),
        ({"conversations": []}, "conversations: is empty"),
        ({"messages": [USER]}, "messages: has no assistant turn"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, r"messages\[1\].weight: is not rendered"),
        ({"messages": [USER, ANSWER | {"train": False}]}, "messages: train is false for every"),
        ({"messages": ["a"]}, r"messages\[0\]: is of type str; it must have role and content"),
        ({"messages": [None]}, r"messages\[0\]: is null; it must have role and content"),
        (
            {"messages": [USER | {"role": "User"}, ANSWER]},
            r"messages\[0\].role='User': must be one",
        ),
        (
            {"messages": [{"content": "a"}, ANSWER]},
            r"messages\[0\].role=None: must be one of system",
        ),
        (
            {"messages": [USER, ANSWER | {"content": None}]},
            r"messages\[1\].content: is null; it must",
        ),
        (
            {"messages": [USER, ANSWER | {"content": "a \ud83d"}]},
            r"messages\[1\]: its text holds half a character, U\+D83D",
        ),
        (
            {"conversations": [HUMAN | {"value": "\ude00"}, GPT]},
            r"conversations\[0\]: its text holds half a character, U\+DE00",
        ),
        ({"messages": [USER, ANSWER | {"content": 3}]}, r"messages\[1\].content: is of type int"),
        (
            {"messages": [USER, ANSWER | {"train": 1}]},
            r"messages\[1\].train=1: must be true or false",
        ),
        (
            {"messages": [USER | {"train": True}, ANSWER]},
            r"messages\[0\].train=true: is the user's",
        ),
        (
            {"messages": [USER, ANSWER | {"tool_calls": [1]}]},
            r"messages\[1\].tool_calls: is not rend",
        ),
        ({"messages": [USER, ANSWER], "tools": [{"a": 1}]}, "tools: is not rendered"),
        ({"messages": [shown({"type": "audio"}), ANSWER]}, r"content\[0\]: must be of type text"),
        ({"messages": [shown("text"), ANSWER]}, r"content\[0\]: must be of type text"),
        (
            {"messages": [shown({"type": "text", "text": None}), ANSWER]},
            r"content\[0\]: must be of",
        ),
        (
            {"messages": [shown(TEXT, {"type": "image"}), ANSWER], "image": ONE},
            r"content\[1\]: a picture",
        ),
        (
            {"messages": [USER, ANSWER, shown({"type": "image", "image": ONE}), ANSWER]},
            r"messages\[2\]: pict",
        ),
        (
            {"messages": [shown({"type": "image"}, TEXT), ANSWER]},
            "has places for 1 pictures, images holds 0",
        ),
        (
            {"messages": [shown({"type": "image"}, TEXT), ANSWER], "images": [ONE, TWO]},
            "1 pictures, images holds 2",
        ),
        ({"messages": [ANSWER], "images": [ONE]}, "images: there is no user turn"),
        (
            {"messages": [USER, ANSWER], "images": ONE},
            "images: is of type bytes; it must be a list",
        ),
        ({"messages": [USER, ANSWER], "images": [ONE], "image": ONE}, "has both images and image"),
        ({"messages": [USER, ANSWER], "images": [None]}, "a picture is of type NoneType"),
        (
            {"conversations": [{"from": "cat", "value": "x"}]},
            r"conversations\[0\].from='cat': must be",
        ),
        (
            {"conversations": [HUMAN, {"from": "gpt"}]},
            r"conversations\[1\].value: is null; it must be",
        ),
        (
            {"conversations": [HUMAN | {"weight": 1}, GPT]},
            r"conversations\[0\].weight: is not rendered",
        ),
        (
            {"conversations": [HUMAN | {"value": "a <image>"}, GPT], "image": ONE},
            "<image> must stand before",
        ),
        (
            {"conversations": [HUMAN | {"value": "<image>a"}, GPT]},
            "has places for 1 pictures, images holds 0",
        ),
    ],
)
def test_every_other_form_is_a_sentence(tmp_path, row, words):
    with pytest.raises(ValueError, match=words) as error:
        conversation(row, tmp_path)
    assert "\n" not in str(error.value)


def test_a_row_is_rendered_with_its_pictures(tmp_path, vision_model):
    renderer = Renderer.load(vision_model)
    row = {"messages": [shown({"type": "image"}, TEXT), ANSWER], "images": [ONE]}
    found = render(row, tmp_path, renderer)
    (seen,) = found.pictures
    assert seen.pixels()[0, 0].tolist() == [1, 0, 0]
    ids, mask = renderer.demonstration(READ, [seen])
    assert (found.token_ids == ids).all()
    assert (found.action_mask == mask).all()
    assert mask.any()


@pytest.mark.parametrize(
    ("limit", "tokens", "kept"),
    [
        (LengthLimit(), 10**6, True),
        (LengthLimit(8), 8, True),
        (LengthLimit(8, 6), 6, True),
        (LengthLimit(8, 6), 7, False),
        (LengthLimit(8, 6), 9, False),
        (LengthLimit(None, 6), 7, False),
    ],
)
def test_a_longer_demonstration_is_dropped_by_the_key_alone(limit, tokens, kept):
    assert limit.keeps(tokens) is kept


def test_what_the_model_cannot_read_is_refused_with_file_row_and_key(tmp_path, tiny_model):
    file = tmp_path / "a.jsonl"
    long = [USER | {"content": "1 " * 40}, ANSWER]
    file.write_text("".join(json.dumps({"messages": m}) + "\n" for m in ([USER, ANSWER], long)))
    (part,), renderer = slices(file), Renderer.load(tiny_model)
    short, over = (len(row.token_ids) for row in rendered_rows(part, renderer, LengthLimit()))
    limits = (LengthLimit(short), LengthLimit(short, over))
    for limit in limits:
        words = rf"a\.jsonl, row 2: has {over} tokens, and the model reads {short}; sft\.max_tokens"
        with pytest.raises(ConfigError, match=words):
            list(rendered_rows(part, renderer, limit))
    kept = list(rendered_rows(part, renderer, LengthLimit(short, short)))
    assert [row is not None for row in kept] == [True, False]
