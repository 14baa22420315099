"""Released data sets: what is exported loads as the same episodes; what is damaged is named."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.base import EnvironmentFailure
from envs.virl.dataset import MAPPING, ROUTES, VIEWS, DatasetError, plain_text, read_milestones
from envs.virl.env import VIRL
from envs.virl.export import export, panorama_id
from envs.virl.settings import Settings
from envs.virl.world import open_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six benchmark routes, one in each of six cities, with pictures."""
    target = tmp_path_factory.mktemp("routes")
    count = export(open_world(Settings(city="benchmark")), range(6), target, image_size=32)
    assert count > 6 * 5
    return target


@pytest.fixture
def copy(folder, tmp_path):
    """A data set to damage."""
    return shutil.copytree(folder, tmp_path / "damaged")


def play(env, seed):
    """Messages, rewards and pictures of an episode with some wrong answers."""
    rng = np.random.default_rng(seed)
    shown, _ = env.reset(seed=seed)
    seen, done = [(shown["message"], 0.0)], False
    pictures = [shown.get("image")]
    while not done:
        text = env.expert() if rng.random() < 0.8 else "nonsense"
        shown, reward, terminated, truncated, info = env.step(text)
        seen.append((shown["message"], reward, info["verdict"]))
        pictures.append(shown.get("image"))
        done = terminated or truncated
    return seen, info["metrics"], pictures


def walk(env):
    """The expert's way to the end of the rail."""
    for _ in range(len(env.rail)):
        env.step(env.expert())


@pytest.mark.parametrize("preset", ["fixed", "paper_text", "paper_code"])
def test_export_and_load_give_the_same_episodes(folder, preset) -> None:
    made = VIRL(city="benchmark", routes=6, preset=preset)
    loaded = VIRL(world=str(folder), preset=preset)
    assert loaded.world.count == 6
    for seed in range(40):
        assert play(made, seed)[:2] == play(loaded, seed)[:2]


def test_exported_pictures_differ_by_no_more_than_jpeg(folder) -> None:
    options = {"modality": "vision", "image_size": 32, "prompt_style": "brief"}
    made, loaded = VIRL(city="benchmark", routes=6, **options), VIRL(world=str(folder), **options)
    for seed in range(6):
        first, second = play(made, seed), play(loaded, seed)
        assert first[:2] == second[:2]
        for a, b in zip(first[2], second[2], strict=True):
            assert np.abs(a.astype(int) - b).mean() < 4


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["Milan", "London", "New York"]))
def test_any_routes_survive_the_format(tmp_path_factory, first, city) -> None:
    target = tmp_path_factory.mktemp("some")
    world = open_world(Settings(city=city, split="test", routes=first + 3))
    export(world, range(first, first + 3), target)
    loaded = open_world(Settings(world=str(target)))
    for i in range(3):
        a, b = world.route(first + i), loaded.route(i)
        assert (a.start, a.init_heading, a.legs) == (b.start, b.init_heading, b.legs)


def test_other_shapes_of_the_route_file_load_too(copy) -> None:
    whole = json.loads((copy / ROUTES).read_text())
    assert whole[1] == 6
    for index, value in enumerate((whole[0], whole[0][2], [whole[0], 4])):
        other = shutil.copytree(copy, copy.parent / f"shape{index}")
        (other / ROUTES).write_text(json.dumps(value))
        assert open_world(Settings(world=str(other))).count == (1 if index == 1 else 6)


def test_milestones_as_released() -> None:
    text = """
{
"intersection_idx": "1",
"landmarks": "Prince St is on your front",
"distance": "16 meters",
"human_heading": "0",
"to_next_intersection_heading": "298 (northwest)",
}
{ "intersection_idx": "2", "landmarks": "No landmark nearby", "distance": "9 meters",}"""
    first, second = read_milestones(text)
    assert first["landmarks"] == "Prince St is on your front"
    assert first["to_next_intersection_heading"] == "298 (northwest)"
    assert second == {
        "intersection_idx": "2",
        "landmarks": "No landmark nearby",
        "distance": "9 meters",
    }
    quoted = '{"landmarks": "The "Best" Cafe, Inc: is on your left",\n"distance": "1 meters",}'
    assert read_milestones(quoted)[0]["landmarks"] == 'The "Best" Cafe, Inc: is on your left'


def damage(copy, change):
    whole = json.loads((copy / ROUTES).read_text())
    change(whole[0][3])
    (copy / ROUTES).write_text(json.dumps(whole))


def results(key, value):
    def change(route):
        route["route_results"][key] = value

    return change


