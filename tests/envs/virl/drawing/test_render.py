"""Rendered pictures: landmarks stand where their bearing says, in the right view, unhidden."""

from dataclasses import replace

import numpy as np
import pytest

from envs.virl.city.graph import build_city
from envs.virl.drawing.look import make_look
from envs.virl.drawing.render import render
from envs.virl.drawing.scene import make_scene
from envs.virl.geometry import bearing, wrap
from envs.virl.panorama import LAYOUTS, Panorama, four_views
from envs.virl.settings import CITIES

WIDTH, PPM = 512, 8.0


@pytest.fixture(scope="module")
def scene():
    return make_scene(build_city("Milan", "test"), make_look("Milan", PPM))


def landmark_points(city, routes):
    """(place, heading, landmark) of each key point with a landmark."""
    for index in routes:
        for leg in city.route(index).legs:
            if leg.landmark is not None:
                yield leg.end, leg.heading, leg.landmark


@pytest.mark.parametrize("name", CITIES)
def test_landmarks_of_100_routes_are_in_the_right_view_and_unhidden(name) -> None:
    city = build_city(name, "test")
    begin = np.array([w.begin for w in city.plan.walls])
    edge = np.array([w.end for w in city.plan.walls]) - begin
    signs = {s.landmark: s for s in city.signs}
    words = ("front", "right", "behind", "left")
    for place, heading, landmark in landmark_points(city, range(100)):
        off = wrap(bearing(place, landmark.place) - heading)
        view = words[round(off / 90) % 4]
        assert abs(wrap(off - 90 * words.index(view))) <= 31
        # Nothing but the sky stands between the viewer and the board's middle and near edges.
        sign, here = signs[landmark], np.array(city.projection.metres(place))
        right = np.array([-sign.facing[1], sign.facing[0]])
        for across in (-0.35, 0.0, 0.35):
            aim = np.array(sign.centre) + right * across * sign.width - here
            to = begin - here
            with np.errstate(divide="ignore", invalid="ignore"):
                cross = aim[0] * edge[:, 1] - aim[1] * edge[:, 0]
                t = (to[:, 0] * edge[:, 1] - to[:, 1] * edge[:, 0]) / cross
                s = (to[:, 0] * aim[1] - to[:, 1] * aim[0]) / cross
            assert not ((t > 0) & (t < 0.96) & (s >= 0) & (s <= 1)).any(), landmark.name


@pytest.mark.parametrize("rotation", [0.0, 123.0])
def test_a_sign_changes_pixels_around_its_bearing_only(scene, rotation) -> None:
    city = scene.city
    for place, heading, landmark in list(landmark_points(city, range(6))):
        keep = [i for i, s in enumerate(scene.signs) if s.landmark != landmark]
        without = replace(scene, signs=[scene.signs[i] for i in keep], sign_xy=scene.sign_xy[keep])
        shown, bare = (render(s, place, rotation, WIDTH) for s in (scene, without))
        columns = np.flatnonzero((shown != bare).any(0))
        headings = (columns + 0.5) / WIDTH * 360 - rotation
        off = [wrap(h - bearing(place, landmark.place)) for h in headings]
        assert len(columns) > 20
        assert abs(np.mean(off)) < 3
        assert max(map(abs, off)) < 36  # a board of 10 m, 7 m away
        # The same holds in the four views: only the right one changes.
        a, b = (
            four_views(Panorama(p, rotation), heading, 64, "cardinal").astype(int)
            for p in (shown, bare)
        )
        changed = (np.abs(a - b).max(2) > 0)[:64, :64], (np.abs(a - b).max(2) > 0)[:64, 69:]
        below = (np.abs(a - b).max(2) > 0)[69:, 69:], (np.abs(a - b).max(2) > 0)[69:, :64]
        counts = [int(c.sum()) for c in (*changed, below[1], below[0])]  # front right behind left
        side = round(wrap(bearing(place, landmark.place) - heading) / 90) % 4
        assert counts[side] > 40
        order = [0, 1, 2, 3]
        assert [LAYOUTS["cardinal"][i] for i in order] == [0.0, 90.0, 180.0, -90.0]
        assert sum(counts) == counts[side]


def test_turning_the_panorama_changes_nothing_that_a_viewer_sees(scene) -> None:
    place = scene.city.node_places[40]
    views = [
        four_views(Panorama(render(scene, place, rotation, WIDTH), rotation), 30, 48, "cardinal")
        for rotation in (0.0, 90.0, 225.0)
    ]
    for other in views[1:]:
        assert np.abs(views[0].astype(int) - other).mean() < 2.0


def test_rendering_is_exact_and_opaque(scene) -> None:
    place = scene.city.stops[3][2].place
    first, second = (render(scene, place, 10.0, WIDTH) for _ in range(2))
    assert (first == second).all()
    assert first.shape == (WIDTH // 2, WIDTH)
    assert ((first >> 24) == 255).all()


def test_cities_differ_at_a_glance() -> None:
    means = {}
    for name in ("New York", "Lagos"):
        city = build_city(name, "test")
        drawn = make_scene(city, make_look(name, PPM))
        pictures = [render(drawn, row[1].place, 0, 256) for row in city.stops[:12]]
        pixels = np.stack(pictures).view(np.uint8).reshape(-1, 4)[:, :3]
        means[name] = pixels.mean(0)
    lagos, york = means["Lagos"], means["New York"]
    assert lagos[0] - lagos[2] > york[0] - york[2] + 25  # Lagos is much warmer
