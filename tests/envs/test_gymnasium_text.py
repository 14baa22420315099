"""Plain Gymnasium environments of text: adapted, or refused with what they show."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import checked
from envs.base import EnvironmentFailure, NotOffered, TextEnv, offers, shows_pictures
from envs.gymnasium_text import GymnasiumText
from envs.registry import make

GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"
DARK, LIGHT = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)

NOTHING = {}


class Scripted(gymnasium.Env):
    """Gives prepared steps; nothing of Cardinal in it."""

    def __init__(self, *steps, info=NOTHING, **declared):
        self.steps, self.first_info = list(steps), info
        for name, space in declared.items():
            setattr(self, f"{name}_space", space)
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.steps[0] if self.first_info == "bare" else (self.steps[0], self.first_info)

    def step(self, action):
        self.steps.pop(0)
        return self.steps[0]

    def close(self):
        self.closed = True


def test_an_episode_of_texts_has_what_every_episode_has():
    env = make(GUESS, {"largest": 4, "guesses": 3})
    assert isinstance(env, GymnasiumText)
    first = checked.reset(env, 3)
    number = int(first.question)
    assert first.observation == {"message": "Guess a number from 1 to 4.", "restart": 1}
    wrong = checked.step(env, str(number + 1))
    assert (wrong.observation, wrong.reward) == ({"message": "lower", "restart": 0}, -0.2)
    assert not (wrong.terminated or wrong.truncated)
    right = checked.step(env, f" {number}\n")
    assert (right.terminated, right.truncated, right.reward) == (True, False, 1.0)
    assert right.metrics == {"success": 1.0, "first_try": 0.0, "return": 0.8}
    checked.reset(env, 3)
    assert checked.step(env, str(number)).metrics == {"success": 1, "first_try": 1, "return": 1}


def test_a_lost_episode_has_no_success():
    env = make(GUESS, {"guesses": 1})
    checked.reset(env, 0)
    lost = checked.step(env, "nothing")
    assert (lost.terminated, lost.truncated) == (False, True)
    assert lost.metrics == {"success": 0.0, "first_try": 0.0, "return": -1.0}


@pytest.mark.parametrize(
    ("reward", "terminated", "info", "success"),
    [
        (1.0, True, {}, 1.0),
        (0.0, True, {}, 0.0),
        (1.0, False, {}, 0.0),
        (0.0, True, {"is_success": True}, 1.0),
        (1.0, True, {"is_success": False}, 0.0),
        (1.0, True, {"success": 0.0, "is_success": True}, 0.0),
        (1.0, True, {"metrics": {"success": 0.0}}, 0.0),
    ],
)
def test_success_is_what_the_environment_says_or_a_won_end(reward, terminated, info, success):
    env = GymnasiumText(Scripted("a", ("b", reward, terminated, not terminated, info)))
    env.reset(seed=0)
    metrics = checked.step(env, "x").metrics
    assert metrics["success"] == success
    assert metrics["first_try"] == (success if "metrics" not in info else 1.0)


def test_a_dict_keeps_its_message_and_a_new_picture_begins_a_prompt():
    shown = [{"message": str(i), "image": p} for i, p in enumerate((DARK, DARK.copy(), LIGHT))]
    steps = [(s, 0.0, False, False, {}) for s in shown[1:]]
    declared = spaces.Dict(
        {"message": spaces.Text(9), "image": spaces.Box(0, 255, (4, 4, 3), np.uint8)}
    )
    env = GymnasiumText(Scripted(shown[0], *steps, observation=declared))
    assert shows_pictures(env)
    assert env.observation_space["image"].shape == (4, 4, 3)
    restarts = [env.reset(seed=0)[0]["restart"]]
    restarts += [checked.step(env, "x").observation["restart"] for _ in steps]
    assert restarts == [1, 0, 1]
    own = {"message": "own", "restart": 1}
    env = GymnasiumText(Scripted("a", (own, 0.0, False, False, {"message": "no", "verdict": "v"})))
    env.reset(seed=0)
    step = checked.step(env, "x")
    assert (step.observation, step.message) == (own, "no")
    assert not shows_pictures(env)


@pytest.mark.parametrize("shown", [3, b"text", ["a"], np.zeros(3)])
def test_what_is_no_text_is_a_failure(shown):
    env = GymnasiumText(Scripted(shown))
    with pytest.raises(EnvironmentFailure, match="it must be a text, or a dict with message"):
        checked.reset(env, 0)


@pytest.mark.parametrize("reward", [None, float("nan"), "1"])
def test_a_wrong_reward_is_named_as_everywhere(reward):
    env = GymnasiumText(Scripted("a", ("b", reward, True, False, {})))
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailure, match="environment step: the reward is"):
        checked.step(env, "x")


STEP = "it must be (observation, reward, terminated, truncated, info)"


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (("b", 1.0, True, {}), f"returned a tuple of 4; {STEP}"),
        ("b", f"returned the str 'b'; {STEP}"),
        (None, f"returned None; {STEP}"),
        (("b", 1.0, True, False, None), "info is None; it must be a dict"),
        (("b", 1.0, 1, False, {}), "terminated is the int 1; it must be true or false"),
        (("b", 1.0, True, np.zeros(2), {}), "truncated is the ndarray; it must be true or false"),
        (("b", 10**400, True, False, {}), "the reward is inf; it must be a finite number"),
        ((3, 1.0, True, False, {}), "the observation is the int 3; it must be a text, or a dict"),
        (
            ("b", 1.0, True, False, {"success": "yes"}),
            "the metric 'success' is the str 'yes'; it must be a finite number",
        ),
        (
            ("b", 1.0, True, False, {"is_success": None}),
            "the metric 'success' is None; it must be a finite number",
        ),
        (
            ("b", 1.0, True, False, {"metrics": None}),
            "info's metrics are None; they must be a dict",
        ),
    ],
)
def test_a_step_of_another_form_is_named_with_the_rule(returned, said):
    for max_steps in (None, 1):
        env = GymnasiumText(Scripted("a", returned), max_steps)
        checked.reset(env, 0)
        with pytest.raises(EnvironmentFailure) as failure:
            checked.step(env, "x")
        assert str(failure.value).startswith(f"environment step: {said}")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (None, "info is None; it must be a dict"),
        ("bare", "returned the str 'a'; it must be (observation, info)"),
        ({"question": 3}, "the question is the int 3; it must be a text"),
    ],
)
def test_a_reset_of_another_form_is_named_with_the_rule(info, said):
    with pytest.raises(EnvironmentFailure) as failure:
        checked.reset(GymnasiumText(Scripted("a", info=info)), 0)
    assert str(failure.value) == f"environment reset: {said}"


def test_an_episode_ends_after_the_steps_that_were_registered(monkeypatch):
    """As Gymnasium's TimeLimit, which would unpack a wrong step itself."""
    on, won = ("b", 0.0, False, False, {}), ("b", 1.0, True, False, {})
    env_id = "test/Scripted-v0"
    script = []
    entry = lambda: Scripted("a", *script)  # noqa: E731
    spec = gymnasium.envs.registration.EnvSpec(env_id, entry, max_episode_steps=2)
    monkeypatch.setitem(gymnasium.registry, env_id, spec)
    ends = []
    for script[:] in ([on, on, on], [on, won], [on, ("b", 0.0, False, {})]):
        env = make(env_id, {})
        checked.reset(env, 0)
        first = checked.step(env, "x")
        assert not (first.terminated or first.truncated)
        try:
            last = checked.step(env, "x")
            ends.append((last.terminated, last.truncated, last.metrics["success"]))
        except EnvironmentFailure as failure:
            ends.append(str(failure).partition(";")[0])
    script[:] = [on]
    env = make(env_id, {"max_episode_steps": 1})
    checked.reset(env, 0)
    assert checked.step(env, "x").truncated
    expected = [(False, True, 0.0), (True, False, 1.0)]
    assert ends == [*expected, "environment step: returned a tuple of 4"]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"observation": spaces.Discrete(3)}, "Scripted: its observations are Discrete(3)"),
        ({"observation": spaces.Dict({"x": spaces.Text(3)})}, "its observations are Dict"),
        (
            {"observation": spaces.Dict({"message": spaces.Text(3), "image": spaces.Discrete(3)})},
            "its image is Discrete(3); it must be a Box",
        ),
        ({"action": spaces.Discrete(3)}, "its actions are Discrete(3); they must be texts"),
    ],
)
def test_spaces_of_something_else_are_refused(declared, said):
    with pytest.raises(ValueError, match="must be ") as error:
        GymnasiumText(Scripted("a", **declared))
    assert said in str(error.value)
    with pytest.raises(ValueError, match="CartPole-v1: its observations are Box"):
        make("CartPole-v1", {})


def test_what_it_lacks_is_said_and_its_end_is_passed_on():
    inner = Scripted("a")
    env = GymnasiumText(inner)
    for name, call in (
        ("expert", env.expert),
        ("demonstrations", lambda: env.demonstrations(1, 0)),
        ("corpus", env.corpus),
    ):
        assert not offers(env, name)
        with pytest.raises(NotOffered, match=f"GymnasiumText has no {name}: it does not override"):
            call()
    assert not offers(env, "baselines")
    assert offers(make("cardinal/GeneralPoints-v0", {}), "baselines")
    assert env.baselines(0) == []
    env.close()
    assert inner.closed
    assert isinstance(env, TextEnv)
