"""Every environment passes the same contract; the contract itself catches those that do not."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from configs.paths import ROOT
from envs import contract
from envs.base import TextEnv
from envs.contract import ContractError, check
from envs.registry import BUILT_IN, make

GP = "cardinal/GeneralPoints-v0"
VIRL = "cardinal/VIRL-v0"
ENTRIES = [
    (GP, {}),
    (GP, {"prompt_style": "brief", "hands": "train"}),
    (GP, {"prompt_style": "brief", "face_rule": "ranks", "require_face": True}),
    (GP, {"preset": "paper_text"}),
    (GP, {"preset": "paper_code"}),
    (GP, {"fake_rule": "ten", "face_rule": "ranks", "feedback": "prefix_hint"}),
    (GP, {"cot": True, "prompt_diversity": True, "trajectories": "suboptimal"}),
    (GP, {"modality": "vision", "image_size": 128, "prompt_style": "brief", "suits": "red"}),
    (GP, {"modality": "vision", "image_size": 224, "preset": "paper_code"}),
    (VIRL, {}),
    (VIRL, {"prompt_style": "brief", "action_space": "relative", "city": "benchmark"}),
    (VIRL, {"preset": "paper_text", "verify_iter": 5, "feedback": "binary"}),
    (VIRL, {"preset": "paper_code", "action_space": "relative", "city": "London"}),
    (VIRL, {"modality": "vision", "image_size": 64, "prompt_style": "brief", "city": "Lagos"}),
    (VIRL, {"modality": "vision", "image_size": 224, "preset": "paper_code"}),
]
"""Ids with settings; the whole contract is run on each."""
PICTURED = [entry for entry in ENTRIES if "modality" in entry[1]]

DOCS = ROOT / "docs" / "environments.md"


def exists(env_id: str) -> bool:
    return importlib.util.find_spec(BUILT_IN[env_id].split(":")[0]) is not None


@pytest.mark.parametrize(("env_id", "settings"), ENTRIES)
def test_built_in_environments_keep_the_contract(env_id, settings):
    # Another process costs seconds: once for each modality is enough. So do pictures.
    processes = settings in ({}, {"modality": "vision", "image_size": 224, "preset": "paper_code"})
    episodes = 3 if (env_id, settings) in PICTURED else 8
    check(partial(make, env_id, settings), episodes=episodes, processes=processes)


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "settings"), PICTURED)
def test_those_with_pictures_keep_it_in_more_episodes(env_id, settings):
    check(partial(make, env_id, settings), episodes=8, processes=False)


@pytest.fixture
def sums(tmp_path, monkeypatch):
    """The environment that the documentation shows, as a plugin on the import path."""
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL).group(1)
    assert len(code.splitlines()) < 60
    (tmp_path / "sums.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "sums:example/Sums-v0"
    sys.modules.pop("sums", None)
    gymnasium.registry.pop("example/Sums-v0", None)


def test_the_documented_third_party_environment_keeps_the_contract(sums):
    check(partial(make, sums, {"largest": 20}))


def broken(sums: str, **methods: object):
    """The documented environment with methods replaced, as a maker of environments."""
    base = type(make(sums, {}))
    cls = type("Broken", (base,), methods)
    return cls, (lambda: cls())


def test_the_contract_sees_an_expert_that_fails(sums):
    _, maker = broken(sums, expert=lambda self: "0")
    with pytest.raises(ContractError, match="expert's episode ended truncated"):
        contract.check_expert(maker, 8)


def test_the_contract_sees_global_random_state(sums):
    base = type(make(sums, {}))

    def reset(self, *, seed=None, options=None):
        random.random()
        return base.reset(self, seed=seed, options=options)

    _, maker = broken(sums, reset=reset)
    with pytest.raises(ContractError, match="global random state"):
        check(maker, processes=False)


def test_the_contract_sees_episodes_that_ignore_the_seed(sums):
    base = type(make(sums, {}))

    def reset(self, *, seed=None, options=None):
        observation, info = base.reset(self, seed=seed, options=options)
        self.numbers = np.random.default_rng().integers(0, 99, 2).tolist()
        return {**observation, "message": "{}+{}".format(*self.numbers)}, info

    _, maker = broken(sums, reset=reset)
    with pytest.raises(ContractError, match="other episodes"):
        check(maker, processes=False)


def test_the_contract_sees_questions_that_change(sums):
    base = type(make(sums, {}))

    def step(self, action):
        self.question += "?"
        return base.step(self, action)

    _, maker = broken(sums, step=step)
    with pytest.raises(ContractError, match="seed 0: the question changed within an episode"):
        contract.check_expert(maker, 1)
    _, maker = broken(sums, question=7)
    with pytest.raises(ContractError, match="the question is 7, not a text"):
        contract.check_expert(maker, 1)


def test_the_contract_sees_questions_that_ignore_the_seed(sums):
    base = type(make(sums, {}))

    def reset(self, *, seed=None, options=None):
        self.question = str(np.random.default_rng().random())
        return base.reset(self, seed=seed, options=options)

    _, maker = broken(sums, reset=reset)
    with pytest.raises(ContractError, match="other episodes"):
        check(maker, processes=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r[0], float("nan"), *r[2:]), "the reward is nan"),
        (lambda r: (*r[:4], {**r[4], "verdict": 3}), "info lacks the text 'verdict'"),
        (lambda r: (*r[:4], {"verdict": "no"}), "info lacks the text 'message'"),
        (lambda r: (*r[:2], True, True, r[4]), "both terminated and truncated"),
        (lambda r: (*r[:4], {**r[4], "metrics": {"success": 1.0}}), "the metrics are"),
        (
            lambda r: (*r[:4], {**r[4], "metrics": {"success": 1, "first_try": 1.0}}),
            "the metrics are",
        ),
        (lambda r: ({"message": 3, "restart": 0}, r[1], False, False, r[4]), "outside observation"),
    ],
)
def test_the_contract_sees_wrong_steps(sums, change, message):
    base = type(make(sums, {}))
    _, maker = broken(sums, step=lambda self, action: change(base.step(self, action)))
    with pytest.raises(ContractError, match=message):
        contract.check_expert(maker, 1)


def test_the_contract_sees_success_of_useless_answers(sums):
    base = type(make(sums, {}))

    def step(self, action):
        observation, reward, terminated, truncated, info = base.step(self, action)
        if "metrics" in info:
            info["metrics"]["first_try"] = 1.0
        return observation, reward, terminated, truncated, info

    _, maker = broken(sums, step=step)
    contract.check_expert(maker, 1)
    with pytest.raises(ContractError, match=r"nonsense has first_try 1\.0"):
        contract.check_failure(maker, 1)


def test_the_contract_sees_text_that_solves(sums):
    base = type(make(sums, {}))

    def step(self, action):
        observation, reward, *_, info = base.step(self, action)
        return observation, reward, action == "null", False, info

    _, maker = broken(sums, step=step)
    with pytest.raises(ContractError, match="the answer 'null' solved seed"):
        contract.check_answers(maker)


def test_texts_of_every_script_are_observations(sums):
    space = make(sums, {}).observation_space["message"]
    assert "Straße 翠華餐廳 °’“”×÷−" in space
    assert "" in space
    assert "x" * 32_768 in space
    assert "x" * 32_769 not in space
    assert "\ud800" not in space
    assert 3 not in space
    assert space.sample() in space


def test_the_contract_sees_files_outside(sums):
    base = type(make(sums, {}))

    def reset(self, *, seed=None, options=None):
        Path("/etc/hostname").exists() and Path("/etc/hostname").read_text()
        DOCS.read_text()
        return base.reset(self, seed=seed, options=options)

    _, maker = broken(sums, reset=reset)
    with pytest.raises(ContractError, match=r"playing reached outside: .*environments\.md"):
        check(maker, processes=False)
    with contract.watched_files((DOCS.parent, Path("/etc"))):
        maker().reset(seed=0)


def test_the_contract_sees_truncation_and_text_out_of_place(sums):
    base = type(make(sums, {}))

    def step(self, action):
        observation, reward, terminated, truncated, info = base.step(self, action)
        return observation, reward, terminated or truncated, False, info

    _, maker = broken(sums, step=step)
    with pytest.raises(ContractError, match="nonsense ended terminated"):
        contract.check_failure(maker, 1)
    _, maker = broken(sums, corpus=lambda self: iter(()))
    with pytest.raises(ContractError, match="corpus yields 0 texts"):
        contract.check_demonstrations(maker, 1)


def test_images_survive_arrow():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    observation = {"message": "cards", "restart": 1, "image": image}
    back = contract.through_arrow(observation)
    assert back["message"] == "cards"
    assert (back["image"] == image).all()


GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"


def test_a_plain_environment_keeps_what_it_can():
    check(partial(make, GUESS, {"largest": 5}), episodes=3, processes=False)


def test_the_contract_sees_a_plain_environment_that_nonsense_wins():
    env = make(GUESS, {})
    env.env.unwrapped.step = lambda action: ("won", 1.0, True, False, {})
    with pytest.raises(ContractError, match=r"nonsense has success 1\.0"):
        contract.check_failure(lambda: env, 1)
    with pytest.raises(ContractError, match="the answer '' solved seed 0"):
        contract.check_answers(lambda: env)
    env.env.unwrapped.step = lambda action: ("lost", 0.0, True, False, {})
    contract.check_failure(lambda: env, 1)
    contract.check_answers(lambda: env)


def test_what_an_environment_lacks_is_not_checked(sums):
    _, maker = broken(sums, expert=TextEnv.expert)
    check(maker, episodes=2, processes=False)
    _, maker = broken(sums, demonstrations=TextEnv.demonstrations, corpus=TextEnv.corpus)
    contract.check_demonstrations(maker, 2)
