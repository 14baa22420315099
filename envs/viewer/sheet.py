"""A gallery's contact sheet: episodes in, one RGB Pillow image out, fit for print.

At the top stands the first prompt in full; each tile then shows what is new in its own. Tiles
flow in rows; an episode's overview stands at its left, two tiles wide.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.viewer.episodes import (
    Answer,
    Episode,
    Trial,
    common_lines,
    new_lines,
    one_trial_each,
    readable,
)

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
INK: Colour = (28, 28, 28)
FAINT: Colour = (112, 112, 112)
SOFT: Colour = (246, 246, 244)
LINE: Colour = (216, 216, 216)
GOOD: Colour = (0, 121, 90)
BAD: Colour = (179, 38, 30)
TILE, GAP, MARGIN = 330, 20, 44
PAD = 12  # inside a tile
TEXT, SMALL, HEADING, TITLE = 15, 13, 19, 30  # font sizes, pixels
MOST_LINES = 7  # of one text in a tile


@functools.lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows most signs."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


class Block:
    """A strip of a set width that grows downwards as things are added; cut to size at the end."""

    def __init__(self, width: int, ground: Colour = WHITE) -> None:
        self.width, self.ground, self.y = width, ground, 0
        self.image = Image.new("RGB", (width, 1024), ground)
        self.draw = ImageDraw.Draw(self.image)

    def need(self, height: int) -> None:
        """Make room for so many pixels more."""
        if self.y + height > self.image.height:
            taller = Image.new("RGB", (self.width, 2 * (self.y + height)), self.ground)
            taller.paste(self.image)
            self.image, self.draw = taller, ImageDraw.Draw(taller)

    def text(
        self,
        lines: Sequence[str],
        size: int = TEXT,
        fill: Colour = INK,
        bold: bool = False,
        most: int | None = None,
        left: int = 0,
        tail: bool = False,
    ) -> None:
        """Wrapped lines; of more than `most`, the first or (tail) the last ones."""
        shape = font(size, bold)
        wrapped = [part for line in lines for part in wrap(line, shape, self.width - left)]
        if most is not None and len(wrapped) > most:
            kept = wrapped[-most + 1 :] if tail else wrapped[: most - 1]
            wrapped = ["…", *kept] if tail else [*kept, "…"]
        step = round(size * 1.4)
        self.need(step * len(wrapped))
        for part in wrapped:
            self.draw.text((left, self.y), part, fill=fill, font=shape)
            self.y += step

    def picture(self, pixels: NDArray[np.uint8]) -> None:
        """A picture over the whole width, framed by a fine line."""
        height = round(pixels.shape[0] * self.width / pixels.shape[1])
        self.need(height)
        shown = Image.fromarray(pixels).resize((self.width, height), Image.Resampling.LANCZOS)
        self.image.paste(shown, (0, self.y))
        box = (0, self.y, self.width - 1, self.y + height - 1)
        self.draw.rectangle(box, outline=LINE)
        self.y += height

    def paste(self, other: Image.Image, x: int, y: int) -> None:
        """Another image at a place, made room for."""
        self.need(max(y + other.height - self.y, 0))
        self.image.paste(other, (x, y))

    def cut(self) -> Image.Image:
        """What was drawn."""
        return self.image.crop((0, 0, self.width, max(self.y, 1)))


def wrap(line: str, shape: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A line in parts that fit a width; words longer than that are broken."""
    plain = "".join(c if c.isprintable() else " " for c in line)  # the rest cannot be drawn
    parts, rest = [], plain.rstrip()
    while rest and shape.getlength(rest[:width]) > width:  # a letter takes a pixel at least
        ends = range(1, min(len(rest), width))
        fits = bisect_right(ends, 0, key=lambda end: int(shape.getlength(rest[:end]) > width)) or 1
        space = rest.rfind(" ", 1, fits + 1)
        at = space if space > 0 else fits
        parts.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [*parts, rest]


def draw_sheet(env_id: str, settings: str, episodes: Sequence[Episode]) -> Image.Image:
    """The contact sheet; width follows the tiles of a row, height the episodes."""
    single = one_trial_each(episodes)
    columns = min(len(episodes), 4) if single else 6
    columns = max(columns, 3)
    width = columns * (TILE + GAP) - GAP
    sheet = Block(width)
    sheet.text([env_id], TITLE, bold=True)
    sheet.text([settings or "default settings"], HEADING, FAINT)
    sheet.y += GAP
    _put_prompt(sheet, episodes[0].trials[0].prompt)
    known = common_lines(episodes)
    if single:
        tiles = [_tile(f"seed {e.seed}", e.told, e.trials[0], known) for e in episodes]
        _flow(sheet, tiles, columns)
    else:
        for episode in episodes:
            _put_episode(sheet, episode, columns, known)
    drawn = sheet.cut()
    framed = Image.new("RGB", (width + 2 * MARGIN, drawn.height + 2 * MARGIN), WHITE)
    framed.paste(drawn, (MARGIN, MARGIN))
    return framed


