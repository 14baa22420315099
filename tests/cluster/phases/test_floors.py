"""Floors of a run: the evaluation's own first episodes, kept once, and only where there are any."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cluster.environments import environments
from cluster.phases import floors as module
from cluster.phases.floors import floors_of_variants, write_floors
from configs.load import dump, load
from envs.base import EnvironmentFailure, TextEnv
from envs.baselines import floors
from envs.general_points import baselines
from envs.registry import make
from tests.support.environments import only_deadline
from tests.support.plugins import TEACHER


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(baselines, "STUDIED", 500)


def test_each_variant_has_its_baselines_on_its_own_episodes(tmp_path):
    cfg = load("gp_l", ["eval.episodes=9", "eval.seed=5000001"])
    write_floors(cfg, tmp_path)
    found = json.loads((tmp_path / "floors.json").read_text())
    assert list(found) == list(cfg.eval.variants)
    assert [file.name for file in tmp_path.iterdir()] == ["floors.json"]
    trained = [environments(cfg)["rollout"][1]]
    played = floors(make(*environments(cfg)["eval/three_tries"]), 9, 5000001, trained)
    assert found["three_tries"] == [
        {
            "baseline": floor.baseline.name,
            "description": floor.baseline.description,
            "n": 9,
            "questions": floor.questions,
            "metrics": floor.metrics,
        }
        for floor in played
    ]


def test_floors_are_played_once(tmp_path, monkeypatch):
    (tmp_path / "floors.json").write_text("{}")
    monkeypatch.setattr(module, "make", None)  # playing would call it
    write_floors(load("gp_l"), tmp_path)
    assert (tmp_path / "floors.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("settings", "episodes", "played"),
    [([], 1000, 200), ([], 50, 50), (["env.settings.modality=vision"], 1000, 32)],
)
def test_pictures_are_dear_so_fewer_are_played(monkeypatch, settings, episodes, played):
    asked = []
    monkeypatch.setattr(
        module, "floors", lambda env, n, seed, trained: asked.append((n, seed)) or []
    )
    cfg = load("gp_l", [*settings, f"eval.episodes={episodes}"])
    floors_of_variants(cfg)
    assert asked == [(played, cfg.eval.seed)] * len(cfg.eval.variants)


def look_up(cfg, variant="train"):
    rows = {floor.baseline.name: floor for floor in floors_of_variants(cfg)[variant]}
    return rows["look-up"].metrics["success"]


def test_what_is_known_by_heart_is_what_the_run_trained_on(tmp_path):
    keys = ["eval.episodes=20", "eval.variants={train: {}, rule: {face_rule: ranks}}"]
    split = "env.settings={prompt_style: brief, require_face: true, hands: train, verify_iter: 1"
    cfg = load("gp_l_debug", [*keys, f"{split}}}"])
    assert look_up(cfg, "rule") == 0.0
    ranks = load("gp_l_debug", [*keys, f"{split}, face_rule: ranks}}"])
    assert look_up(ranks) > 0.5
    # A run knows what the runs that it continues were trained on.
    (tmp_path / "checkpoints" / "sft").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(dump(ranks))
    continued = replace(cfg, model=replace(cfg.model, path=str(tmp_path / "checkpoints" / "sft")))
    assert look_up(continued, "rule") > 0.5


@pytest.mark.parametrize("kind", ["no baselines", "breaks", "is broken"])
def test_what_cannot_be_played_leaves_no_file(tmp_path, monkeypatch, capsys, kind):
    def broken(env, episodes, seed, trained):
        kinds = {"breaks": EnvironmentFailure, "is broken": LookupError}
        raise kinds[kind]("no such picture")

    if kind == "no baselines":
        monkeypatch.setattr(TextEnv, "baselines", lambda self, seed, trained: [])
        monkeypatch.delattr("envs.general_points.env.GeneralPoints.baselines")
    else:
        monkeypatch.setattr(module, "floors", broken)
    write_floors(load("gp_l"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    assert ("eval/train: its floors are not known: no such picture" in said) == (
        kind != "no baselines"
    )


def test_baselines_of_others_are_played_where_they_may_hang(capsys, monkeypatch):
    only_deadline(monkeypatch, "baselines")
    keys = [f"env.id={TEACHER}", "eval.variants={a: {}}", "eval.episodes=2", "sft.steps=0"]
    cfg = load("gp_l_debug", [*keys, "env.settings={}"])
    (ten,) = floors_of_variants(cfg)["a"]
    assert (ten.baseline.name, ten.episodes, ten.metrics["success"]) == ("ten", 2, 1.0)
    cluster = replace(cfg.cluster, env_deadline_s=2.0)
    env = replace(cfg.env, settings={"kind": "stuck_baselines"})
    stuck = replace(cfg, env=env, cluster=cluster)
    assert floors_of_variants(stuck) == {"a": []}
    words = "eval/a: its floors are not known: environment baselines: took longer than "
    assert capsys.readouterr().out == f"{words}cluster.env_deadline_s = 2\n"
