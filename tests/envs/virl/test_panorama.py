"""Perspective views against an independent projection, layouts, and the bounded store."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.virl.panorama import (
    GAP,
    LAYOUTS,
    Panorama,
    PanoramaStore,
    four_views,
    panorama_width,
    view,
    yaw,
)

WIDTH = 720


def heading_ramp(rotation: float) -> Panorama:
    """Each pixel holds its heading in the low byte pair (half degrees), its row above."""
    columns = np.arange(WIDTH)
    heading = ((columns + 0.5) / WIDTH * 360 - rotation) % 360
    value = (heading / 360 * 255).astype(np.uint32)
    return Panorama(np.broadcast_to(value, (WIDTH // 2, WIDTH)).copy(), rotation)


def test_yaw_is_the_specified_formula() -> None:
    assert yaw(10, 0) == 190.0
    assert yaw(200, 350) == 10.0
    assert yaw(0, 180) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 359.99), st.floats(0, 359.99))
def test_each_pixel_of_a_view_shows_its_direction(heading, rotation) -> None:
    size = 32
    seen = view(heading_ramp(rotation), heading, size) & 255
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    expected = (heading + np.degrees(np.arctan(axis))) % 360 / 360 * 255
    error = np.abs((seen[size // 2].astype(float) - expected + 127.5) % 255 - 127.5)
    # Where the ramp jumps from 255 to 0, two columns are blended.
    assert (error < 1.6).mean() > 0.93


def test_the_horizon_is_in_the_middle_and_up_is_up() -> None:
    pixels = np.zeros((360, 720), np.uint32)
    pixels[:180] = 255
    seen = view(Panorama(pixels, 0.0), 77, 64)
    assert (seen[:31] == 255).all()
    assert (seen[33:] == 0).all()
    assert (seen[:2, 32] == 255).all()


def test_layouts_place_four_views_with_black_gaps() -> None:
    for layout, offsets in LAYOUTS.items():
        grid = four_views(heading_ramp(0.0), 100, 20, layout)
        assert grid.shape == (45, 45, 3)
        assert grid.dtype == np.uint8
        assert not grid[20 : 20 + GAP].any()
        assert not grid[:, 20 : 20 + GAP].any()
        for i, offset in enumerate(offsets):
            middle = grid[(i // 2) * 25 + 10, (i % 2) * 25 + 10, 0]
            assert abs(middle / 255 * 360 - (100 + offset) % 360) < 5
    # Front, right / back, left; the released code looked between them.
    assert LAYOUTS["cardinal"] == (0.0, 90.0, 180.0, -90.0)
    assert LAYOUTS["legacy"] == (-135.0, -45.0, 45.0, 135.0)


def test_panoramas_are_fine_enough_for_their_views() -> None:
    widths = [panorama_width(size) for size in (16, 64, 128, 224, 640)]
    assert widths == [256, 256, 512, 1024, 2048]


def test_store_keeps_its_bound_and_makes_each_once_while_held() -> None:
    made = []

    def make(key):
        made.append(key)
        return Panorama(np.zeros((64, 128), np.uint32), 0.0)

    size = 64 * 128 * 4
    store = PanoramaStore(10 * size)
    for key in [*range(50), *range(40, 50)]:
        store.get(key, lambda key=key: make(key))
        assert store.held_bytes <= 10 * size
    assert made == list(range(50))
    assert len(store) == 10
    store.get(3, lambda: make(3))
    assert made[-1] == 3


def test_store_is_shared_by_threads() -> None:
    size = 64 * 128 * 4
    store = PanoramaStore(4 * size)
    faults = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for key in rng.integers(0, 12, 200):
            got = store.get(
                int(key), lambda key=key: Panorama(np.full((64, 128), key, np.uint32), 0.0)
            )
            if got.pixels[0, 0] != key:
                faults.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert not faults
    assert store.held_bytes <= 4 * size == store.bound_bytes


@pytest.mark.slow
def test_the_store_stays_within_its_bound_over_1000_routes() -> None:
    from envs.virl.env import VIRL

    env = VIRL(modality="vision", image_size=16, prompt_style="brief", cache_mib=2)
    for seed in range(1000):
        env.reset(seed=seed)
        while env.position < len(env.rail) - 1:
            env.step(env.expert())
        assert env.world.store.held_bytes <= 2 * 2**20
