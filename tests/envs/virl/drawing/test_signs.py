"""Boards: each city has its own, all are of strong contrast, and are read at the shipped size."""

import numpy as np
import pytest

from configs.load import load
from envs.virl.city.boards import BOARDS
from envs.virl.city.graph import build_city
from envs.virl.drawing.brush import Brush
from envs.virl.drawing.signs import BOARD_M, FRAME_M, Mount, draw_board
from envs.virl.panorama import panorama_width
from envs.virl.settings import CITIES, Settings
from envs.virl.world import open_world
from tests.envs.virl.drawing.reader import (
    crop,
    inside,
    key_points,
    landmark_names,
    project,
    read,
    view_heading,
)
from tests.support.slow import fast

SHIPPED = load("virl_vl").env.settings["image_size"]
SPLITS = [("New York", "train"), *((name, "test") for name in CITIES)]
OTHERS = [name for name in CITIES if name != "New York"]


def board(name="Golden Bakery", city="New York", paint=0, mount=None, ppm=16.0):
    return draw_board(name, BOARDS[city], paint, mount or Mount(10.0, True), ppm)


def least_height(city, names, monkeypatch):
    """The least height of a line of letters as drawn on a city's boards, metres."""
    heights, draw_text = [], Brush.text

    def text(brush, *arguments):
        before = np.asarray(brush.image).copy()
        draw_text(brush, *arguments)
        rows = np.flatnonzero((np.asarray(brush.image) != before).any((1, 2)))
        heights.append((rows[-1] - rows[0] + 1) / brush.ppm)

    monkeypatch.setattr(Brush, "text", text)
    for name in names:
        board(name, city)
    assert len(heights) >= 2 * len(names)
    return min(heights)


def luminance(colour):
    linear = [c / 3294 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("city", CITIES)
def test_ink_and_ground_contrast_as_text_must(city) -> None:
    """4.5 to 1 is what the web's accessibility guidelines ask of text."""
    for ground, ink in BOARDS[city].paints:
        dark, light = sorted((luminance(ground), luminance(ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)


def test_no_two_cities_paint_alike() -> None:
    looks = [(s.face, s.upper, s.shape, s.frame, s.ornament) for s in BOARDS.values()]
    assert set(BOARDS) == set(CITIES)
    assert len(set(looks)) == len({s.face for s in BOARDS.values()}) == len(CITIES)
    assert all(len(s.paints) == len(set(s.paints)) >= 4 for s in BOARDS.values())
    paints = [paint for s in BOARDS.values() for paint in s.paints]
    assert len(paints) == len(set(paints))


@pytest.mark.parametrize("city", CITIES)
def test_a_board_is_the_same_when_drawn_again_and_says_its_name(city) -> None:
    first = np.asarray(board(city=city).image)
    assert np.array_equal(first, np.asarray(board(city=city).image))
    assert not np.array_equal(first, np.asarray(board("Golden Diner", city).image))
    assert not np.array_equal(first, np.asarray(board(city=city, paint=1).image))
    again = len(BOARDS[city].paints)
    assert np.array_equal(first, np.asarray(board(city=city, paint=again).image))


def test_a_post_stands_where_its_mount_says() -> None:
    for post, column in ((-3.8, 1.2), (0.0, 5.0), (3.8, 8.8), (99.0, 9.7)):
        image = np.asarray(board(mount=Mount(10.0, False, post)).image)
        foot = np.flatnonzero(image[-4, :, 3])
        assert abs(foot.mean() / 16 - column) < 0.1
        assert image[: int((BOARD_M[1] - BOARD_M[0]) * 16), :, 3].any()
    assert np.asarray(board().image)[-4, :, 3].all()  # a shop fills the ground floor


@pytest.mark.parametrize(("city", "split"), SPLITS)
def test_letters_are_tall_enough_at_the_shipped_size(city, split, monkeypatch) -> None:
    """Every board lies wholly in its view, and its lines of letters are 5.5 pixels tall or more."""
    streets = build_city(city, split)
    line_m = least_height(city, landmark_names(city)[::7], monkeypatch)
    pixels = []
    for place, heading, sign in key_points(streets, range(100)):
        ahead = view_heading(streets, place, heading, sign)
        x, y = project(streets, place, ahead, sign, SHIPPED, *inside(sign))
        assert 0 <= x.min() <= x.max() <= SHIPPED - 1
        assert 0 <= y.min() <= y.max() <= SHIPPED - 1
        inner = BOARD_M[1] - BOARD_M[0] - 2 * FRAME_M - 0.2
        pixels.append(line_m * (y[-1] - y[0]).min() / (inner * (1 - 1 / len(y))))
    assert min(pixels) >= 5.5


def share_read(city, split, routes, look=None):
    world = open_world(Settings(city=city, split=split, modality="vision"))
    streets, route = build_city(city, split), world.route(0)
    right = []
    for place, heading, sign in key_points(streets, range(routes)):
        panorama = world.panorama(route, place, SHIPPED)
        assert panorama.pixels.shape[1] == panorama_width(SHIPPED)
        picture = crop(streets, panorama, place, heading, sign, SHIPPED)
        right.append(read(city, sign.width, picture, look) == sign.landmark.name)
    return np.mean(right)


@pytest.mark.parametrize(("city", "split"), fast([SPLITS[0], SPLITS[2]], SPLITS))
def test_a_reader_tells_all_names_apart_at_the_shipped_size(city, split) -> None:
    """Of 512 names, the one on the board, from the pixels that an observation shows."""
    assert share_read(city, split, 6) >= 0.95


@pytest.mark.parametrize("city", fast(OTHERS[:2], OTHERS))
def test_a_reader_of_new_york_alone_reads_worse_elsewhere(city) -> None:
    """The visual change touches what must be read."""
    assert share_read(city, "test", 6, "New York") < 0.9
