"""The boundary to environments: what passes unchanged, and what is refused with its words."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from envs import checked
from envs.base import MAX_TEXT, EnvironmentFailure, Observation

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
METRICS = {"success": 1.0, "first_try": 0.0}


class Scripted:
    """Returns what it is told to."""

    def __init__(self, returned, question=""):
        self.returned, self.question = returned, question

    def reset(self, *, seed):
        self.seed = seed
        return self.returned

    def step(self, action):
        self.action = action
        if isinstance(self.returned, BaseException):
            raise self.returned
        return self.returned


def shown(**changes) -> Observation:
    return {"message": "go", "restart": 0} | changes


def returned(observation=None, reward=1.0, terminated=False, truncated=False, info=None):
    observation = shown() if observation is None else observation
    return observation, reward, terminated, truncated, {} if info is None else info


def step(*args, **changes):
    return checked.step(Scripted(returned(*args, **changes)), "a")


def test_a_reset_is_an_observation_and_a_question():
    env = Scripted((shown(restart=1, image=PIXELS), {"anything": object()}), "which?")
    first = checked.reset(env, 7)
    assert (env.seed, first.question) == (7, "which?")
    assert first.observation["image"] is PIXELS
    assert (first.observation["message"], first.observation["restart"]) == ("go", 1)


def test_a_step_arrives_as_plain_numbers():
    env = Scripted(
        returned(
            shown(restart=np.int64(1)),
            np.float32(0.5),
            np.bool_(True),
            False,
            {"message": "fine", "metrics": METRICS | {"length": np.int64(3)}, "other": print},
        ),
        "which?",
    )
    last = checked.step(env, "answer")
    assert env.action == "answer"
    assert (last.reward, type(last.reward)) == (0.5, float)
    assert (last.terminated, type(last.terminated), last.truncated) == (True, bool, False)
    assert last.observation == shown(restart=1)
    assert (last.message, last.question) == ("fine", "which?")
    assert last.metrics == METRICS | {"length": 3.0}
    assert {type(value) for value in last.metrics.values()} == {float}


@pytest.mark.parametrize("reward", [0, -1, 2.5, np.int8(3), np.float64(-0.5), Fraction(1, 4), 3e38])
def test_every_finite_number_is_a_reward(reward):
    assert step(reward=reward).reward == float(reward)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float32("inf"), "inf"),
        (10**400, "inf"),
        (1e39, "1e+39"),  # rewards are kept as float32
        (None, "None"),
        (True, "the bool True"),
        (np.bool_(False), "the bool"),
        ("1", "the str '1'"),
        (1j, "the complex"),
        (np.array([1.0]), "the ndarray"),
    ],
)
def test_what_is_no_finite_number_is_no_reward_and_no_metric(reward, said):
    with pytest.raises(EnvironmentFailure, match="environment step: the reward is ") as failure:
        step(reward=reward)
    assert f"is {said}" in str(failure.value)
    assert str(failure.value).endswith("it must be a finite number")
    metrics = METRICS | {"length": reward}
    if isinstance(reward, bool | np.bool_):  # of a metric it says whether
        assert step(terminated=True, info={"metrics": metrics}).metrics["length"] == float(reward)
        return
    with pytest.raises(EnvironmentFailure, match="the metric 'length' is "):
        step(terminated=True, info={"metrics": metrics})


@pytest.mark.parametrize("name", ["success", "first_try"])
@pytest.mark.parametrize("value", [3, 0.4, -1.0])
def test_an_episode_is_a_success_or_none(name, value):
    with pytest.raises(EnvironmentFailure, match=f"the metric '{name}' is .*; it must be 0 or 1"):
        step(terminated=True, info={"metrics": METRICS | {name: value}})


@pytest.mark.parametrize("name", ["per_step_accuracy", "recognition", "recognition_all"])
@pytest.mark.parametrize("value", [1.01, -0.01])
def test_what_is_shown_in_per_cent_is_a_share(name, value):
    with pytest.raises(EnvironmentFailure, match=f"the metric '{name}' is .*; it must be from 0"):
        step(terminated=True, info={"metrics": METRICS | {name: value}})
    assert step(terminated=True, info={"metrics": METRICS | {name: 0.5}}).metrics[name] == 0.5


@pytest.mark.parametrize("metrics", [None, {}, {"success": 1.0}, {"first_try": 1.0}, 3])
def test_the_last_step_has_its_metrics(metrics):
    rule = "the last info's metrics are .* they must hold success and first_try"
    for end in ("terminated", "truncated"):
        with pytest.raises(EnvironmentFailure, match=rule):
            step(**{end: True}, info={"metrics": metrics})
    assert step(info={"metrics": metrics}).metrics == {}


@pytest.mark.parametrize(
    ("observation", "rule"),
    [
        ("go", "the observation is the str 'go'; it must be a dict with message"),
        ({"restart": 0}, "the observation's message is None; it must be a text"),
        (shown(message=b"go"), "the observation's message is the bytes; it must be a text"),
        (shown(message="x" * (MAX_TEXT + 1)), f"has {MAX_TEXT + 1} characters; it may have"),
        (shown(message="a\ud800"), "holds half a character"),
        (shown(restart=2), "the observation's restart is the int 2; it must be 0 or 1"),
        ({"message": "go"}, "the observation's restart is None; it must be 0 or 1"),
        (shown(images=[]), "the observation has the key 'images'; it may have message, restart"),
        (shown(image=PIXELS / 255), "the picture is float64 [4, 5, 3]; it must be uint8"),
        (shown(image=PIXELS.astype(np.int64)), "the picture is int64 [4, 5, 3]"),
        (shown(image=PIXELS[..., :2]), "the picture is uint8 [4, 5, 2]"),
        (shown(image=np.zeros((4, 5, 4), np.uint8)), "the picture is uint8 [4, 5, 4]"),
        (shown(image=PIXELS[..., 0]), "the picture is uint8 [4, 5]"),
        (shown(image=PIXELS[:0]), "the picture is uint8 [0, 5, 3]"),
        (shown(image="a.png"), "the picture is the str 'a.png'; it must be an array or Pillow"),
        (shown(image=Image.new("I;16", (4, 4))), "Pillow's mode I;16; convert it to RGB"),
        (shown(image=Image.new("RGBA", (4, 4))), "Pillow's mode RGBA; convert it to RGB"),
        (
            shown(image=np.broadcast_to(PIXELS[:1, :1], (10_000, 8_948, 3))),
            "the picture has [10000, 8948] pixels; it may have 89478485",
        ),
    ],
)
def test_observations_that_cannot_be_shown_as_they_are_are_refused(observation, rule):
    with pytest.raises(EnvironmentFailure) as failure:
        step(observation)
    assert str(failure.value).startswith("environment step: ")
    assert rule in str(failure.value)
    with pytest.raises(EnvironmentFailure) as failure:
        checked.reset(Scripted((observation, {})), 0)
    assert str(failure.value).startswith("environment reset: ")
    assert rule in str(failure.value)


def test_the_longest_text_and_the_largest_picture_pass_whole():
    text = "ü" * MAX_TEXT
    large = np.broadcast_to(PIXELS[:1, :1], (4096, 4096, 3))
    observation = step(shown(message=text, image=large)).observation
    assert observation["message"] == text
    assert observation["image"] is large


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pillow_images_are_their_pixels(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    pixels = step(shown(image=image)).observation["image"]
    assert pixels.dtype == np.uint8
    assert (pixels == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "returned None; it must be (observation, reward, terminated, truncated, info)"),
        ((shown(), 1.0, False, {}), "returned a tuple of 4; it must be (observation, reward,"),
        (returned(terminated=1), "terminated is the int 1; it must be true or false"),
        (returned(truncated=None), "truncated is None; it must be true or false"),
        ((shown(), 1.0, False, False, None), "info is None; it must be a dict"),
        (returned(info={"message": 3}), "info's message is the int 3; it must be a text"),
        (returned(info={"message": "\udfff"}), "info's message holds half a character"),
    ],
)
def test_steps_of_another_form_are_refused(value, rule):
    with pytest.raises(EnvironmentFailure) as failure:
        checked.step(Scripted(value), "a")
    assert rule in str(failure.value)


def test_resets_of_another_form_are_refused():
    with pytest.raises(EnvironmentFailure, match=r"must be \(observation, info\)"):
        checked.reset(Scripted(shown()), 0)
    with pytest.raises(EnvironmentFailure, match=r"returned a tuple of 1; it must be \(observ"):
        checked.reset(Scripted((shown(),)), 0)
    with pytest.raises(EnvironmentFailure, match="reset: info is None; it must be a dict"):
        checked.reset(Scripted((shown(), None)), 0)
    with pytest.raises(EnvironmentFailure, match="reset: the question is the int 3; it must be"):
        checked.reset(Scripted((shown(), {}), question=3), 0)


def test_whatever_is_raised_is_one_line():
    for error, said in (
        (EnvironmentFailure("no map"), "no map"),
        (KeyError("a\nb"), "KeyError: 'a\\nb'"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ZeroDivisionError(), "ZeroDivisionError()"),
    ):
        with pytest.raises(EnvironmentFailure) as failure:
            checked.step(Scripted(error), "a")
        assert str(failure.value) == f"environment step: {said}"
    assert len(str(checked.failure_of("step", ValueError("x" * 9999)))) < 1100


def test_an_exception_without_words_and_an_exit_fail_the_episode_alone():
    class Mute(Exception):
        def __str__(self):
            raise ZeroDivisionError

        __repr__ = __str__

    said = str(checked.failure_of("step", Mute()))
    assert said == "environment step: Mute, which cannot say what it is"

    class Exits:
        def reset(self, seed):
            sys.exit(3)

    with pytest.raises(EnvironmentFailure, match="environment reset: SystemExit: 3"):
        checked.reset(Exits(), 0)


def test_a_question_that_raises_fails_the_episode_alone():
    class Asks(Scripted):
        question = property(lambda self: 1 / 0, lambda self, value: None)

    with pytest.raises(EnvironmentFailure, match="environment step: ZeroDivisionError: division"):
        checked.step(Asks(returned()), "a")


def test_half_a_character_in_an_exception_is_escaped():
    """A failure is written into Arrow tables and files, which hold whole characters alone."""
    for error in (ValueError("no file \udce9"), EnvironmentFailure("no file \udce9")):
        failure = str(checked.failure_of("step", error))
        assert failure.endswith("no file \\udce9")
        assert failure.encode()
    for name in ("\udce9", ("\udce9",)):
        with pytest.raises(EnvironmentFailure) as refused:
            step(terminated=True, info={"metrics": METRICS | {name: "x"}})
        assert str(refused.value).encode()


def test_memory_is_for_the_process_to_judge():
    with pytest.raises(MemoryError):
        checked.step(Scripted(MemoryError()), "a")
