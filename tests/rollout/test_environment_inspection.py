"""What a check asks of an environment: its offers, the contract, and who is told of each call."""

import json
from functools import partial

import numpy as np
import pytest

from envs import contract
from envs.base import Demonstration, EnvironmentFailure
from envs.registry import make
from rollout.environment_inspection import (
    OTHER_PROCESS,
    Inspection,
    _reporting,
    baseline_floors,
    broken_clause,
    inspect,
)
from rollout.environment_process import HEADER, pack_inspection, unpack_inspection
from tests.support.plugins import PLUGIN, TEACHER

GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"
BRIEF = {"prompt_style": "brief", "modality": "vision", "image_size": 128}


def test_only_what_is_requested_is_read():
    told = []
    env = make(TEACHER, {})
    seen = inspect(env, report=told.append)
    assert (seen.corpus, seen.demonstrations, told) == ([], [], [])
    assert seen.offered == {"expert", "demonstrations", "corpus", "baselines"}
    shown = inspect(env, demonstrations=2, seed=7, report=told.append).demonstrations
    assert [one.seed for one in shown] == [7, 8]
    assert inspect(env, corpus=True, report=told.append).corpus == ["5+5", "10"]
    assert told == ["demonstrations", "corpus"]
    plain = inspect(make(GUESS, {}), corpus=True, demonstrations=2, report=told.append)
    assert plain == Inspection(frozenset())
    assert len(told) == 2


def test_pictures_are_seen_and_travel():
    seen = inspect(make("cardinal/GeneralPoints-v0", BRIEF), demonstrations=3, seed=4)
    assert seen.pictures
    message = pack_inspection(seen)
    text, data = HEADER.unpack(message[: HEADER.size])
    assert data == sum(i.nbytes for one in seen.demonstrations for i in one.images) > 0
    body = message[HEADER.size :]
    again = unpack_inspection(json.loads(body[:text]), body[text:])
    assert (again.offered, again.pictures) == (seen.offered, True)
    for one, other in zip(again.demonstrations, seen.demonstrations, strict=True):
        assert (one.seed, list(one.messages)) == (other.seed, list(other.messages))
        for image, original in zip(one.images, other.images, strict=True):
            assert (image == original).all()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 3)), "environment demonstrations: the picture is float64"),
        ("a.png", "environment demonstrations: the picture is the str 'a.png'; it must be an"),
    ],
)
def test_a_picture_of_another_form_is_named(picture, words, monkeypatch):
    env = make(TEACHER, {})
    wrong = Demonstration((), (picture,), 0)
    monkeypatch.setattr(type(env), "demonstrations", lambda self, n, seed: iter([wrong]))
    with pytest.raises(EnvironmentFailure, match=words):
        inspect(env, demonstrations=1)


def test_each_call_of_the_contract_is_told():
    told = []
    assert broken_clause(GUESS, {"largest": 3}, 1, (), False, told.append) == ""
    assert {"make", "reset", "step"} <= set(told)
    assert OTHER_PROCESS not in told
    assert told[:2] == ["make", "contract"], "what a check does between two calls is its own"
    assert told[1::2] == ["contract"] * (len(told) // 2)
    assert told.count("make") >= 4
    assert "close" in told
    told.clear()
    assert broken_clause(TEACHER, {}, 1, (), True, told.append).startswith("seed 0: ")
    assert "expert" in told


def test_each_item_of_an_iterator_is_a_call():
    told = []
    env = _reporting(partial(make, TEACHER, {}), told.append, "contract")
    assert [one.seed for one in env.demonstrations(2, 3)] == [3, 4, 5]
    assert told == ["make", "contract"] + ["demonstrations", "contract"] * (1 + 3 + 1)
    assert OTHER_PROCESS not in told, "the first broken clause ends it"


def test_the_other_process_is_told_and_comes_once(monkeypatch):
    played, told = [], []
    monkeypatch.setattr(contract, "check_other_process", lambda make, n: played.append(n))
    assert broken_clause(GUESS, {"largest": 3}, 1, (), True, told.append) == ""
    assert (played, told[-1], told.count(OTHER_PROCESS)) == ([1], OTHER_PROCESS, 1)


def test_what_an_environment_raises_is_a_broken_clause():
    said = broken_clause(PLUGIN, {"kind": "raising"}, 1, (), False, lambda call: None)
    assert said == "it raises EnvironmentFailure('the map is missing')"
    said = broken_clause(PLUGIN, {"kind": "unmakeable"}, 1, (), False, lambda call: None)
    assert said == "it raises LookupError('no licence')"


def test_baselines_are_played_and_told():
    told = []
    (ten,) = baseline_floors(TEACHER, {}, 2, 5, [], told.append)
    assert (ten.baseline.name, ten.episodes, ten.metrics["success"]) == ("ten", 2, 1.0)
    assert told.count("reset") == 2
    assert told[:4] == ["make", "floors", "baselines", "floors"]
    assert baseline_floors(GUESS, {}, 2, 5, [], told.append) == []
    with pytest.raises(EnvironmentFailure, match="environment baselines: the map is missing"):
        baseline_floors(TEACHER, {"kind": "raising"}, 1, 0, [], told.append)
