"""Scenes: lots filled with fronts and shops, no shop twice in view of one point."""

import numpy as np
import pytest

from envs.virl.city.graph import SPLITS, build_city
from envs.virl.drawing.look import FRONTS, make_look
from envs.virl.drawing.scene import SHOP_VIEW_M, make_scene
from envs.virl.names import KINDS, WORDS, shop_signs
from envs.virl.settings import CITIES
from tests.support.slow import fast

CASES = [(name, split) for name in CITIES for split in SPLITS]
FEW = CASES[3::5]  # of both splits


def lots(scene):
    """Middles of all lots [L, 2], and the number of each one's shop sign, -1 for none."""
    shares = np.concatenate([(np.arange(n) + 0.5) / n for n in scene.lots])
    wall = np.repeat(np.arange(len(scene.lots)), scene.lots)
    signs = np.where(scene.shops < 0, -1, scene.shops % scene.look.shops.count)
    return scene.begin[wall] + shares[:, None] * scene.edge[wall], signs


@pytest.mark.parametrize(("name", "split"), fast(FEW, CASES))
def test_no_point_has_two_shops_of_one_name_in_view(name, split) -> None:
    city = build_city(name, split)
    scene = make_scene(city, make_look(name, 4.0))
    middles, signs = lots(scene)
    for place in city.rotations:
        away = np.hypot(*(middles - city.projection.metres(place)).T)
        near = signs[(away < SHOP_VIEW_M) & (signs >= 0)]
        assert len(near) == len(set(near)), place
    assert (
        0.4
        < (signs[np.repeat([w.street >= 0 for w in city.plan.walls], scene.lots)] >= 0).mean()
        < 0.7
    )
    assert set(signs) == {-1, *range(len(shop_signs(name)))}


@pytest.mark.parametrize("name", CITIES)
def test_shop_signs_are_no_landmarks(name) -> None:
    words = shop_signs(name)
    assert len(words) == len(set(words)) == 48
    assert not set(words) & {w.upper() for w in (*WORDS, *KINDS)}
    assert all(w.isascii() and w.isupper() and len(w) <= 9 for w in words)


def test_shaded_walls_have_shaded_fronts_and_shops() -> None:
    city = build_city("London", "test")
    scene = make_scene(city, make_look("London", 4.0))
    count, shops = scene.look.fronts.count, scene.look.shops.count
    assert scene.fronts.max() < 2 * count
    assert len(scene.fronts) == len(scene.shops) == scene.lots.sum()
    shaded = scene.fronts >= count
    has_shop = scene.shops >= 0
    assert ((scene.shops >= shops) == shaded)[has_shop].all()
    assert 0.2 < shaded.mean() < 0.8
    corner = np.repeat([w.street < 0 for w in city.plan.walls], scene.lots)
    assert (scene.fronts % count >= FRONTS).tolist() == corner.tolist()
    assert not has_shop[corner].any()
