"""A gallery's contact sheet: recorded episodes as one RGB Pillow image, fit for print.

At the top is the first prompt in full; each tile shows what is new in its own prompt. Tiles
fill rows; an episode's overview is at the left, two tiles wide.
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
    EpisodeRecord,
    GradedAnswer,
    PromptRecord,
    common_lines,
    new_lines,
    one_prompt_each,
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
MAX_LINES = 7  # of one text in a tile


@functools.lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has most characters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


class Strip:
    """An image of fixed width that grows downwards as texts and pictures are added.

    y: height that is used so far, pixels.
    """

    def __init__(self, width: int, background: Colour = WHITE) -> None:
        self.width, self.background, self.y = width, background, 0
        self.image = Image.new("RGB", (width, 1024), background)
        self.draw = ImageDraw.Draw(self.image)

    def reserve(self, height: int) -> None:
        """Make space for so many more rows of pixels."""
        if self.y + height > self.image.height:
            taller = Image.new("RGB", (self.width, 2 * (self.y + height)), self.background)
            taller.paste(self.image)
            self.image, self.draw = taller, ImageDraw.Draw(taller)

    def text(
        self,
        lines: Sequence[str],
        size: int = TEXT,
        fill: Colour = INK,
        bold: bool = False,
        max_lines: int | None = None,
        left: int = 0,
        tail: bool = False,
    ) -> None:
        """Draw wrapped lines; of more than `max_lines`, the first or (tail) the last ones."""
        face = font(size, bold)
        wrapped = [part for line in lines for part in wrap(line, face, self.width - left)]
        if max_lines is not None and len(wrapped) > max_lines:
            kept = wrapped[-max_lines + 1 :] if tail else wrapped[: max_lines - 1]
            wrapped = ["…", *kept] if tail else [*kept, "…"]
        step = round(size * 1.4)
        self.reserve(step * len(wrapped))
        for part in wrapped:
            self.draw.text((left, self.y), part, fill=fill, font=face)
            self.y += step

    def picture(self, pixels: NDArray[np.uint8]) -> None:
        """Draw a picture over the whole width, in a frame of one pixel."""
        height = round(pixels.shape[0] * self.width / pixels.shape[1])
        self.reserve(height)
        resized = Image.fromarray(pixels).resize((self.width, height), Image.Resampling.LANCZOS)
        self.image.paste(resized, (0, self.y))
        box = (0, self.y, self.width - 1, self.y + height - 1)
        self.draw.rectangle(box, outline=LINE)
        self.y += height

    def paste(self, other: Image.Image, x: int, y: int) -> None:
        """Draw another image at a place."""
        self.reserve(max(y + other.height - self.y, 0))
        self.image.paste(other, (x, y))

    def crop(self) -> Image.Image:
        """The image without the rows that are not used."""
        return self.image.crop((0, 0, self.width, max(self.y, 1)))


def wrap(line: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A line in parts that fit a width; longer words are broken."""
    plain = "".join(c if c.isprintable() else " " for c in line)  # others cannot be drawn
    parts, left = [], plain.rstrip()
    while left and face.getlength(left[:width]) > width:  # a letter takes a pixel at least
        ends = range(1, min(len(left), width))
        fits = bisect_right(ends, 0, key=lambda end: int(face.getlength(left[:end]) > width)) or 1
        space = left.rfind(" ", 1, fits + 1)
        at = space if space > 0 else fits
        parts.append(left[:at].rstrip())
        left = left[at:].lstrip()
    return [*parts, left]


def draw_sheet(env_id: str, settings: str, episodes: Sequence[EpisodeRecord]) -> Image.Image:
    """The contact sheet; its height depends on the episodes."""
    single = one_prompt_each(episodes)
    columns = min(len(episodes), 4) if single else 6
    columns = max(columns, 3)
    width = columns * (TILE + GAP) - GAP
    sheet = Strip(width)
    sheet.text([env_id], TITLE, bold=True)
    sheet.text([settings or "default settings"], HEADING, FAINT)
    sheet.y += GAP
    _put_prompt(sheet, episodes[0].prompts[0].text)
    known = common_lines(episodes)
    if single:
        tiles = [_tile(f"seed {e.seed}", e.facts_line, e.prompts[0], known) for e in episodes]
        _put_tiles(sheet, tiles, columns)
    else:
        for episode in episodes:
            _put_episode(sheet, episode, columns, known)
    drawn = sheet.crop()
    framed = Image.new("RGB", (width + 2 * MARGIN, drawn.height + 2 * MARGIN), WHITE)
    framed.paste(drawn, (MARGIN, MARGIN))
    return framed


