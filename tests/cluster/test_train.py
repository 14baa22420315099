"""The order of a run on the driver, and what is left of it however it ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster import floors, learner_group
from cluster import train as module
from cluster.failures import RunFailure
from cluster.train import prepare_demonstrations, prepare_model, train
from configs.load import load
from report.page import write_report
from report.summary import ended
from tests.support.example_run import make_run


class FakePool:
    def __init__(self, done):
        self.done = done

    def acquire(self, cfg, model):
        self.done.append(("acquire", model))
        return SimpleNamespace(gpu=False), ["worker"], "buffer"

    def release(self):
        self.done.append("release")

    def close(self):
        self.done.append("close")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Trains with a group that raises an error; gives what was done, in order."""
    cfg = load("gp_l_debug", ["name=one", f"cluster.root={tmp_path}"])
    monkeypatch.setattr(module, "prepare_model", lambda cfg, folder: "initial")
    monkeypatch.setattr(module, "prepare_demonstrations", lambda cfg, folder: "parquet")

    def begin(error=None, resume=False):
        done = []

        def group(job, demonstrations, plan):
            done.append((job.folder, job.model, job.workers, job.buffer, job.channel))
            done.append(demonstrations)
            if error is not None:
                raise error

        monkeypatch.setattr(floors, "write_floors", lambda cfg, folder: done.append(folder.name))
        monkeypatch.setattr(learner_group, "run_learner_group", group)
        try:
            assert train(cfg, resume, FakePool(done)) == 0
        finally:
            begin.done = done
        return done

    return begin


def test_actors_then_floors_and_demonstrations_then_the_group(run, tmp_path):
    folder = tmp_path / "one"
    assert run() == [
        ("acquire", "initial"),
        "one",  # floors, while engines start
        (str(folder), "initial", ["worker"], "buffer", "object_store"),
        "parquet",
        "release",
    ]
    assert ended(folder) == {"status": "finished", "cause": ""}
    assert (folder / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (RunFailure("an engine was lost"), "failed", "an engine was lost"),
        (KeyboardInterrupt(), "interrupted", ""),
    ],
)
def test_however_it_ends_actors_end_and_the_folder_says_how(run, tmp_path, error, status, cause):
    with pytest.raises(type(error)):
        run(error)
    assert run.done[-1] == "close"
    assert ended(tmp_path / "one") == {"status": status, "cause": cause}
    assert "release" not in run.done
    run(resume=True)
    assert ended(tmp_path / "one")["status"] == "finished"


def test_the_last_lines_are_the_summary_that_was_written(tmp_path, capsys):
    module._show_result(tmp_path)  # a run without a record has none
    assert capsys.readouterr().out == ""
    write_report(make_run(tmp_path / "run", upto="start"))
    module._show_result(tmp_path / "run")
    assert "from the first record to the last" in capsys.readouterr().out


def test_a_tiny_model_is_made_once_and_never_in_half(monkeypatch, tmp_path):
    made = []

    def make(cfg, folder):
        assert folder.name == "model.new"
        folder.mkdir()
        made.append(folder)

    monkeypatch.setattr(module, "make_tiny_model", make)
    (tmp_path / "model.new").mkdir()  # of an attempt that was killed
    (tmp_path / "model.new" / "half").write_text("")
    for _ in range(2):
        assert prepare_model(load("gp_l_debug"), tmp_path) == str(tmp_path / "model")
    assert len(made) == 1
    assert list((tmp_path / "model").iterdir()) == []


def test_without_sft_there_are_no_demonstrations(tmp_path):
    assert prepare_demonstrations(load("gp_l_debug", ["sft.steps=0"]), tmp_path) is None


def test_the_users_own_demonstrations_are_read_where_they_lie(tmp_path):
    cfg = load("gp_l_debug", [f"sft.data={tmp_path / 'parquet'}"])
    assert prepare_demonstrations(cfg, tmp_path) == str(tmp_path / "parquet")
