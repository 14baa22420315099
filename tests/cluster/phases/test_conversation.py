"""A trajectory as people read it: prompts and answers in order, and pictures they can open."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
from PIL import Image

from cluster.phases.conversation import PICTURE_SIDE, conversation
from rollout.pictures import Picture
from rollout.trajectory import Segment, Trajectory, Turn

RENDERER = SimpleNamespace(decode=lambda ids: " " + "".join(map(chr, ids)))


def segment(text, turns, pictures=()):
    """Tokens are characters; answers are written in capitals."""
    ids = np.array([ord(c) for c in text], np.int32)
    mask = np.array([c.isupper() for c in text])
    return Segment(
        ids,
        mask,
        np.zeros(len(ids), np.float32),
        np.where(mask, 0, -1).astype(np.int32),
        tuple(turns),
        pictures=pictures,
    )


def played(pictures=()):
    first = segment("abXYcdZ", [Turn(2, 4, 1.0, "good"), Turn(6, 7, -2.0, "bad")], pictures)
    second = segment("eQ", [Turn(1, 2, 0.5, "")])
    return Trajectory(
        "x/1", "env", "eval/train", 9, 9, (first, second), "terminated", {"success": 1.0}
    )


def test_turns_alternate_and_each_prompt_is_said_once():
    line = conversation(played(), RENDERER)
    assert [(m["role"], m["content"]) for m in line["messages"]] == [
        ("user", "ab"),
        ("assistant", " XY"),
        ("user", "cd"),
        ("assistant", " Z"),
        ("user", "e"),
        ("assistant", " Q"),
    ]
    answers = line["messages"][1::2]
    assert [(m["reward"], m["verdict"]) for m in answers] == [
        (1.0, "good"),
        (-2.0, "bad"),
        (0.5, ""),
    ]
    assert line["variant"] == "train"
    assert (line["seed"], line["end"], line["success"], line["reward"]) == (
        9,
        "terminated",
        1.0,
        -0.5,
    )


def test_a_picture_stands_at_its_segments_first_prompt_shrunk():
    picture = Picture.of(np.full((400, 800, 3), 7, np.uint8))
    messages = conversation(played((picture,)), RENDERER)["messages"]
    assert [i for i, m in enumerate(messages) if "pictures" in m] == [0]
    (uri,) = messages[0]["pictures"]
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.format == "PNG"
    assert shown.size == (PICTURE_SIDE, PICTURE_SIDE // 2)
    assert np.asarray(shown).max() == 7
