"""Episodes of V-IRL: budgets, retries, history, endings, and what the presets do with them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.base import EnvironmentFailure
from envs.virl.directions import short_expression
from envs.virl.env import VIRL
from envs.virl.geometry import SIDES
from envs.virl.route import name_and_side

WRONG = "stop() now"


def brief(**options):
    return VIRL(prompt_style="brief", **options)


def finish(env):
    """Play on with the expert; the rewards and the last info."""
    rewards = []
    while True:
        _, reward, terminated, truncated, info = env.step(env.expert())
        rewards.append(reward)
        if terminated or truncated:
            return rewards, terminated, info


@pytest.mark.parametrize("preset", ["fixed", "paper_text", "paper_code"])
@pytest.mark.parametrize("style", ["full", "brief"])
@pytest.mark.parametrize("action_space", ["absolute", "relative"])
def test_the_expert_gets_full_marks(preset, style, action_space) -> None:
    env = VIRL(preset=preset, prompt_style=style, action_space=action_space, city="Milan")
    for seed in range(15):
        env.reset(seed=seed)
        points = len(env.rail)
        rewards, terminated, info = finish(env)
        assert rewards == [1.0] * points
        assert terminated
        metrics = info["metrics"]
        assert metrics["success"] == metrics["first_try"] == metrics["per_step_accuracy"] == 1.0
        for name in ("recognition", "recognition_all"):
            assert metrics.get(name) == (1.0 if style == "full" else None)


def test_retries_live_inside_one_step_and_leave_no_trace() -> None:
    env = VIRL(verify_iter=3)
    first, _ = env.reset(seed=1)
    again, reward, *_, info = env.step(WRONG)
    # A full answer that states no observation costs what a wrong one costs.
    assert (again["restart"], reward, info["verdict"]) == (0, -1.5, "illegal")
    assert again["message"].startswith("You failed this trial because ")
    env.step(WRONG)
    after, reward, *_ = env.step(env.expert())
    assert after["restart"] == 1
    assert reward == 1.0
    assert env.left == 3
    assert "A_1: turn_direction(" in after["message"]
    assert WRONG not in after["message"]
    assert after["message"].split("[Obs")[0] == first["message"].split("[Obs")[0]


@pytest.mark.parametrize("budget", [1, 2, 5])
@pytest.mark.parametrize("preset", ["fixed", "paper_text"])
def test_fixed_grades_n_answers_and_adds_the_penalty_to_the_last(preset, budget) -> None:
    env = brief(preset=preset, verify_iter=budget)
    env.reset(seed=2)
    env.step(env.expert())
    for i in range(budget):
        shown, reward, terminated, truncated, info = env.step(WRONG)
        last = i == budget - 1
        assert reward == (-2.0 if last else -1.0)
        assert (terminated, truncated) == (False, last)
    assert info["verdict"] == "illegal"
    assert shown["message"].endswith("Again.")
    metrics = info["metrics"]
    assert metrics["success"] == metrics["first_try"] == 0.0
    assert metrics["per_step_accuracy"] == 1 / (1 + budget)


def test_paper_code_asks_for_one_answer_more_and_does_not_read_it() -> None:
    env = brief(preset="paper_code", verify_iter=2)
    env.reset(seed=2)
    assert env.step(WRONG)[1:4] == (-1.0, False, False)
    assert env.step(WRONG)[1:4] == (-1.0, False, False)
    _, reward, terminated, truncated, info = env.step(env.expert())
    assert (reward, terminated, truncated, info["verdict"]) == (-1.0, False, True, "exhausted")
    fixed = brief(verify_iter=2)
    fixed.reset(seed=2)
    fixed.step(WRONG)
    assert fixed.step(WRONG)[1:4] == (-2.0, False, True)


def test_an_exhausted_budget_costs_what_the_settings_say() -> None:
    for preset, first, last in (("fixed", -1.0, 16.0), ("paper_code", -1.0, 17.0)):
        env = brief(preset=preset, verify_iter=2, rewards={"exhausted": 17})
        env.reset(seed=2)
        assert env.step(WRONG)[1] == first
        if preset == "paper_code":
            env.step(WRONG)
        assert env.step(WRONG)[1:4] == (last, False, True)


def test_first_try_needs_every_first_answer() -> None:
    env = brief()
    env.reset(seed=5)
    env.step(WRONG)
    points = len(env.rail)
    _, _, info = finish(env)
    metrics = info["metrics"]
    assert (metrics["success"], metrics["first_try"]) == (1.0, 0.0)
    assert metrics["per_step_accuracy"] == points / (points + 1)


def test_max_steps_truncates_without_a_penalty() -> None:
    env = brief(max_steps=3)
    env.reset(seed=0)
    rewards, terminated, info = finish(env)
    assert rewards == [1.0] * 3
    assert not terminated
    assert info["metrics"]["success"] == 0.0
    whole = len(env.rail)
    env = brief(max_steps=whole)
    env.reset(seed=0)
    assert finish(env)[1]


def test_seeds_and_routes() -> None:
    env = brief(routes=10)
    shown, info = env.reset(seed=13)
    assert info["route"] == "New York/train/3"
    again, _ = brief(routes=10).reset(seed=13)
    assert shown == again
    assert env.reset(seed=13, options={"route": 4})[1]["route"] == "New York/train/4"
    rails = set()
    for seed in range(3, 103, 10):  # the same route, other choices on it
        env.reset(seed=seed)
        rails.add(tuple(p.place for p in env.rail))
    assert len(rails) > 3
    env.reset(seed=0)
    names = {env.reset()[1]["route"] for _ in range(60)}
    assert len(names) > 5
    headings = {env.reset(seed=s)[1] and env.rail[0].heading for s in range(30)}
    assert len(headings) > 15
    fixed = brief(init_heading=90)
    fixed.reset(seed=1)
    assert fixed.rail[0].heading == 90


def test_rule_change_touches_turns_only() -> None:
    absolute, relative = brief(), brief(action_space="relative")
    for seed in range(10):
        absolute.reset(seed=seed)
        relative.reset(seed=seed)
        assert [p.place for p in absolute.rail] == [p.place for p in relative.rail]
        for point in absolute.rail:
            first, second = point.action("absolute"), point.action("relative")
            assert (first == second) == (point.kind != "turn")


@pytest.mark.parametrize("style", ["brief", "full"])
def test_a_mixed_action_space_is_drawn_by_the_seed_stated_and_graded(style) -> None:
    env = VIRL(prompt_style=style, action_space="mixed", routes=50)
    plain = VIRL(prompt_style=style, routes=50)
    drawn = []
    for seed in range(40):
        shown, _ = env.reset(seed=seed)
        plain.reset(seed=seed)
        assert [p.place for p in env.rail] == [p.place for p in plain.rail]
        drawn.append(env.turn_space)
        words = {"absolute": "compass", "relative": "turn"}[env.turn_space]
        assert style == "full" or shown["message"].startswith(f"Use {words}.")
        assert style == "brief" or ("northwest" in shown["message"].split("[Action space]")[1]) == (
            env.turn_space == "absolute"
        )
        done = False
        while not done:
            _, reward, done, _, info = env.step(env.expert())
            assert reward == 1.0
        assert info["metrics"]["success"] == 1.0
        assert env.reset(seed=seed)[0] == shown
    assert 10 < drawn.count("relative") < 30


def test_vision_shows_a_new_picture_a_point_and_keeps_it_in_retries() -> None:
    env = brief(modality="vision", image_size=24, city="Lagos")
    first, _ = env.reset(seed=0)
    assert first["image"].shape == env.observation_space["image"].shape == (53, 53, 3)
    again = env.step("none; nothing")[0]
    assert again["restart"] == 0
    assert (again["image"] == first["image"]).all()
    env.step(env.expert())
    after = env.step(env.expert())[0]
    assert (after["image"] != first["image"]).any()
    legacy = brief(modality="vision", image_size=24, city="Lagos", view_layout="legacy")
    assert (legacy.reset(seed=0)[0]["image"] != first["image"]).any()


def recognition(env, state, seed=1, retry=False):
    """Both figures of a walk with the right actions; `state` makes the landmark's statement.

    retry: the truth is stated too, in a second answer to each point.
    """
    env.reset(seed=seed)
    done = False
    while not done:
        if retry:
            env.step(f"{state(env)}; nothing")
            text = env.expert()
        else:
            text = f"{state(env)}; {env.point.action('absolute')}"
        *_, done, _, info = env.step(text)
    return info["metrics"]["recognition"], info["metrics"]["recognition_all"]


def next_landmark(env):
    """What a player who does not look copies from the directions."""
    ahead = [point.expression for point in env.rail[env.position :] if point.landmark]
    return short_expression(ahead[0])


def every_landmark(env):
    return ", ".join(short_expression(leg.expression) for leg in env.route.legs if leg.landmark)


@pytest.mark.parametrize("seed", range(6))
def test_recognition_is_of_what_is_there_at_every_point_at_the_first_answer(seed) -> None:
    env = brief(modality="vision", image_size=16, city="Milan")
    env.reset(seed=seed)
    with_landmark = sum(point.landmark is not None for point in env.rail) / len(env.rail)
    assert 0 < with_landmark < 1

    def truth(env):
        return short_expression(env.point.expression) or "none"

    def elsewhere(env):
        name, side = name_and_side(env.point.expression)
        return f"{name} {SIDES[SIDES.index(side) - 1]}" if side else "none"

    assert recognition(env, truth, seed) == (1.0, 1.0)
    assert recognition(env, lambda env: "none", seed) == (pytest.approx(1 - with_landmark), 0.0)
    assert recognition(env, next_landmark, seed) == (pytest.approx(with_landmark), 0.0)
    assert recognition(env, elsewhere, seed) == (pytest.approx(1 - with_landmark), 0.0)
    if len([leg for leg in env.route.legs if leg.landmark]) > 1:
        assert recognition(env, every_landmark, seed) == (0.0, 0.0)
    # What the verifier said of the first answer is no sight.
    assert recognition(env, lambda env: "something", seed, retry=True) == (0.0, 0.0)


def test_a_statement_left_out_is_a_wrong_one_and_so_is_that_of_a_point_never_reached() -> None:
    env = brief(modality="vision", image_size=16, city="Milan", verify_iter=1)
    env.reset(seed=1)
    points = len(env.rail)
    env.step(env.expert())
    env.step(env.expert())
    env.step(env.point.action("absolute"))  # no statement
    assert env.point.landmark is not None
    *_, truncated, info = env.step("none; nothing")
    assert truncated
    assert info["metrics"]["recognition"] == 2 / points
    assert info["metrics"]["recognition_all"] == 0.0
    for text, cost in (("none; nothing", -1.0), ("nothing", -1.5), ("Red Bank left; x", -1.5)):
        env.reset(seed=1)
        assert env.step(text)[1] == cost - 1.0
    env.reset(seed=1)
    env.step(env.expert())
    metrics = env.step("none; nothing")[4]["metrics"]  # right as far as it went
    assert (metrics["recognition"], metrics["recognition_all"]) == (2 / points, 0.0)
    plain = VIRL(prompt_style="full", verify_iter=2)
    plain.reset(seed=1)
    assert plain.step('{"action": "stop()"}')[1] == -1.5
    assert plain.step('{"action": "stop()", "current observation": "Red Bank"}')[1] == -2.5


@pytest.mark.parametrize("preset", ["fixed", "paper_text", "paper_code"])
@pytest.mark.parametrize("tries", [1, 2, 3])
@pytest.mark.parametrize("style", ["full", "brief"])
def test_success_at_first_answers_is_always_a_metric(preset, tries, style) -> None:
    env = VIRL(preset=preset, verify_iter=tries, prompt_style=style)
    for seed in range(8):
        env.reset(seed=seed)
        slip = seed % len(env.rail) if seed % 2 and tries > 1 else None  # an error at one point
        slipped = ended = False
        while not ended:
            wrong = slip == env.position and not slipped
            slipped |= wrong
            *_, terminated, truncated, info = env.step(WRONG if wrong else env.expert())
            ended = terminated or truncated
        metrics = info["metrics"]
        assert metrics["success"] == 1.0
        assert metrics["first_try"] == float(not slipped)
    env.reset(seed=0)
    while True:
        *_, truncated, info = env.step(WRONG)
        if truncated:
            break
    assert (info["metrics"]["success"], info["metrics"]["first_try"]) == (0.0, 0.0)


def test_the_headline_is_the_first_try_wherever_there_are_several() -> None:
    assert VIRL.headline({}) == VIRL.headline({"verify_iter": 3}) == "first_try"
    assert VIRL.headline({"verify_iter": 1}) == "success"


def test_a_question_is_the_route_and_the_rule() -> None:
    env = brief(routes=500, max_legs=3)

    def question(seed, env=env):
        env.reset(seed=seed)
        return env.question

    assert question(3) == question(503)  # other heading and points, the same route
    assert question(3).startswith("New York/train/")
    assert question(3).endswith(", absolute")
    assert len({question(seed) for seed in range(500)}) > 400
    relative = question(3, brief(routes=500, max_legs=3, action_space="relative"))
    assert relative == question(3).replace("absolute", "relative")
    legacy = {"routes": 500, "max_legs": 3, "preset": "paper_code"}
    assert question(3, brief(**legacy)) == question(3)
    assert question(3, brief(**legacy, action_space="relative")).endswith("relative, not wrapped")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6), st.integers(0, 50), st.data())
def test_any_text_at_all_is_graded(texts, seed, data) -> None:
    preset = data.draw(st.sampled_from(["fixed", "paper_text", "paper_code"]))
    style = data.draw(st.sampled_from(["full", "brief"]))
    env = VIRL(preset=preset, prompt_style=style)
    env.reset(seed=seed)
    for text in texts:
        shown, reward, terminated, truncated, info = env.step(text)
        assert -3.5 <= reward <= 1
        assert not terminated
        assert isinstance(shown["message"], str)
        if truncated:
            assert info["metrics"]["success"] == 0.0
            break


def test_playing_on_after_the_end_is_an_error() -> None:
    env = brief()
    with pytest.raises(EnvironmentFailure):
        env.step("forward()")
    env.reset(seed=0)
    finish(env)
    with pytest.raises(EnvironmentFailure):
        env.step("forward()")
