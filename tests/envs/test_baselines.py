"""Baselines are played on given seeds, averaged over what is measured, and shown in a table."""

import pytest

from envs.base import Baseline, TextEnv
from envs.baselines import Floor, floor, floors, play, show, table
from envs.registry import make


class Parity(TextEnv):
    """Say whether the seed is odd; two tries; only odd seeds measure recognition."""

    Settings = type(make("cardinal/VIRL-v0", {}).settings)

    def __init__(self, players=("even", "odd")) -> None:
        self.make_spaces(None)
        self.players = players

    def reset(self, *, seed=None, options=None):
        self.truth, self.tries = ("even", "odd")[seed % 2], 0
        self.question = f"{seed % 4}"
        return {"message": "?", "restart": 1}, {}

    def step(self, action):
        self.tries += 1
        right, over = action == self.truth, self.tries == 2
        metrics = {"success": float(right), "first_try": float(right and self.tries == 1)}
        if self.truth == "odd":
            metrics["recognition"] = 0.5
        shown = {"message": f"no, {self.truth}", "restart": 0}
        return shown, 0.0, right, over and not right, {"metrics": metrics}

    def expert(self):
        return self.truth

    def baselines(self, seed, trained=()):
        say = {
            name: Baseline(name, f"says {name}", lambda shown, n=name: n) for name in self.players
        }
        return [*say.values(), Baseline("echo", "reads", lambda shown: shown["message"][4:])]

    def demonstrations(self, n, seed):
        return iter(())

    def corpus(self):
        return iter(())


def test_an_episode_is_played_to_its_end_with_what_is_shown() -> None:
    env = Parity()
    even, _, echo = env.baselines(0)
    assert play(env, even, 2) == {"success": 1.0, "first_try": 1.0}
    assert play(env, even, 3)["success"] == 0.0
    assert play(env, echo, 2) == {"success": 1.0, "first_try": 0.0}


def test_floors_are_means_over_the_seeds_and_count_questions() -> None:
    even, odd, echo = floors(Parity(), episodes=6, seed=1)  # 1 2 3 4 5 6: 1 2 3 0 1 2
    assert (even.episodes, even.questions) == (6, 4)
    assert even.metrics == {"success": 0.5, "first_try": 0.5, "recognition": 0.5}
    assert odd.metrics["first_try"] == 0.5
    assert (echo.metrics["success"], echo.metrics["first_try"]) == (1.0, 0.0)
    only_odd = floor(Parity(), even.baseline, range(1, 8, 2))
    assert only_odd.metrics["success"] == 0.0
    assert only_odd.questions == 2


def test_seeds_without_a_question_of_their_own_are_distinct() -> None:
    env = Parity()
    reset = env.reset

    def without(**keywords):
        shown = reset(**keywords)
        env.question = ""
        return shown

    env.reset = without
    assert floor(env, env.baselines(0)[0], range(9)).questions == 9


def test_the_table_leads_with_the_headline_and_says_what_is_read() -> None:
    baseline = Baseline("blind", "reads nothing", lambda shown: "")
    rows = [
        Floor(baseline, 200, 7, {"success": 1.0, "first_try": 0.0125, "recognition": 0.25}),
        Floor(Baseline("other", "reads", lambda shown: ""), 200, 7, {"success": 0.5}),
    ]
    heading, first, second, empty, *notes = table(rows, "first_try").splitlines()
    assert heading.split() == ["baseline", "first_try", "success", "recognition", "n", "distinct"]
    assert first.split() == ["blind", "1.2", "%", "100.0", "%", "25.0", "%", "200", "7"]
    assert second.split() == ["other", "-", "50.0", "%", "-", "200", "7"]
    assert empty == ""
    assert notes == ["blind: reads nothing", "other: reads"]
    assert table(rows, "success").split()[1] == "success"


def test_show_prints_and_refuses_an_environment_without_baselines(capsys) -> None:
    show(Parity(), {"verify_iter": 1}, 2, 0)
    assert capsys.readouterr().out.splitlines()[0].split()[1] == "success"
    show(Parity(), {}, 2, 0)
    assert capsys.readouterr().out.splitlines()[0].split()[1] == "first_try"
    env = Parity()
    env.baselines = lambda seed, trained: []
    with pytest.raises(ValueError, match="Parity has no baselines"):
        show(env, {}, 2, 0)


@pytest.mark.parametrize("env_id", ["cardinal/GeneralPoints-v0", "cardinal/VIRL-v0"])
def test_built_in_environments_have_baselines_with_descriptions(env_id) -> None:
    baselines = make(env_id, {}).baselines(0)
    names = [baseline.name for baseline in baselines]
    assert {"random", "blind", "look-up"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(len(baseline.description) > 10 for baseline in baselines)
