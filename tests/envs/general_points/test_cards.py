"""Card pictures: places, colours, and that all ranks can be distinguished at every size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from envs.general_points import cards
from tests.support.effort import assert_turns
from tests.support.slow import fast


def test_layout_is_the_studys_at_1200():
    width, height, corners = cards.card_places(1200, 4)
    assert (width, height) == (270, 378)
    assert corners == [(5, 411), (302, 411), (599, 411), (896, 411)]


@pytest.mark.parametrize("size", [64, 128, 224, 333, 448, 1200])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_any_size_and_count_fits_the_table(size, count):
    image = cards.picture(tuple(range(1, count + 1)), (0,) * count, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert (image[0] == cards.TABLE).all()
    assert (image[:, -1] == cards.TABLE).all()
    _, height, corners = cards.card_places(size, count)
    for x, y in corners:
        assert image[int(y) + height // 2, int(x) + 2].min() > 150


def test_colours_follow_the_suit():
    for suit, red in enumerate((False, True, True, False)):
        tile = cards.card(7, suit, 270, 378, 5)[5:-5, 5:-5].astype(int)
        reddish = ((tile[..., 0] > 150) & (tile[..., 1] < 100)).sum()
        dark = (tile.max(-1) < 80).sum()
        assert (reddish > 2000) == red
        assert (dark > 2000) != red


def shape(rank: int, suit: int, width: int) -> np.ndarray:
    """Where a card has ink, brought to one size, [56, 40]; independent of the colour."""
    tile = cards.card(rank, suit, width, width * 7 // 5, 1)
    ink = 255 - tile[..., 1]
    small = Image.fromarray(ink).resize((40, 56), Image.Resampling.BOX)
    return np.asarray(small, dtype=float)


@pytest.mark.parametrize("width", fast([28, 50, 270], [28, 50, 80, 100, 270]))
def test_ranks_and_suits_are_told_apart_at_every_size(width):
    """Each of the 52 cards differs from each other one in a visible share of its area."""
    faces = {(r, s): shape(r, s, width) for r in range(1, 14) for s in range(4)}
    keys = list(faces)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            difference = np.abs(faces[a] - faces[b]) > 60
            assert difference.sum() >= (4 if a[0] == b[0] else 20), (a, b)


def test_pictures_repeat_exactly_and_leave_the_cache_alone():
    first = cards.picture((1, 2, 3, 4), (0, 1, 2, 3), 128)
    again = cards.picture((1, 2, 3, 4), (0, 1, 2, 3), 128)
    assert (first == again).all()
    first[:] = 0
    assert (cards.picture((1, 2, 3, 4), (0, 1, 2, 3), 128) == again).all()


def test_a_picture_of_cached_cards_takes_little_time():
    cards.picture((1, 2, 3, 4), (0, 1, 2, 3), 128)

    def draw():
        for _ in range(200):
            cards.picture((1, 2, 3, 4), (0, 1, 2, 3), 128)

    assert_turns(draw, 200 * 30_000)


def test_ranks_above_the_king_show_their_number():
    assert np.abs(shape(14, 0, 270) - shape(15, 0, 270)).max() > 60
