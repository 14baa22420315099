"""A rank's place in a run: state before cursor, one writer, and a resume where it stood."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cluster import learner_rank
from cluster.cursor import Cursor
from cluster.failures import RunFailure
from cluster.learner_rank import LearnerRank
from cluster.lease import LeaseLost
from learner.isolation import PackingCheck
from tests.cluster.fakes import FakeToken
from tests.support.learner import config


class FakeEngine:
    packing_check = PackingCheck("padded", 0.5, 0.25, 0.0, "sequences leak")

    def __init__(self, *arguments, **options):
        self.arguments, self.options, self.loaded = arguments, options, None

    def load(self, folder):
        self.loaded = folder


@pytest.fixture
def made(monkeypatch, tmp_path):
    """make(rank) on a folder that later ranks share."""
    loaded = {"forbidden": (3,), "stop_ids": (5, 6)}
    renderer = SimpleNamespace(load=lambda folder: SimpleNamespace(folder=folder, **loaded))
    monkeypatch.setattr(learner_rank, "Renderer", renderer)
    monkeypatch.setattr(learner_rank, "TrainingEngine", FakeEngine)
    monkeypatch.setattr(learner_rank, "ReferencePolicy", lambda *arguments: arguments)
    token = FakeToken(tmp_path)
    job = SimpleNamespace(cfg=config(), token=token, folder=token.folder, model="initial")
    return lambda rank: LearnerRank(job, rank)


def lines(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.open()] if file.exists() else []


def test_the_state_is_complete_before_the_cursor_names_it(made, tmp_path):
    rank = made(0)
    cursors = []

    def save(folder):
        cursors.append(Cursor.load(tmp_path / "checkpoints"))

    rank.checkpoint(SimpleNamespace(save=save), Cursor("ppo", update=4))
    assert cursors == [Cursor()]
    assert rank.cursor == Cursor("ppo", update=4, state="ppo-000004")
    assert Cursor.load(tmp_path / "checkpoints") == rank.cursor


def test_no_cursor_moves_before_all_ranks_have_come_so_far(made, tmp_path, monkeypatch):
    cursors = []

    def barrier():
        cursors.append(Cursor.load(tmp_path / "checkpoints"))

    monkeypatch.setattr(learner_rank.distributed, "barrier", barrier)
    made(0).move(Cursor("ppo"))
    made(1).move(Cursor("done"))
    assert cursors == [Cursor(), Cursor("ppo")]


@pytest.mark.parametrize(
    ("cursor", "name"), [(Cursor("sft", step=12), "sft-000012"), (Cursor("ppo"), "ppo-000000")]
)
def test_states_are_named_by_phase_and_count(made, tmp_path, cursor, name):
    saved = []
    made(0).checkpoint(SimpleNamespace(save=saved.append), cursor)
    assert saved == [str(tmp_path / "checkpoints" / "state" / name)]


def test_other_ranks_follow_the_cursor_and_write_nothing(made, tmp_path):
    rank = made(1)
    rank.move(Cursor("ppo"))
    rank.write("sft", step=1)
    with rank.phase("sft"):
        pass
    assert rank.cursor == Cursor("ppo")
    assert Cursor.load(tmp_path / "checkpoints") == Cursor()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_resumed_rank_has_the_cursors_version_state_and_records(made, tmp_path):
    first = made(0)
    for update in (1, 2):
        first.write("ppo", update=update)
    first.checkpoint(SimpleNamespace(save=lambda folder: None), Cursor("ppo", update=1))
    again = made(0)
    assert (again.version, again.cursor) == (1, first.cursor)
    assert [record["update"] for record in lines(tmp_path)] == [1]
    engine = again.open_engine("start", "optimizer", 8, True)
    assert engine.loaded == str(tmp_path / "checkpoints" / "state" / "ppo-000001")
    assert engine.arguments == ("start", again.cfg, "optimizer", 8, True)
    assert engine.options == {"forbidden": (3,)}


def test_a_phase_begins_from_its_folder(made):
    rank = made(0)
    assert rank.open_engine("start", "optimizer", 8, False).loaded is None
    assert rank.open_reference("start") == ("start", rank.cfg, (3,))
    assert rank.renderer.folder == "initial"


def test_an_engines_packing_is_recorded_with_its_cause(made, tmp_path):
    made(0).open_engine("start", "optimizer", 8, False)
    (record,) = lines(tmp_path)
    assert (record["kind"], record["packing"], record["row_gap"]) == ("packing", "padded", 0.5)
    assert (record["who"], record["cause"]) == ("learner", "sequences leak")
    made(1).open_engine("start", "optimizer", 8, False)
    assert len(lines(tmp_path)) == 1


def test_a_model_that_cannot_be_trained_ends_the_run_without_restarts(made, monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("Model cannot be trained")

    rank = made(0)
    monkeypatch.setattr(learner_rank, "TrainingEngine", refuse)
    with pytest.raises(RunFailure, match=r"^Model cannot be trained$"):
        rank.open_engine("start", "optimizer", 8, False)


def test_a_phase_is_recorded_with_its_seconds(made, tmp_path):
    rank = made(0)
    with rank.phase("eval sft"):
        rank.write("eval", stage="sft")
    begin, inside, end = lines(tmp_path)
    assert (begin["kind"], begin["phase"], begin["event"]) == ("phase", "eval sft", "begin")
    assert inside["kind"] == "eval"
    assert (end["phase"], end["event"]) == ("eval sft", "end")
    assert 0 <= end["seconds"] < 5


def test_a_rank_whose_folder_is_anothers_writes_nothing(made, tmp_path):
    """Each write asks first: records, states, exports and the cursor."""
    rank = made(0)
    before = sorted(tmp_path.rglob("*"))
    rank.job.token.lost = LeaseLost("taken")
    engine = SimpleNamespace(save=pytest.fail, export=pytest.fail)
    for write in (
        lambda: rank.write("sft", step=1),
        lambda: rank.log.episode({}),
        lambda: rank.log.outcomes([{}]),
        lambda: rank.checkpoint(engine, Cursor("ppo", update=1)),
        lambda: rank.export(engine, "sft"),
        lambda: rank.move(Cursor("ppo")),
        lambda: made(0),
    ):
        with pytest.raises(LeaseLost, match="taken"):
            write()
    assert sorted(tmp_path.rglob("*")) == before
    assert lines(tmp_path) == []


def test_a_model_is_exported_by_its_name_with_what_ends_its_answers(made, tmp_path):
    exported = []
    engine = SimpleNamespace(export=lambda *arguments: exported.append(arguments))
    made(0).export(engine, "sft-3")
    assert exported == [(str(tmp_path / "checkpoints" / "sft-3"), (5, 6))]
