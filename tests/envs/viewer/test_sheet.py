"""The contact sheet: pictures, colours of verdicts and texts are on it, at any length."""

from __future__ import annotations

import numpy as np
import pytest

from envs.viewer.episodes import EpisodeRecord, GradedAnswer, PromptRecord
from envs.viewer.sheet import BAD, GOOD, MARGIN, TILE, Strip, draw_sheet, font, wrap
from tests.support.slow import fast

BLUE = (10, 20, 230)


def episode(seed: int, trials: int, text: str = "1+2", overview=None) -> EpisodeRecord:
    picture = np.full((40, 40, 3), BLUE, np.uint8)
    given = (
        GradedAnswer(text, "cut short", "wrong", -1.0, -1.0, text, text),
        GradedAnswer(text, "expert", "solved", 5.0, 4.0, text, ""),
    )
    shown = tuple(PromptRecord(f"all\n{text} {seed} {n}", picture, given) for n in range(trials))
    return EpisodeRecord(seed, {"city": "Milan"}, shown, "terminated", {}, overview)


def count(image, colour) -> int:
    return int((np.asarray(image) == colour).all(-1).sum())


@pytest.mark.parametrize("trials", [1, 7])
def test_every_picture_and_verdict_is_on_the_sheet(trials):
    sheet = draw_sheet("id", "a=1", [episode(seed, trials) for seed in range(3)])
    tiles = 3 * trials
    inside = (TILE - 2) ** 2  # a frame of one pixel
    assert count(sheet, BLUE) == tiles * inside
    assert count(sheet, GOOD) >= tiles * 4 * 40  # the bar at the left of an answer
    assert count(sheet, BAD) >= tiles * 4 * 40
    assert count(sheet.crop((0, 0, sheet.width, MARGIN)), (255, 255, 255)) == sheet.width * MARGIN


def test_an_overview_stands_at_the_left_and_is_never_overdrawn():
    overview = np.full((10, 10, 3), (200, 0, 200), np.uint8)
    sheet = draw_sheet("id", "", [episode(0, 16, overview=overview), episode(1, 2)])
    pixels = (np.asarray(sheet) == (200, 0, 200)).all(-1)
    rows, columns = np.nonzero(pixels)
    side = columns.max() - columns.min() + 1
    assert columns.min() == MARGIN + 1
    assert side == rows.max() - rows.min() + 1
    assert pixels.sum() == side * side


TEXTS = ["", "x" * 5000, "many words " * 900, "a\n" * 300, "中文 ♠"]


@pytest.mark.parametrize("text", fast([*TEXTS[:2], *TEXTS[3:]], TEXTS))
def test_texts_of_any_length_fit(text):
    sheet = draw_sheet("id", text, [episode(0, 2, text)])
    assert sheet.height < 12_000


def test_wrapped_parts_fit_and_lose_nothing():
    face = font(15)
    for line in ("one two three four five six seven", "x" * 90, "short", "a " + "b" * 70):
        parts = wrap(line, face, 100)
        assert all(face.getlength(part) <= 100 for part in parts)
        assert "".join(parts).replace(" ", "") == line.replace(" ", "")


def test_a_strip_grows_and_keeps_what_was_drawn():
    strip = Strip(60)
    strip.text(["begin"], fill=BAD)
    for _ in range(200):
        strip.text(["line"])
    image = strip.crop()
    assert image.height == strip.y > 1024
    assert count(image.crop((0, 0, 60, 25)), BAD) > 5


def test_cut_texts_say_so():
    head, tail = Strip(200), Strip(200)
    lines = [str(number) for number in range(20)]
    head.text(lines, max_lines=5)
    tail.text(lines, max_lines=5, tail=True)
    assert head.y == tail.y == 5 * round(15 * 1.4)
    assert (np.asarray(head.crop()) != np.asarray(tail.crop())).any()
