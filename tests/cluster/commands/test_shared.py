"""What commands share: the configuration that arguments name, a run folder's, least values."""

import argparse
from pathlib import Path

import pytest

from cluster.commands.shared import (
    CONFIG,
    configuration,
    configuration_of,
    require_at_least,
    require_file,
    require_folder,
    require_outside_of_runs,
    writing,
)
from configs.load import ConfigError, dump, load
from tests.cluster.commands.folders import moved_run


def parsed(arguments, *words):
    parser = argparse.ArgumentParser()
    for add in arguments:
        add(parser)
    return parser.parse_args(words)


def test_keys_after_the_configuration_override_it():
    assert configuration(parsed(CONFIG, "gp_l_debug")) == load("gp_l_debug")
    assert configuration(parsed(CONFIG, "gp_l_debug", "seed=7", "name=x")).seed == 7
    with pytest.raises(ConfigError, match=r"env\.settings\.face_rul: there is no such key"):
        configuration(parsed(CONFIG, "gp_l_debug", "env.settings.face_rul=ten"))


def test_a_run_folders_place_wins_over_the_written_one(tmp_path, monkeypatch):
    run = moved_run(tmp_path)
    cfg = configuration_of(str(run))
    assert (cfg.name, cfg.cluster.root) == (run.name, str(tmp_path))
    assert cfg.sft == load("gp_l_debug").sft
    monkeypatch.chdir(run)  # a path that is not absolute
    assert configuration_of(".") == cfg


def test_a_run_that_trains_nothing_is_read(tmp_path):
    run = moved_run(tmp_path)
    start = load("gp_l_debug", ["sft.steps=0", "ppo.updates=0"], allow_no_training=True)
    (run / "config.yaml").write_text(dump(start))
    assert configuration_of(str(run)).sft.steps == 0


def test_a_run_is_read_where_its_environment_cannot_be_imported(tmp_path):
    run = moved_run(tmp_path)
    (run / "config.yaml").write_text(dump(load("gp_l_debug", ["env.id=nomodule:X-v0"])))
    assert configuration_of(str(run)).env.id == "nomodule:X-v0"


def test_a_run_whose_configuration_is_refused_names_its_file(tmp_path):
    run = moved_run(tmp_path)
    (run / "config.yaml").write_text("ppo: {updats: 3}")
    with pytest.raises(ConfigError, match=f"^{run}/config.yaml: ppo.updats: there is no such key"):
        configuration_of(str(run))


def test_what_is_no_run_folder_is_named(tmp_path):
    absent = tmp_path / "absent"
    for folder, words in ((tmp_path, "holds no config.yaml"), (absent, "there is no such run")):
        with pytest.raises(ConfigError, match=f"^{folder}: {words}"):
            configuration_of(str(folder))


def test_an_options_least_value():
    require_at_least(1, "--n", 1)
    require_at_least(1, "--n", None)
    with pytest.raises(ConfigError, match="--n 0: must be at least 1"):
        require_at_least(1, "--n", 0)


@pytest.mark.parametrize("mark", ["metrics.jsonl", "lease"])
@pytest.mark.parametrize("below", ["", "demonstrations", "a/b"])
def test_nothing_is_written_into_the_folder_of_a_run(tmp_path, mark, below):
    run = moved_run(tmp_path)
    require_outside_of_runs("--out", str(run / below))  # some folder with a config.yaml
    (run / mark).mkdir()
    out = run / below
    with pytest.raises(ConfigError) as error:
        require_outside_of_runs("--out", str(out))
    assert str(error.value) == f"--out {out}: {run} is a run folder; choose another place"
    require_outside_of_runs("--out", str(tmp_path / "beside"))


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    require_file("--out", str(tmp_path / "file"))
    require_folder("--out", str(tmp_path / "new" / "deep"))
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    for require, place, words in (
        (require_file, tmp_path / "no" / "x", "there is no such folder to write it in"),
        (require_file, tmp_path, "is a folder; it must be a file"),
        (require_file, "/proc/x.html", "its folder: cannot be written to: "),
        (require_folder, "/proc/x/y", "cannot be written to: "),
        (require_folder, tmp_path / "file" / "x", "cannot be written to: Not a directory; it must"),
    ):
        with pytest.raises(ConfigError) as error:
            require("--out", str(place))
        assert str(error.value).startswith(f"--out {place}: {words}")


@pytest.mark.parametrize("require", [require_file, require_folder])
def test_neither_files_nor_folders_go_into_a_run(tmp_path, require):
    run = moved_run(tmp_path)
    (run / "lease").mkdir()
    with pytest.raises(ConfigError, match=f"{run} is a run folder; choose another place$"):
        require("--out", str(run / "x"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device: 'page.html'"),
        (PermissionError(13, "Permission denied", "x"), "[Errno 13] Permission denied: 'x'"),
        (OSError("cannot write mode F as PNG"), "cannot write mode F as PNG"),
    ],
)
def test_an_error_of_a_file_that_is_written_names_it(error, words):
    with pytest.raises(type(error)) as raised, writing(Path("page.html")):
        raise error
    assert str(raised.value) == words