def _put_prompt(sheet: Block, prompt: str) -> None:
    """The first prompt in full, in two columns on a tinted ground."""
    inner = (sheet.width - 3 * GAP) // 2
    lines = prompt.strip().splitlines()
    shape = font(TEXT)
    wrapped = [part for line in lines for part in wrap(line, shape, inner)]
    half = len(wrapped) if len(wrapped) <= 4 else -(-len(wrapped) // 2)
    step = round(TEXT * 1.4)
    height = half * step + 2 * GAP
    sheet.need(height + GAP)
    sheet.draw.rounded_rectangle((0, sheet.y, sheet.width - 1, sheet.y + height), 8, fill=SOFT)
    for number, part in enumerate(wrapped):
        x = GAP + (number // half) * (inner + GAP)
        y = sheet.y + GAP + (number % half) * step
        sheet.draw.text((x, y), part, fill=INK, font=shape)
    sheet.y += height + GAP + 8


def _put_episode(sheet: Block, episode: Episode, columns: int, known: set[str]) -> None:
    """A heading, the overview at the left, the trials' tiles around it."""
    sheet.need(64)
    sheet.draw.line((0, sheet.y, sheet.width, sheet.y), fill=LINE, width=2)
    sheet.y += 14
    score = f"{episode.end}, total {episode.total:+g}"
    sheet.text([f"seed {episode.seed} · {episode.told} · {score}"], HEADING, bold=True)
    sheet.y += 10
    top, left = sheet.y, None
    if episode.overview is not None:
        left = Block(2 * TILE + GAP)
        left.picture(episode.overview)
        left.y += 10
        left.text(new_lines(episode.trials[0].prompt, known), TEXT, INK, most=14)
        sheet.paste(left.cut(), 0, top)
    known = known | (set(episode.trials[0].prompt.splitlines()) if left else set())
    tiles = []
    for number, trial in enumerate(episode.trials, start=1):
        tiles.append(_tile(str(number), "", trial, known))
        known = known | set(trial.prompt.splitlines())
    _flow(sheet, tiles, columns, top + left.y + GAP if left else 0)


def _flow(sheet: Block, tiles: list[Image.Image], columns: int, free: int = 0) -> None:
    """Tiles row by row; above the height `free` the first two columns are taken."""
    tiles = list(tiles)
    while tiles:
        first = 2 if sheet.y < free else 0
        row, tiles = tiles[: columns - first], tiles[columns - first :]
        height = max(tile.height for tile in row)
        sheet.need(height + GAP)
        for column, tile in enumerate(row, start=first):
            sheet.paste(tile, column * (TILE + GAP), sheet.y)
        sheet.y += height + GAP
    if sheet.y < free:
        sheet.need(free - sheet.y)
        sheet.y = free


def _tile(caption: str, told: str, trial: Trial, known: set[str]) -> Image.Image:
    """One trial: caption, picture, what is new in the prompt, answers with their grades."""
    tile = Block(TILE)
    tile.text([caption], TEXT, bold=True, most=1)
    if told:
        tile.text([told], SMALL, FAINT, most=2)
    tile.y += 4
    if trial.image is not None:
        tile.picture(trial.image)
        tile.y += 6
    tile.text(new_lines(trial.prompt, known), SMALL, FAINT, most=MOST_LINES, tail=True)
    for answer in trial.answers:
        tile.y += 6
        _put_answer(tile, answer)
    return tile.cut()


def _put_answer(tile: Block, answer: Answer) -> None:
    """The answer on a tinted ground, at its left the colour of its reward."""
    tone = GOOD if answer.reward > 0 else BAD if answer.reward < 0 else FAINT
    inner = Block(tile.width - 2 * PAD, SOFT)
    inner.text(readable(answer.text) or ["(nothing)"], SMALL, most=MOST_LINES)
    inner.y += 4
    inner.draw.text((0, inner.y), answer.verdict, fill=tone, font=font(TEXT, True))
    words = f"{answer.reward:+g}"
    inner.draw.text((inner.width, inner.y), words, fill=tone, font=font(TEXT, True), anchor="ra")
    inner.y += round(TEXT * 1.4)
    if answer.by != "expert":
        inner.text([f"{answer.by}: {answer.said}"], SMALL, FAINT, most=3)
    drawn = inner.cut()
    height = drawn.height + PAD
    tile.need(height)
    tile.draw.rectangle((0, tile.y, tile.width - 1, tile.y + height), fill=SOFT)
    tile.draw.rectangle((0, tile.y, 3, tile.y + height), fill=tone)
    tile.image.paste(drawn, (PAD, tile.y + PAD // 2))
    tile.y += height + 1
