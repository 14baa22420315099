"""data: what is written is what the run itself would write."""

import pyarrow.parquet as pq

from cluster.cli import main
from configs.load import load
from tests.cluster.commands.folders import said

GP = "cardinal/GeneralPoints-v0"

DEBUG = ("env.settings.prompt_style=brief", "sft.demonstrations=40", "seed=3")


def test_data_of_an_environment(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", GP, "--n", "5", "--out", str(out), "prompt_style=brief"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert pq.read_table(out)["environment"].to_pylist() == [GP] * 5


def test_data_of_a_configuration_is_what_its_run_would_write(tmp_path):
    from cluster.train import prepare_demonstrations

    out = tmp_path / "out"
    assert main(["data", "gp_l_debug", *DEBUG, "--out", str(out)]) == 0
    written = prepare_demonstrations(load("gp_l_debug", DEBUG), tmp_path / "run")
    parts = sorted(p.name for p in out.iterdir())
    assert parts == ["_demonstrations.json", "part-00000.parquet"]
    for part in parts:
        assert (out / part).read_bytes() == (tmp_path / "run/demonstrations" / part).read_bytes()
    assert written == str(tmp_path / "run" / "demonstrations")


def test_an_environment_without_text_is_refused(capsys, tmp_path):
    for command in (["play"], ["gallery", "--out", str(tmp_path / "out")]):
        assert main([*command, "CartPole-v1"]) == 2
        assert "CartPole-v1 is a" in said(capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_played_and_drawn(monkeypatch, tmp_path, capsys):
    seen = []

    class Game:
        def __init__(self, env, seed, pictures):
            seen.append((env.settings.prompt_style, seed, pictures))

        def run(self):
            seen.append("run")

    monkeypatch.setattr("envs.viewer.play.Game", Game)
    assert main(["play", GP, "prompt_style=brief", "--seed", "7", "--pictures", "here"]) == 0
    assert seen == [("brief", 7, "here"), "run"]
    monkeypatch.setattr(
        "envs.viewer.gallery.write_gallery", lambda env, *rest: seen.append(rest) or "page"
    )
    assert main(["gallery", GP, "prompt_style=brief", "--n", "2", "--out", "there"]) == 0
    assert seen[-1] == (GP, {"prompt_style": "brief"}, 2, 0, "there")
    assert capsys.readouterr().out == "page\n"
    assert main(["gallery", GP, "--n", "0", "--out", "there"]) == 2
    assert main(["gallery", GP, "--seed", "-1", "--out", "there"]) == 2
