"""The map of an episode: every point and landmark is on it, in any world."""

from itertools import combinations

import numpy as np
import pytest

from envs.virl.env import VIRL
from envs.virl.export import export
from envs.virl.labels import covered
from envs.virl.map import PIN, RAIL, START, STOP, draw_map, draw_sheet


@pytest.mark.parametrize("city", ["New York", "London"])
def test_map_shows_rail_and_landmarks(city, tmp_path) -> None:
    env = VIRL(city=city)
    for seed in range(3):
        env.reset(seed=seed)
        image = draw_map(env.world, env.route, env.rail, 320)
        assert image.size == (320, 320)
        pixels = np.asarray(image).reshape(-1, 3).astype(int)
        for colour in (RAIL, START, STOP, PIN):
            assert (np.abs(pixels - colour).max(1) < 40).sum() > 8, colour


@pytest.mark.parametrize("city", ["New York", "Lagos"])
def test_no_label_lies_on_another_or_over_the_edge(city) -> None:
    env = VIRL(city=city)
    for seed in range(15):
        env.reset(seed=seed)
        sheet = draw_sheet(env.world, env.route, env.rail, 320)
        texts = [text for text, *_ in sheet.labels]
        assert {"N", *(mark.name for mark in env.route.landmarks)} <= set(texts)
        whole = (0, 0, sheet.side, sheet.side)
        for box in sheet.boxes:
            width, height = box[2] - box[0], box[3] - box[1]
            assert covered(box, whole) == pytest.approx(width * height), (seed, texts)
        for one, other in combinations(sheet.boxes, 2):
            assert not covered(one, other), (seed, texts)


def test_map_of_a_data_set_needs_no_streets(tmp_path) -> None:
    env = VIRL()
    export(env.world, [5], tmp_path)
    loaded = VIRL(world=str(tmp_path))
    loaded.reset(seed=0)
    assert draw_map(loaded.world, loaded.route, loaded.rail, 200).size == (200, 200)