def _put_prompt(sheet: Strip, prompt: str) -> None:
    """The first prompt in full, in two columns on a tinted background."""
    inner = (sheet.width - 3 * GAP) // 2
    lines = prompt.strip().splitlines()
    face = font(TEXT)
    wrapped = [part for line in lines for part in wrap(line, face, inner)]
    half = len(wrapped) if len(wrapped) <= 4 else -(-len(wrapped) // 2)
    step = round(TEXT * 1.4)
    height = half * step + 2 * GAP
    sheet.reserve(height + GAP)
    sheet.draw.rounded_rectangle((0, sheet.y, sheet.width - 1, sheet.y + height), 8, fill=SOFT)
    for number, part in enumerate(wrapped):
        x = GAP + (number // half) * (inner + GAP)
        y = sheet.y + GAP + (number % half) * step
        sheet.draw.text((x, y), part, fill=INK, font=face)
    sheet.y += height + GAP + 8


def _put_episode(sheet: Strip, episode: EpisodeRecord, columns: int, known: set[str]) -> None:
    """A heading, the overview at the left, the tiles of the prompts around it."""
    sheet.reserve(64)
    sheet.draw.line((0, sheet.y, sheet.width, sheet.y), fill=LINE, width=2)
    sheet.y += 14
    score = f"{episode.end}, total {episode.total:+g}"
    sheet.text([f"seed {episode.seed} · {episode.facts_line} · {score}"], HEADING, bold=True)
    sheet.y += 10
    top, left = sheet.y, None
    if episode.overview is not None:
        left = Strip(2 * TILE + GAP)
        left.picture(episode.overview)
        left.y += 10
        left.text(new_lines(episode.prompts[0].text, known), TEXT, INK, max_lines=14)
        sheet.paste(left.crop(), 0, top)
    known = known | (set(episode.prompts[0].text.splitlines()) if left else set())
    tiles = []
    for number, prompt in enumerate(episode.prompts, start=1):
        tiles.append(_tile(str(number), "", prompt, known))
        known = known | set(prompt.text.splitlines())
    _put_tiles(sheet, tiles, columns, top + left.y + GAP if left else 0)


def _put_tiles(sheet: Strip, tiles: list[Image.Image], columns: int, free: int = 0) -> None:
    """Tiles in rows; above the height `free` the overview fills the first two columns."""
    tiles = list(tiles)
    while tiles:
        first = 2 if sheet.y < free else 0
        row, tiles = tiles[: columns - first], tiles[columns - first :]
        height = max(tile.height for tile in row)
        sheet.reserve(height + GAP)
        for column, tile in enumerate(row, start=first):
            sheet.paste(tile, column * (TILE + GAP), sheet.y)
        sheet.y += height + GAP
    if sheet.y < free:
        sheet.reserve(free - sheet.y)
        sheet.y = free


def _tile(caption: str, facts: str, prompt: PromptRecord, known: set[str]) -> Image.Image:
    """One prompt: caption, picture, its new lines, the answers with their grades."""
    tile = Strip(TILE)
    tile.text([caption], TEXT, bold=True, max_lines=1)
    if facts:
        tile.text([facts], SMALL, FAINT, max_lines=2)
    tile.y += 4
    if prompt.image is not None:
        tile.picture(prompt.image)
        tile.y += 6
    tile.text(new_lines(prompt.text, known), SMALL, FAINT, max_lines=MAX_LINES, tail=True)
    for answer in prompt.answers:
        tile.y += 6
        _put_answer(tile, answer)
    return tile.crop()


def _put_answer(tile: Strip, answer: GradedAnswer) -> None:
    """The answer on a tinted background, with the colour of its reward at the left."""
    tone = GOOD if answer.reward > 0 else BAD if answer.reward < 0 else FAINT
    inner = Strip(tile.width - 2 * PAD, SOFT)
    inner.text(readable(answer.text) or ["(nothing)"], SMALL, max_lines=MAX_LINES)
    inner.y += 4
    inner.draw.text((0, inner.y), answer.verdict, fill=tone, font=font(TEXT, True))
    reward = f"{answer.reward:+g}"
    inner.draw.text((inner.width, inner.y), reward, fill=tone, font=font(TEXT, True), anchor="ra")
    inner.y += round(TEXT * 1.4)
    if answer.author != "expert":
        inner.text([f"{answer.author}: {answer.message}"], SMALL, FAINT, max_lines=3)
    drawn = inner.crop()
    height = drawn.height + PAD
    tile.reserve(height)
    tile.draw.rectangle((0, tile.y, tile.width - 1, tile.y + height), fill=SOFT)
    tile.draw.rectangle((0, tile.y, 3, tile.y + height), fill=tone)
    tile.image.paste(drawn, (PAD, tile.y + PAD // 2))
    tile.y += height + 1
