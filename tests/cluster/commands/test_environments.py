"""Commands on an environment: data that its run would write too, floors, what is drawn."""

import argparse

import pyarrow.parquet as pq
import pytest

from cluster.cli import main
from cluster.commands.environments import named_environment
from cluster.environments import load_run
from configs.load import ConfigError, load
from configs.schema import RunConfig
from tests.cluster.commands.folders import moved_run, said

GP = "cardinal/GeneralPoints-v0"
GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"

ROW = '{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}'
ANOTHER = ["env.id=cardinal/VIRL-v0", "env.settings={}"]
DEBUG = ("env.settings.prompt_style=brief", "sft.demonstrations=40", "seed=3")


def test_data_of_an_environment(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", GP, "--n", "5", "--out", str(out), "prompt_style=brief"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert pq.read_table(out)["environment"].to_pylist() == [GP] * 5


def test_data_does_not_go_into_the_folder_of_a_run(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "lease").mkdir()
    out = tmp_path / "demonstrations"
    assert main(["data", GP, "--n", "5", "--out", str(out)]) == 2
    assert f"--out {out}: {tmp_path} is a run folder" in said(capsys)
    assert not out.exists()


@pytest.mark.parametrize("name", [GP, "gp_l_debug"])
def test_baselines_of_an_environment_or_of_a_configuration(name, capsys):
    key = "verify_iter" if name == GP else "env.settings.verify_iter"
    assert main(["baseline", name, f"{key}=2", "--episodes", "3"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["baseline", "first_try", "success"]
    assert any(row.split()[0] == "look-up" and row.split()[-2] == "3" for row in rows)


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ([GP], RunConfig().eval.seed),
        (["gp_l_debug"], load("gp_l_debug").eval.seed),
        ([GP, "--seed", "7"], 7),
    ],
)
def test_baselines_play_what_an_evaluation_plays(arguments, first, monkeypatch):
    played = []
    monkeypatch.setattr("envs.baselines.show", lambda env, settings, n, seed: played.append(seed))
    assert main(["baseline", *arguments, "--episodes", "1"]) == 0
    assert played == [first]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "0"], "--episodes 0: must be at least 1"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--seed", "4294967296"], "--seed 4294967296: must be below 4294967296 (2^32)"),
        (["face_rul=ten"], "nearest is face_rule"),
    ],
)
def test_a_floor_that_cannot_be_measured(arguments, words, capsys):
    assert main(["baseline", GP, *arguments]) == 2
    assert words in said(capsys)


@pytest.mark.parametrize("command", ["baseline", "play", "gallery"])
@pytest.mark.parametrize("pair", ["eval.episodes=60", "env.memory_gib=2", "env.settingsx=1"])
def test_a_key_without_effect_is_refused(command, pair, capsys):
    out = ["--out", "there"] if command == "gallery" else []
    assert main([command, "gp_l_debug", "preset=paper", pair, *out]) == 2
    assert f"{pair}: has no effect on {command}, which reads env.id, env.settings, preset" in said(
        capsys
    )


@pytest.mark.parametrize("command", ["baseline", "play", "gallery"])
def test_variants_of_another_environment_are_no_obstacle(command):
    """gp_l's variants hold settings that only its own environment has."""
    with pytest.raises(ConfigError, match=r"eval\.variants\.held_out\.hands: there is no such key"):
        load_run("gp_l", ANOTHER)
    options = argparse.Namespace(
        command=argparse.Namespace(name=command), env="gp_l", settings=ANOTHER
    )
    env_id, settings, cfg = named_environment(options)
    assert (env_id, settings["preset"], cfg.eval.variants) == ("cardinal/VIRL-v0", "fixed", {})


def test_data_of_a_configuration_is_what_its_run_would_write(tmp_path):
    from cluster.driver.train import prepare_demonstrations

    out = tmp_path / "out"
    assert main(["data", "gp_l_debug", *DEBUG, "--out", str(out)]) == 0
    written = prepare_demonstrations(load("gp_l_debug", DEBUG), tmp_path / "run")
    parts = sorted(p.name for p in out.iterdir())
    assert parts == ["_demonstrations.json", "part-00000.parquet"]
    for part in parts:
        assert (out / part).read_bytes() == (tmp_path / "run/demonstrations" / part).read_bytes()
    assert written == str(tmp_path / "run" / "demonstrations")


