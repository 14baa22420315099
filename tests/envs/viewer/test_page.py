"""The page: well-formed, self-contained, and no text of an environment becomes markup."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from envs.viewer.episodes import EpisodeRecord, GradedAnswer, PromptRecord
from envs.viewer.page import SIDE, data_uri, page

HOSTILE = "<script>alert('x')</script>&\"</pre><img src=x onerror=y>"


class Tags(HTMLParser):
    """Collects a page's tags and checks that they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def episode(text: str, trials: int, image=None, overview=None) -> EpisodeRecord:
    given = (
        GradedAnswer(text, text, text, -1.5, -1.5, text, text),
        GradedAnswer(text, "expert", "fine", 2.0, 0.5, text, ""),
    )
    shown = tuple(PromptRecord(f"{text} {number}", image, given) for number in range(trials))
    return EpisodeRecord(4, {text: text}, shown, "terminated", {"success": 1.0}, overview)


@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("overview", [None, np.zeros((8, 8, 3), np.uint8)])
def test_texts_are_escaped_and_tags_close(trials, overview):
    image = np.full((6, 5, 3), 200, np.uint8)
    text = page(HOSTILE, HOSTILE, [episode(HOSTILE, trials, image, overview)] * 2)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "onerror=y>" not in text
    pictures = 2 * trials + (2 if trials > 1 and overview is not None else 0)
    assert text.count("<img ") == text.count("data:image/png;base64,") == pictures


def test_grades_are_shown():
    text = page("id", "", [episode("words", 2)])
    assert "default settings" in text
    assert "1 episode, 4 answers" in text
    assert "2 slips" in text
    assert "<b class=bad>words</b>" in text
    assert ">-1.5</span>" in text
    assert "<b class=good>fine</b>" in text
    assert ">+2</span>" in text
    assert "Seed 4: <span class=good>+0.5</span>, terminated" in text


def test_pictures_are_bounded_and_the_smaller_of_two_formats():
    flat = data_uri(np.full((SIDE * 2, SIDE, 3), 7, np.uint8))
    noise = data_uri(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert flat.startswith("data:image/png;base64,")
    assert noise.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(flat.split(",")[1]))).size == (SIDE // 2, SIDE)
