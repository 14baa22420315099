"""V-IRL's baselines: none sees the landmark, and each is at its floor."""

from dataclasses import replace
from itertools import product

import pytest

from envs.baselines import floors, play
from envs.virl.baselines import Facts, answer, follow, next_landmark, study, walk
from envs.virl.env import VIRL
from envs.virl.export import export
from envs.virl.rail import Point
from envs.virl.settings import Settings
from envs.virl.world import open_world
from tests.support.slow import fast

PRESETS = ("fixed", "paper_text", "paper_code")
STYLES, ACTION_SPACES = ("full", "brief"), ("absolute", "relative", "mixed")
EACH_ONCE = (
    ("fixed", "brief", "relative"),
    ("paper_text", "full", "absolute"),
    ("paper_code", "full", "mixed"),
)

START = Facts(
    stated="observation",
    action_space="absolute",
    turns=("turn_direction(north)", "turn_direction(east)"),
    ends=("", "The destination Red Bank is on your left"),
    history=(),
    intersection=False,
    refused=0,
)
CORNER = replace(START, history=("turn_direction(north)", "forward()"), intersection=True)
LAST = replace(START, history=(*CORNER.history, "turn_direction(east)", "forward()"))


def by_name(env, episodes=40, seed=0):
    return {row.baseline.name: row.metrics for row in floors(env, episodes, seed)}


@pytest.mark.parametrize(
    ("preset", "style", "action_space"), fast(EACH_ONCE, product(PRESETS, STYLES, ACTION_SPACES))
)
def test_two_tries_solve_every_route_unseen_and_the_first_try_none(
    preset, style, action_space
) -> None:
    env = VIRL(preset=preset, prompt_style=style, action_space=action_space, verify_iter=2)
    figures = by_name(env)
    for name in ("blind", "copying", "listing"):
        assert (figures[name]["success"], figures[name]["first_try"]) == (1.0, 0.0)
    assert figures["look-up"]["success"] == 1.0
    assert 0.1 < figures["look-up"]["first_try"] < 0.9
    assert figures["random"]["success"] <= 0.05
    once = VIRL(preset=preset, prompt_style=style, action_space=action_space, verify_iter=1)
    figures = by_name(once)
    assert all(figures[name]["success"] == 0.0 for name in ("blind", "copying", "listing"))
    assert figures["look-up"]["success"] == figures["look-up"]["first_try"] > 0.1


def test_recognition_of_policies_that_do_not_see() -> None:
    env = VIRL(modality="vision", image_size=16, prompt_style="brief", city="Milan")
    figures = by_name(env, episodes=12)
    with_landmark = points = 0
    for seed in range(12):
        env.reset(seed=seed)
        with_landmark += sum(point.landmark is not None for point in env.rail) / len(env.rail)
        points += 1 / len(env.rail)
    # Blind is right wherever the text tells, which is everywhere but at the destination.
    assert figures["blind"]["recognition"] == pytest.approx(1 - points / 12)
    assert figures["copying"]["recognition"] == pytest.approx(with_landmark / 12)
    assert figures["listing"]["recognition"] < 0.15
    # The first point never has a landmark.
    assert figures["standing"]["recognition"] == pytest.approx(points / 12)
    assert figures["standing"]["progress"] == 0.0
    for name in ("random", "standing", "blind", "copying", "listing"):
        assert figures[name]["recognition_all"] == 0.0
    assert figures["look-up"]["recognition_all"] == figures["look-up"]["first_try"]


def test_the_facts_do_not_tell_what_is_to_be_seen() -> None:
    env = VIRL(modality="vision", image_size=16, prompt_style="brief", city="Milan")
    for seed in range(4):
        env.reset(seed=seed)
        while env.point.kind != "stop":
            env.step(env.expert())
        at_the_end = env.facts()
        assert at_the_end.on_last_leg
        env.rail[env.position] = replace(env.point, kind="forward", expression="", landmark=None)
        assert env.facts() == at_the_end


