"""Textures and sprites: each kind draws, fits its size, and is the same when drawn again."""

import numpy as np
import pytest

from envs.virl.city.graph import build_city
from envs.virl.city.style import STYLES
from envs.virl.drawing.brush import LEVELS, Brush, area_texture, pack, texture
from envs.virl.drawing.fronts import GROUND_M, draw_front, draw_shop
from envs.virl.drawing.furniture import draw_furniture
from envs.virl.drawing.ground import ground_patch
from envs.virl.drawing.sprites import VEHICLES, draw_person, draw_tree, draw_vehicle
from envs.virl.settings import CITIES


def rng():
    return np.random.default_rng(5)


def opaque(brush: Brush) -> float:
    return float((np.asarray(brush.image)[..., 3] > 0).mean())


@pytest.mark.parametrize("name", CITIES)
def test_every_city_has_its_own_kinds_of_things(name) -> None:
    style = STYLES[name]
    assert set(style.vehicles) <= set(VEHICLES)
    front = draw_front(style, rng(), 12.0, 8)
    assert style.heights[0] - style.floor <= front.height <= style.heights[1] + style.floor + 4
    assert opaque(front) > 0.8
    assert np.array_equal(front.image, draw_front(style, rng(), 12.0, 8).image)
    for kind in style.furniture:
        assert opaque(draw_furniture(kind, rng(), 16)) > 0.02


def test_sprites_stand_on_the_ground() -> None:
    brushes = [draw_tree(kind, rng(), 16) for kind in sorted({s.tree for s in STYLES.values()})]
    brushes += [draw_vehicle(kind, rng(), 16, end) for kind in VEHICLES for end in (False, True)]
    brushes.append(draw_person(rng(), 16))
    for brush in brushes:
        alpha = np.asarray(brush.image)[..., 3]
        assert alpha[-2:].any(), "nothing touches the ground"
        assert 0.05 < opaque(brush) < 1.0


@pytest.mark.parametrize("name", CITIES)
def test_a_shop_is_a_ground_floor_of_its_own(name) -> None:
    first, other = (draw_shop(STYLES[name], rng(), 12.0, 16, sign) for sign in ("TEA", "GLASS"))
    assert first.height == GROUND_M
    changed = np.argwhere((np.asarray(first.image) != np.asarray(other.image)).any(2))
    assert len(changed) > 40  # the fascia, and nothing else
    heights = GROUND_M - changed[:, 0] / 16
    assert 2.85 < heights.min() < heights.max() < 3.75
    assert not np.asarray(first.image)[:2, :, 3].any()  # the wall shows above it


def test_text_fills_its_box_and_keeps_its_shape_at_any_fineness() -> None:
    def letters(text: str, ppm: float):
        brush = Brush(10.0, 4.0, ppm, fill=(0, 0, 0))
        brush.text((5.0, 2.0), (8.0, 2.0), text, (255, 255, 255), weight=0.03)
        ink = np.argwhere(np.asarray(brush.image)[..., 0] > 100) / ppm
        return ink.min(0), ink.max(0)

    for ppm in (16, 32):
        low, high = letters("PHARMACY", ppm)  # as wide as the box, up to half as tall again
        assert low[1] == pytest.approx(1.0, abs=0.2)
        assert high[1] == pytest.approx(9.0, abs=0.2)
        assert 1.5 < high[0] - low[0] <= 2.0
        low, high = letters("CAFE", ppm)  # as tall as the box, in the middle
        assert low[0] == pytest.approx(1.0, abs=0.15)
        assert high[0] == pytest.approx(3.0, abs=0.15)
        assert low[1] + high[1] == pytest.approx(10.0, abs=0.3)


def test_area_textures_give_the_mean_of_what_they_cover() -> None:
    generator = np.random.default_rng(3)
    brush = Brush(4.0, 2.0, 8)
    for _ in range(60):
        x, z = generator.uniform(0, 4), generator.uniform(0, 2)
        colour = tuple(int(c) for c in generator.integers(0, 256, 3))
        brush.ellipse(float(x), float(z), 0.3, 0.3, colour)
    made = area_texture(brush)
    rgba = np.asarray(brush.image)[::-1].astype(float)  # rows from the ground up
    rgba[..., :3] *= rgba[..., 3:] / 255
    for left, right, lower, upper in ((0, 32, 0, 16), (3, 9, 2, 11), (31, 32, 15, 16)):
        across = np.array([left / 32]), np.array([right / 32])
        mean = made.mean(*across, np.array([[lower / 16]]), np.array([[upper / 16]]))[0, 0]
        assert np.abs(mean - rgba[lower:upper, left:right].mean((0, 1))).max() < 1.0
    half_outside = made.mean(*(np.array(v) for v in ([-0.5], [0.5], [[0.0]], [[1.0]])))
    inside = made.mean(*(np.array(v) for v in ([0.0], [0.5], [[0.0]], [[1.0]])))
    assert np.allclose(half_outside * 2, inside)
    thin = made.mean(*(np.array(v) for v in ([0.1], [0.1001], [[0.5]], [[0.5001]])))
    assert np.isfinite(thin).all()


def test_textures_keep_their_size_and_get_hazier() -> None:
    brush = Brush(4.0, 8.0, 16, fill=(200, 20, 20))
    made = texture(brush, (0, 0, 255))
    assert len(made.levels) == LEVELS
    assert made.levels[0].shape == (64, 128)
    blues = [int((level >> 16 & 255).mean()) for level in made.levels]
    assert blues == sorted(blues)
    assert blues[-1] > blues[0]
    assert pack(Brush(1, 1, 4).image).max() == 0  # transparent is 0


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