def without(key):
    def change(route):
        del route[key]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("start_place"), ["route 3", "start_place", "absent"]),
        (without("milestone_info"), ["route 3", "milestone_info", "absent"]),
        (without("dest_place"), ["route 3", "dest_place", "absent"]),
        (lambda r: r["start_place"].pop("relocated_geocode"), ["route 3", "relocated_geocode"]),
        (lambda r: r["dest_place"].update(name=7), ["route 3", "dest_place.name", "str", "int"]),
        (results("geocode_list", []), ["route 3", "geocode_list", "empty"]),
        (results("geocode_list", [[0, "x"]]), ["route 3", "milestone_info", "blocks"]),
        (results("landmark_list", "none"), ["route 3", "landmark_list", "list", "str"]),
        (lambda r: r.update(init_heading="north"), ["route 3", "init_heading", "'north'"]),
        (
            lambda r: r.update(milestone_info=r["milestone_info"].replace("(", "[")),
            ["route 3", "milestone_info[0].to_next_intersection_heading", "298 (northwest)"],
        ),
        (
            lambda r: r["start_place"].update(relocated_geocode=[0.0, 0.0]),
            ["route 3", "relocated_geocode", "no panorama within 20"],
        ),
    ],
)
def test_damaged_routes_are_named(copy, change, words) -> None:
    damage(copy, change)
    with pytest.raises(DatasetError) as error:
        VIRL(world=str(copy))
    message = str(error.value)
    assert all(word in message for word in [ROUTES, *words]), message


@pytest.mark.parametrize("text", ["", "{", "[]", "[[], 0]", "null", "[" * 100_000])
def test_broken_route_files_are_named(copy, text) -> None:
    (copy / ROUTES).write_text(text)
    with pytest.raises(DatasetError, match=ROUTES):
        VIRL(world=str(copy))


@pytest.mark.parametrize("name", [ROUTES, MAPPING])
def test_missing_files_are_named(copy, name) -> None:
    (copy / name).unlink()
    with pytest.raises(DatasetError, match=name):
        VIRL(world=str(copy))


def key_point_file(copy, suffix):
    whole = json.loads((copy / ROUTES).read_text())
    place = tuple(whole[0][3]["route_results"]["geocode_list"][0])
    return copy / VIEWS / f"{panorama_id(place)}{suffix}"


def test_missing_panorama_is_named_before_play(copy) -> None:
    path = key_point_file(copy, ".jpg")
    path.unlink()
    VIRL(world=str(copy))  # words need no pictures
    with pytest.raises(DatasetError) as error:
        VIRL(world=str(copy), modality="vision", image_size=32)
    assert path.name in str(error.value)
    assert "route 3" in str(error.value)
    assert "geocode_list[0]" in str(error.value)


@pytest.mark.parametrize("text", ['{"rotation": "north"}', '{"rotation": true}', "{}", "{", "[]"])
def test_wrong_rotation_is_named_before_play(copy, text) -> None:
    path = key_point_file(copy, ".metadata.json")
    path.write_text(text)
    with pytest.raises(DatasetError) as error:
        VIRL(world=str(copy), modality="vision", image_size=32)
    message = str(error.value)
    assert path.name in message
    assert "route 3" in message
    assert "rotation" in message or "JSON" in message


def test_a_broken_picture_fails_the_episode_and_is_no_reward(copy) -> None:
    key_point_file(copy, ".jpg").write_bytes(b"\xff\xd8 no picture")
    env = VIRL(world=str(copy), modality="vision", image_size=32, prompt_style="brief")
    env.reset(seed=3)
    with pytest.raises(EnvironmentFailure, match=key_point_file(copy, ".jpg").name):
        walk(env)


class _Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_a_hostile_pickle_runs_nothing(copy, tmp_path) -> None:
    mark = tmp_path / "was_here"
    for value in (_Hostile(mark), {(1.0, 2.0): _Hostile(mark)}):
        (copy / MAPPING).write_bytes(pickle.dumps(value))
        with pytest.raises(DatasetError, match=f"{MAPPING}.*mkdir"):
            VIRL(world=str(copy))
        assert not mark.exists()


@pytest.mark.parametrize(
    "value", [{}, [1], {"a": "b"}, {(1.0, 2.0): 3}, {(1.0, 2.0): "../etc/passwd"}, {(1.0,): "x"}]
)
def test_mappings_of_another_shape_are_named(copy, value) -> None:
    (copy / MAPPING).write_bytes(pickle.dumps(value))
    with pytest.raises(DatasetError, match=MAPPING):
        VIRL(world=str(copy))
    (copy / MAPPING).write_bytes(b"garbage")
    with pytest.raises(DatasetError, match=MAPPING):
        VIRL(world=str(copy))


def test_names_keep_every_script() -> None:
    for name in (
        "Café de la Presse",
        "Joe’s “Diner” – 5°",
        "翠華餐廳",
        "Straße",
        "C:\\Bar",
        "ﬁve",
        "مقهى",
        "नमस्\u200dते",
        "🍜 Bar",
    ):
        assert plain_text(name) == name
    assert plain_text("Cafe\u0301") == "Café"
    assert plain_text(" a \t\n\u3000b\x00\ud800\u202e\ufeff") == "a b"
    assert plain_text("\x00") == "?"