def test_walking() -> None:
    assert walk(START, None) == "turn_direction(north)"
    on_the_way = replace(START, history=CORNER.history)
    assert walk(on_the_way, 0) == walk(replace(on_the_way, refused=1), None) == "forward()"
    assert walk(CORNER, 0) == "turn_direction(east)"
    assert (LAST.turned, LAST.walked, LAST.on_last_leg) == (2, 1, True)
    assert (START.turned, START.walked, START.on_last_leg) == (0, 0, False)
    assert walk(LAST, None) == walk(LAST, 0) == walk(LAST, 2) == "forward()"
    assert walk(LAST, 1) == walk(replace(LAST, refused=1), None) == "stop()"
    assert walk(replace(LAST, refused=1), 1) == "forward()"
    assert walk(replace(LAST, refused=2), None) == "forward()"


def test_what_is_stated() -> None:
    brief = {"stated": "landmark"}
    end = "Red Bank left; stop()"
    assert follow(replace(LAST, **brief), "stop()") == end
    assert follow(replace(LAST, **brief), "forward()") == "none; forward()"
    assert follow(replace(CORNER, **brief), "x") == "none; x"
    assert follow(replace(CORNER, **brief, ends=("Old Inn is on your right", "")), "x") == (
        "Old Inn right; x"
    )
    assert next_landmark(START) == next_landmark(LAST) == START.ends[1]
    assert next_landmark(replace(LAST, ends=("a", "b"))) == "b"
    assert next_landmark(replace(CORNER, ends=("a", "b"))) == "a"
    assert answer(
        replace(START, **brief), "x", ["a is on your left", "", "b is on your right"]
    ) == ("a left, b right; x")
    assert answer(replace(START, stated="nothing"), "x", ["a"]) == "x"
    full = answer(CORNER, "stop()", [])
    assert '"current observation": "No landmarks nearby; You observe an intersection"' in full
    assert '"action": "stop()"' in full
    assert '"current observation": "a"' in answer(LAST, "x", ["a"])


def test_habits_are_of_the_destination_or_of_all() -> None:
    def rail(end: str, steps: int) -> list[Point]:
        place = (0.0, 0.0)
        walk = [Point(place, 0, "forward")] * steps
        turns = [Point(place, 0, "turn"), *walk, Point(place, 0, "turn")]
        return [*turns, *walk, Point(place, 0, "stop", expression=end)]

    bank = START.ends[1]
    habit = study(
        [rail(bank, 2), rail("b", 1), rail(bank, 2), rail(bank, 4), rail("b", 1), rail("c", 1)]
    )
    assert habit(START) == 2
    assert habit(replace(START, ends=("", "unknown"))) == 1


def test_the_routes_studied_are_those_of_training() -> None:
    long = VIRL(max_legs=5, city="Milan", split="test")
    short, milan = {"max_legs": 2}, {"city": "Milan", "split": "test"}

    def walks(now):
        return 1

    def rails(trained):
        studied = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("envs.virl.env.STUDIED", 20)
            patch.setattr("envs.virl.env.study", lambda rails: studied.extend(rails) or walks)
            baselines = long.baselines(0, trained)
            look_up = next(b for b in baselines if b.name == "look-up")
            play(long, look_up, 0)
        return studied

    def turns(rail):
        return sum(point.kind == "turn" for point in rail)

    assert {turns(rail) for rail in rails([short])} == {2}
    assert max(turns(rail) for rail in rails([])) > 2
    assert rails([milan, short]) == rails([milan]) + rails([short])
    assert rails([milan]) != rails([{}]) == rails([])


def test_a_look_up_stops_where_the_routes_that_it_studied_did() -> None:
    env, short = VIRL(verify_iter=1), {"max_legs": 2}
    known = by_name(env, seed=0)["look-up"]["success"]
    assert {row.baseline.name: row.metrics for row in floors(env, 40, 0, [short])}["look-up"][
        "success"
    ] != known


def test_a_seed_draws_the_same_answers_and_another_one_others() -> None:
    env = VIRL(prompt_style="brief", verify_iter=5)

    def said(seed):
        shown, _ = env.reset(seed=0)
        random = env.baselines(seed)[0]
        return [random.answer(shown) for _ in range(20)]

    assert said(3) == said(3) != said(4)
    assert len(set(said(3))) > 5


def test_baselines_play_a_released_data_set(tmp_path) -> None:
    export(open_world(Settings(city="benchmark")), range(4), tmp_path)
    env = VIRL(world=str(tmp_path))
    for baseline in env.baselines(0)[2:]:
        assert play(env, baseline, 1)["success"] == 1.0
