"""Exported models: complete for every rank, and one of the name is there whenever it is killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.phases import learner_rank
from tests.cluster.phases import test_learner_rank

made = test_learner_rank.made


@pytest.mark.parametrize("number", [0, 1])
def test_no_rank_goes_on_before_an_export_is_complete(made, tmp_path, monkeypatch, number):
    """The next phase reads it on every rank."""
    complete, exported = [], tmp_path / "checkpoints" / "sft"
    monkeypatch.setattr(
        learner_rank.distributed, "barrier", lambda: complete.append(exported.is_dir())
    )
    engine = SimpleNamespace(export=lambda draft, stop_ids: Path(draft).mkdir(parents=True))
    made(number).export(engine, "sft")
    assert complete == [number == 0], "that of rank 0, for which the others wait"


@pytest.mark.parametrize("killed", ["before it", "within it", "after it"])
def test_whenever_it_is_killed_a_model_of_the_name_is_there(made, tmp_path, monkeypatch, killed):
    folder = tmp_path / "checkpoints"

    def exports(number):
        def export(draft, stop_ids):
            Path(draft).mkdir(parents=True)
            Path(draft, "number").write_text(number)

        return SimpleNamespace(export=export)

    class Killed(BaseException):
        pass

    def rename(path, target):
        if killed == "within it" and path.suffix == ".new":
            raise Killed
        renamed(path, target)
        if killed == "before it" and path.suffix != ".new":
            raise Killed

    def removed(path, **_):
        if killed == "after it" and path.suffix == ".before" and path.exists():
            raise Killed

    renamed, rank = Path.rename, made(0)
    rank.export(exports("1"), "best")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(learner_rank.shutil, "rmtree", removed)
        with pytest.raises(Killed):
            rank.export(exports("2"), "best")
    made(0)
    assert (folder / "best" / "number").read_text() == ("2" if killed == "after it" else "1")
    assert not (folder / "best.before").exists()
