"""The expert: demonstrations in order, wrong answers before right ones, a corpus of every word."""

import json
import re

import numpy as np
import pytest

from envs.virl.env import VIRL
from envs.virl.expert import answer
from envs.virl.prompts import OPENINGS

WRONG = "stop() now"


def brief(**options):
    return VIRL(prompt_style="brief", **options)


def test_demonstrations_are_single_steps_of_whole_routes() -> None:
    env = brief(modality="vision", image_size=16)
    shown = list(env.demonstrations(30, 4))
    assert len(shown) == 30
    player = brief(modality="vision", image_size=16)
    first, _ = player.reset(seed=4)
    assert shown[0].messages[0]["content"] == first["message"]
    assert np.array_equal(shown[0].images[0], first["image"])
    route = [d for d in shown if d.seed == 4]
    assert len(route) == len(player.rail)
    assert route[-1].messages[1]["content"].endswith("; stop()")
    assert [m["train"] for m in shown[0].messages] == [False, True]
    twice = list(env.demonstrations(30, 4))
    assert [d.messages for d in twice] == [d.messages for d in shown]


@pytest.mark.parametrize("style", ["full", "brief"])
def test_suboptimal_demonstrations_fail_first_and_hear_why(style) -> None:
    env = VIRL(trajectories="suboptimal", verify_iter=4, prompt_style=style)
    lengths = set()
    player = VIRL(verify_iter=4, prompt_style=style)
    steps = list(env.demonstrations(40, 9))
    player.reset(seed=9)
    for demonstration in [d for d in steps if d.seed == 9]:
        *wrong, right = [m["content"] for m in demonstration.messages if m["role"] == "assistant"]
        said = [m["content"] for m in demonstration.messages[2::2]]
        for text, message in zip(wrong, said, strict=True):
            shown, reward, *_ = player.step(text)
            assert reward < 0
            assert shown["message"] == message
        assert player.step(right)[1] == 1.0
    lengths = {len(d.messages) for d in steps}
    assert lengths == {2, 4, 6, 8}


def test_diverse_prompts_change_the_wording_alone() -> None:
    steps = list(VIRL(prompt_diversity=True).demonstrations(120, 0))
    plain = list(VIRL().demonstrations(120, 0))
    opening = {d.messages[0]["content"].splitlines()[1].split(". ")[0] for d in steps}
    assert len(opening) == 3
    assert [d.messages[1] for d in steps] == [d.messages[1] for d in plain]


@pytest.mark.parametrize("style", ["full", "brief"])
def test_the_corpus_holds_every_word_of_every_variant(style) -> None:
    words = re.compile(r"[A-Za-z]+|\d|[^\w\s]")
    known = {w for text in VIRL(prompt_style=style).corpus() for w in words.findall(text)}
    for options in (
        {"city": "benchmark"},
        {"city": "Hong Kong", "split": "test", "action_space": "relative"},
        {"preset": "paper_code", "city": "Lagos"},
        {"modality": "vision", "image_size": 16},
    ):
        env = VIRL(prompt_style=style, **options)
        for seed in range(4 if env.vision else 40):
            shown, _ = env.reset(seed=seed)
            text = shown["message"] + env.expert() + env.step(WRONG)[0]["message"]
            text += env.step(env.expert())[0]["message"] + env.expert()
            assert set(words.findall(text)) <= known


@pytest.mark.parametrize("tidy", [True, False])
def test_answers_state_what_is_there_and_the_sentence_in_force(tidy) -> None:
    env = VIRL(preset="fixed" if tidy else "paper_code", city="Milan")
    env.reset(seed=1)
    observations = set()
    for _ in range(len(env.rail)):
        point = env.point
        said = json.loads(env.expert())
        assert said["action"] == point.action("absolute")
        assert said["current instruction"] == env.sentences[point.instruction]
        assert not said["current observation"].endswith((";", " "))
        assert ("intersection" in said["current observation"]) == point.intersection
        assert said["current observation"].startswith(point.expression)
        observations.add(said["current observation"])
        slip = json.loads(answer(env, "forward() now"))
        assert slip == said | {"action": "forward() now"}
        env.step(env.expert())
    assert "No landmarks nearby" in observations
    assert len(observations) > 1


def test_brief_answers_state_the_landmark_where_there_is_a_picture() -> None:
    words, pictures = brief(city="Milan"), brief(city="Milan", modality="vision", image_size=16)
    for env in (words, pictures):
        env.reset(seed=1)
    assert words.expert() == words.point.action("absolute")
    assert pictures.expert() == f"none; {pictures.point.action('absolute')}"
    assert answer(pictures, "stop()") == "none; stop()"


def test_seeds_of_demonstrations_follow_each_other() -> None:
    shown = list(brief().demonstrations(25, 7))
    seeds = [d.seed for d in shown]
    assert seeds == sorted(seeds)
    assert sorted(set(seeds)) == list(range(7, max(seeds) + 1))
    assert list(brief().demonstrations(0, 7)) == []


def test_the_corpus_has_the_texts_of_its_own_style_alone() -> None:
    texts = {style: list(VIRL(prompt_style=style).corpus()) for style in ("full", "brief")}
    assert set(OPENINGS) <= set(texts["full"])
    assert not set(OPENINGS) & set(texts["brief"])
    assert any(text.startswith("Wrong: ") for text in texts["brief"])
    assert not any(text.startswith("Wrong: ") for text in texts["full"])
    for found in texts.values():
        assert "Correct action." in found
