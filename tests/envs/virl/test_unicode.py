"""Names of every script go through directions, prompt, answer, reading and grading unharmed."""

import json
import re
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from envs.base import UnicodeText
from envs.virl.dataset import ROUTES, plain_text
from envs.virl.directions import INTERSECTION, NO_LANDMARKS
from envs.virl.env import VIRL
from envs.virl.export import export
from envs.virl.geometry import COMPASS, SIDES
from envs.virl.route import IS_ON, NO_LANDMARK, Landmark, Leg, Route

HARD = (
    "Joe’s “Diner”",
    "A–B 5°",
    "C:\\new\\u0041",
    "翠華餐廳",
    "Straße",
    "مقهى",
    "Ångström; Bar",
    'The "Best" Cafe, Inc.',
    "O'Neill's",
    "Intersection Bank",
    "left",
    "none",
    "a, b. c",
    "İstanbul",
    "The destination",
    "ﬁve",
    "´x¨",
    "नमस्\u200dते",
    "🍜 2",
)


class OneRoute:
    """A world of one walk along which each of the names stands at the end of a leg."""

    count = 1

    def __init__(self, names: list[str]) -> None:
        legs, lat, lng = [], 10.0, 10.0
        for i, name in enumerate(names):
            lat, lng = (lat + 40 / 111_195, lng) if i % 2 == 0 else (lat, lng + 40 / 109_500)
            last = i == len(names) - 1
            text = f"{'The destination ' if last else ''}{name}{IS_ON}{SIDES[i % 8]}"
            mark = Landmark(name, (lat, lng)) if name else None
            heading = 90 * (i % 2)
            text = text if name else NO_LANDMARK
            legs.append(Leg(heading, COMPASS[heading // 45], (lat, lng), mark, text, 40))
        self.only = Route("names/0", "names", (10.0, 10.0), 200, tuple(legs))

    def route(self, index: int) -> Route:
        return self.only

    def nearest(self, route: Route, place: tuple[float, float]) -> tuple[float, float]:
        return place


NAMES = st.text(min_size=1, max_size=10).filter(
    # Braces part the blocks of a released file, and some names are its own words.
    lambda name: (
        plain_text(name) == name != NO_LANDMARK
        and not set("{}") & set(name)
        and '"' not in name[-1:]
    )
)


@pytest.mark.parametrize("preset", ["fixed", "paper_text", "paper_code"])
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@example(["翠華餐廳", "Straße", "Joe’s “Diner” – 5°"])
@given(st.lists(st.one_of(st.sampled_from(HARD), NAMES), min_size=2, max_size=4))
def test_the_experts_answers_are_right_whatever_the_names(tmp_path_factory, preset, names) -> None:
    folder = tmp_path_factory.mktemp("names")
    export(OneRoute(names), [0], folder, image_size=None)
    assert json.loads((folder / ROUTES).read_text(encoding="utf-8"))
    for style in ("full", "brief"):
        env = VIRL(world=str(folder), preset=preset, prompt_style=style, verify_iter=3)
        assert [mark.name for mark in env.world.route(0).landmarks] == names
        shown, _ = env.reset(seed=0)
        assert all(name in shown["message"] for name in names)
        done = False
        while not done:
            assert UnicodeText().contains(shown["message"])
            text = env.expert()
            if style == "full":
                assert env.point.expression in json.loads(text)["current observation"]
                wrong = re.sub(r'"action": ".*"', '"action": "turn_direction(up)"', text)
                escaped = json.dumps(json.loads(wrong))  # every other script as \u....
                for variant in (wrong, escaped):
                    verdict = env.step(variant)[4]["verdict"]
                    assert (
                        verdict == "illegal" or preset == "paper_code"
                    )  # a name may hold the word
            shown, reward, done, _, info = env.step(text)
            assert reward == 1.0
        assert info["metrics"]["success"] == 1.0
        if style == "full":
            assert info["metrics"]["recognition"] == 1.0


@settings(max_examples=300)
@given(st.text())
def test_what_names_keep_is_text_of_one_line(text) -> None:
    kept = plain_text(text)
    assert UnicodeText().contains(kept)
    assert plain_text(kept) == kept
    assert kept.isprintable() or {c for c in kept if not c.isprintable()} <= set("\u200c\u200d") | {
        c for c in kept if unicodedata.category(c) == "Co"
    }
    letters = [c for c in unicodedata.normalize("NFC", text) if c.isalnum()]
    assert [c for c in kept if c.isalnum()] == letters


def test_a_point_without_a_landmark_wants_none_in_every_script(tmp_path) -> None:
    export(OneRoute(["", "翠華餐廳"]), [0], tmp_path)
    env = VIRL(world=str(tmp_path))
    env.reset(seed=0)
    while env.point.kind != "stop":
        seen = f"{NO_LANDMARKS}; {INTERSECTION}" if env.point.intersection else NO_LANDMARKS
        action = env.point.action("absolute")
        env.step(json.dumps({"current observation": seen, "action": action}))
    assert '"The destination 翠華餐廳 is on your right front"' in env.expert()
    stop = {"current observation": "翠華餐廳 is on your right front", "action": "stop()"}
    metrics = env.step(json.dumps(stop))[4]["metrics"]
    assert metrics["recognition_all"] == 1.0


def test_text_spaces_hold_every_script_and_no_half_characters() -> None:
    space = UnicodeText()
    assert space.contains("翠華餐廳 Straße ’“”–°")
    assert not space.contains("\ud800")
    assert not space.contains("x" * 40_000)
    assert not space.contains(5)
    assert space.contains(space.sample())
