"""Textures and sprites: each kind draws, fits its size, and is the same when drawn again."""

import numpy as np
import pytest

from envs.virl.city.graph import build_city
from envs.virl.city.style import STYLES
from envs.virl.drawing.brush import LEVELS, Brush, pack, texture
from envs.virl.drawing.fronts import draw_front
from envs.virl.drawing.furniture import draw_furniture
from envs.virl.drawing.ground import ground_patch
from envs.virl.drawing.look import FRONTS, make_look
from envs.virl.drawing.scene import CLEAR_OF_CROSSING_M, make_scene
from envs.virl.drawing.signs import BOARD_M, draw_board
from envs.virl.drawing.sprites import TREES, VEHICLES, draw_person, draw_tree, draw_vehicle
from envs.virl.settings import CITIES


def rng():
    return np.random.default_rng(5)


def opaque(brush: Brush) -> float:
    return float((np.asarray(brush.image)[..., 3] > 0).mean())


@pytest.mark.parametrize("name", CITIES)
def test_every_city_has_its_own_kinds_of_things(name) -> None:
    style = STYLES[name]
    assert style.tree in TREES
    assert set(style.vehicles) <= set(VEHICLES)
    front = draw_front(style, rng(), 12.0, 8)
    assert style.heights[0] - style.floor <= front.height <= style.heights[1] + style.floor + 4
    assert opaque(front) > 0.8
    assert np.array_equal(front.image, draw_front(style, rng(), 12.0, 8).image)
    for kind in style.furniture:
        assert opaque(draw_furniture(kind, rng(), 16)) > 0.02


def test_sprites_stand_on_the_ground() -> None:
    brushes = [draw_tree(kind, rng(), 16) for kind in TREES]
    brushes += [draw_vehicle(kind, rng(), 16, end) for kind in VEHICLES for end in (False, True)]
    brushes.append(draw_person(rng(), 16))
    for brush in brushes:
        alpha = np.asarray(brush.image)[..., 3]
        assert alpha[-2:].any(), "nothing touches the ground"
        assert 0.05 < opaque(brush) < 1.0


def test_boards_carry_their_name_large() -> None:
    board = draw_board("Golden Bakery", 7.0, False, 16)
    other = draw_board("Golden Diner", 7.0, False, 16)
    assert np.array_equal(board.image, draw_board("Golden Bakery", 7.0, False, 16).image)
    assert not np.array_equal(board.image, other.image)
    sign = np.asarray(board.image)[: int((BOARD_M[1] - BOARD_M[0]) * 16), :, :3].reshape(-1, 3)
    colours, counts = np.unique(sign, axis=0, return_counts=True)
    ground, ink = colours[np.argsort(counts)[::-1][:2]].astype(int)
    assert np.abs(ground - ink).max() > 100  # high contrast
    assert counts.max() / len(sign) < 0.85  # letters take a good part


def test_textures_keep_their_size_and_get_hazier() -> None:
    brush = Brush(4.0, 8.0, 16, fill=(200, 20, 20))
    made = texture(brush, (0, 0, 255))
    assert len(made.levels) == LEVELS
    assert made.levels[0].shape == (64, 128)
    blues = [int((level >> 16 & 255).mean()) for level in made.levels]
    assert blues == sorted(blues)
    assert blues[-1] > blues[0]
    assert pack(Brush(1, 1, 4).image).max() == 0  # transparent is 0


def test_scene_keeps_crossings_and_signs_clear() -> None:
    city = build_city("Lagos", "test")
    scene = make_scene(city, make_look("Lagos", 8.0))
    assert scene.fronts.max() < 2 * (FRONTS + scene.look.fronts.corners)
    assert len(scene.fronts) == scene.lots.sum()
    trees = {id(side) for side, _ in scene.look.sprites["tree"]}
    spots = np.array([(p.x, p.y) for p in scene.props if id(p.side) in trees])
    for node in city.plan.nodes:
        assert np.hypot(*(spots - node).T).min() > CLEAR_OF_CROSSING_M * 0.8
    assert len(scene.props) > 1000


def test_ground_shows_road_under_the_viewer_and_pavement_beside() -> None:
    city = build_city("London", "test")
    x, y = city.projection.metres(city.stops[0][2].place)
    patch = ground_patch(city, x, y, 8)
    colours = patch.view(np.uint8).reshape(*patch.shape, 4)[..., :3].astype(int)
    left = city.on_street(0, city.stops[0][2].along + 1.0, city.plan.streets[0].half_width - 1.5)
    row, column = (patch.shape[0] / 2 - (left[1] - y) * 8, patch.shape[1] / 2 + (left[0] - x) * 8)
    there = colours[int(row) - 4 : int(row) + 4, int(column) - 4 : int(column) + 4].mean((0, 1))
    assert np.abs(there - STYLES["London"].pavement).max() < 26
    middle = city.on_street(0, city.stops[0][2].along, 2.5)
    row, column = (
        patch.shape[0] / 2 - (middle[1] - y) * 8,
        patch.shape[1] / 2 + (middle[0] - x) * 8,
    )
    assert np.abs(colours[int(row), int(column)] - STYLES["London"].road).max() < 20
