"""The base class: which texts are answers, what spaces hold, and what an environment may omit."""

from dataclasses import dataclass

import numpy as np
import pytest

from configs.leaf import leaf
from envs.base import MAX_TEXT, TextEnv, UnicodeText, shows_pictures


@dataclass(frozen=True)
class OneAnswer:
    verify_iter: int = leaf(1, "graded answers", low=1)


@dataclass(frozen=True)
class NoBudget:
    size: int = leaf(1, "of a question", low=1)


class Plain(TextEnv):
    """Decides nothing that it need not."""

    Settings = NoBudget

    def expert(self):
        return ""

    def demonstrations(self, n, seed):
        yield from ()

    def corpus(self):
        yield from ()


class Once(Plain):
    Settings = OneAnswer


def env(image_shape=None):
    made = Plain()
    made.make_spaces(image_shape)
    return made


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ("", True),
        ("翠華餐廳 🍜 \x00", True),
        ("a" * MAX_TEXT, True),
        ("a" * (MAX_TEXT + 1), False),
        ("half \ud83c of a character", False),
        (b"bytes", False),
        (None, False),
    ],
)
def test_an_answer_is_any_text_that_can_be_written_down(value, inside):
    assert (value in UnicodeText()) is inside


def test_samples_are_answers():
    space = UnicodeText()
    space.seed(0)
    for _ in range(5):
        assert (sample := space.sample()) in space
        assert sample.isascii()


def test_an_observation_has_a_picture_where_the_environment_shows_one():
    words, pictures = env(), env((4, 6, 3))
    assert not shows_pictures(words)
    assert shows_pictures(pictures)
    message = {"message": "24", "restart": 1}
    assert message in words.observation_space
    assert message not in pictures.observation_space
    image = np.zeros((4, 6, 3), np.uint8)
    assert message | {"image": image} in pictures.observation_space
    assert message | {"image": image[:, :5]} not in pictures.observation_space
    assert message | {"restart": 2} not in words.observation_space
    words.observation_space = words.action_space  # no dictionary at all
    assert not shows_pictures(words)


@pytest.mark.parametrize(
    ("kind", "settings", "metric"),
    [
        (Plain, {}, "first_try"),
        (Plain, {"verify_iter": 1}, "success"),
        (Once, {}, "success"),
        (Once, {"verify_iter": 1}, "success"),
        (Once, {"verify_iter": 2}, "first_try"),
    ],
)
def test_success_leads_only_where_one_answer_is_graded(kind, settings, metric):
    assert kind.headline(settings) == metric


def test_what_an_environment_may_leave_out():
    made = env()
    assert made.question == ""
    assert made.overview() is None
    assert made.baselines(0) == []
    assert Plain.overlap({}, {}) == "unknown"