def test_data_goes_neither_into_a_run_nor_among_other_files(tmp_path, capsys):
    run, other = moved_run(tmp_path), tmp_path / "other"
    (run / "metrics.jsonl").touch()
    other.mkdir()
    (other / "notes.txt").touch()
    for out, words in (
        (run, f"{run} is a run folder"),
        (run / "new" / "deep", f"{run} is a run folder"),
        (other, "holds other files"),
        (other / "notes.txt", "is a file; it must be a folder"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(["data", GP, "--n", "5", "--out", str(out)]) == 2
        shown = said(capsys)
        assert f"--out {out}: " in shown
        assert words in shown
        assert sorted(tmp_path.rglob("*")) == before
    for command, option in (("gallery", "--out"), ("play", "--pictures")):
        assert main([command, GP, option, str(run / "pictures")]) == 2
        assert f"{option} {run / 'pictures'}: {run} is a run folder" in said(capsys)
    (other / "notes.txt").unlink()
    for _ in range(2):  # an empty folder, then one with the same demonstrations
        assert main(["data", GP, "--n", "5", "--out", str(other)]) == 0


@pytest.mark.parametrize(
    "option", [["--n", "5"], ["--seed", "7"], ["--seed", "0"], ["sft.steps=3"]]
)
def test_converted_rows_have_no_number_seed_or_setting(tmp_path, capsys, option):
    (tmp_path / "a.jsonl").write_text(ROW)
    out = tmp_path / "out"
    assert main(["data", str(tmp_path / "a.jsonl"), *option, "--out", str(out)]) == 2
    assert f"{' '.join(option)}: has no effect on {tmp_path}/a.jsonl" in said(capsys)
    assert not out.exists()


def test_a_folder_of_demonstrations_is_converted_too(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "mine" / name).write_text(ROW)
    assert main(["data", str(tmp_path / "mine"), "--out", str(tmp_path / "out")]) == 0
    assert pq.read_table(tmp_path / "out").num_rows == 2
    capsys.readouterr()
    (tmp_path / "a.csv").touch()
    assert main(["data", str(tmp_path / "a.csv"), "--out", str(tmp_path / "no")]) == 2
    assert f"{tmp_path}/a.csv: demonstrations are files named *.parquet" in said(capsys)


def test_a_name_with_a_slash_is_told_of_modules(capsys):
    assert main(["play", "example/Sums-v0"]) == 2
    assert "; one that a module of yours registers is named MODULE:ID" in said(capsys)


def test_a_project_that_has_a_config_yaml_is_no_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert main(["data", GP, "--n", "5", "--out", str(tmp_path / "data")]) == 0


@pytest.mark.parametrize("command", ["play", "baseline", "gallery", "data"])
@pytest.mark.parametrize(
    ("name", "near"), [("gp_m", "gp_l"), ("cardinal/GeneralPoint-v0", GP), ("xyz", "there are")]
)
def test_a_name_of_neither_an_environment_nor_a_configuration(command, name, near, capsys):
    out = ["--out", "x"] if command in ("gallery", "data") else []
    assert main([command, name, *out]) == 2
    shown = said(capsys)
    assert f"{name}: is neither the id of an environment nor a configuration" in shown
    assert near in shown


def test_an_environment_without_text_is_refused(capsys, tmp_path):
    for command in (["play"], ["gallery", "--out", str(tmp_path / "out")]):
        assert main([*command, "CartPole-v1"]) == 2
        assert "CartPole-v1: its observations are Box" in said(capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_played_and_drawn(monkeypatch, tmp_path, capsys):
    seen = []

    class Game:
        def __init__(self, env, seed, pictures):
            seen.append((env.settings.prompt_style, seed, pictures))

        def run(self):
            seen.append("run")

    monkeypatch.setattr("envs.viewer.play.Game", Game)
    for named in ([GP, "prompt_style=brief"], ["gp_l", "env.settings.verify_iter=2"]):
        assert main(["play", *named, "--seed", "7", "--pictures", "here"]) == 0
        assert seen == [("brief", 7, "here"), "run"]
        seen.clear()
    monkeypatch.setattr(
        "envs.viewer.gallery.write_gallery", lambda env, *rest: seen.append(rest) or "page"
    )
    assert main(["gallery", GP, "prompt_style=brief", "--n", "2", "--out", "there"]) == 0
    assert seen[-1] == (GP, {"prompt_style": "brief"}, 2, 0, "there")
    assert capsys.readouterr().out == "page\n"
    assert main(["gallery", GP, "--n", "0", "--out", "there"]) == 2
    assert main(["gallery", GP, "--seed", "-1", "--out", "there"]) == 2


def test_what_an_environment_lacks_is_one_sentence(capsys, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    assert main(["data", GUESS, *out]) == 2
    assert f"{GUESS} has no demonstrations: it does not override TextEnv" in said(capsys)
    assert main(["gallery", GUESS, *out]) == 2
    assert f"{GUESS} has no expert: it does not override TextEnv.expert" in said(capsys)
    assert main(["baseline", GUESS]) == 2
    assert "has no baselines" in said(capsys)
    assert main(["play", GUESS, "larges=3"]) == 2
    assert f"{GUESS} cannot be made: " in said(capsys)
    assert not (tmp_path / "out").exists()
