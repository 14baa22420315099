"""A rank's place in a run: state before cursor, one writer, and a resume where it stood."""

from __future__ import annotations

import io
import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cluster.checkpoints.cursor import Cursor, kept_states
from cluster.failures import RunFailure, RunStopped, StateLost
from cluster.phases import learner_rank
from cluster.phases.learner_rank import LearnerRank
from cluster.run.lease import LeaseLost
from cluster.run.prometheus import RunMetrics
from learner.isolation import PackingCheck
from learner.snapshot import DamagedState
from report.spans import read_spans
from tests.cluster.fakes import FakeToken
from tests.support.learner import config


class FakeEngine:
    packing_check = PackingCheck("padded", 0.5, 0.25, 0.0, "sequences leak")

    def __init__(self, *arguments, **options):
        self.arguments, self.options, self.loaded = arguments, options, None

    def load(self, names, open_file):
        self.loaded = [open_file(name).read() for name in names]


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
    monkeypatch.setattr(learner_rank, "wait_for", lambda call, *_: call)
    job.buffer = SimpleNamespace(stopping=SimpleNamespace(remote=lambda: False))
    return lambda rank: LearnerRank(job, rank)


def state(value):
    """An engine with one file of state."""
    return SimpleNamespace(snapshot=lambda: {"state/part.pt": {"steps": value}})


def states(folder):
    return sorted(f.name for f in (folder / "checkpoints" / "state").glob("*-*"))


def lines(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.open()] if file.exists() else []


def test_the_state_is_complete_before_the_cursor_names_it(made, tmp_path):
    rank = made(0)
    rank.checkpoint(state(1), Cursor("ppo", update=4, group=9))
    assert Cursor.load(tmp_path / "checkpoints") == Cursor()
    rank.move(Cursor("ppo", update=5))  # which waits for what is being written
    (name,) = kept_states(tmp_path / "checkpoints")
    assert name.startswith("ppo-000004-")
    assert states(tmp_path) == [name]
    assert Cursor.load(tmp_path / "checkpoints") == Cursor("ppo", update=5)


def test_records_are_on_the_disk_before_a_cursor_that_is_past_them(made, tmp_path, monkeypatch):
    """Whoever resumes writes again what is after it alone."""
    rank, synced = made(0), []
    rank.write("sft", step=1)
    rank.log.episode({"stage": "sft"})
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
    )
    rank.move(Cursor("sft", step=1))
    assert synced[:3] == ["metrics.jsonl", "episodes.jsonl", tmp_path.name]
    assert synced[3].startswith("cursor.json.")


def test_what_it_does_is_in_the_run_folder(made, tmp_path):
    rank = made(2)
    with rank.phase("ppo"):
        rank.checkpoint(state(1), Cursor("ppo", update=4))
        rank.checkpoint_before_evaluation(state(2), Cursor("ppo", update=5))
        rank.save(state(3), Cursor("ppo", update=6))
        with pytest.raises(RunStopped):
            rank.save_and_stop(state(4), Cursor("ppo", update=7))
    spans = read_spans(tmp_path).spans
    assert [(s.process.name, s.name) for s in spans] == [
        ("learner rank 2", "ppo"),
        *[("learner rank 2", "checkpoint")] * 4,
    ]


def test_records_are_exported_by_rank_0(made, monkeypatch):
    exported = []
    monkeypatch.setattr(
        RunMetrics, "record", lambda metrics, kind, fields: exported.append((kind, fields))
    )
    for number in (0, 1):
        made(number).write("ppo", update=3)
    assert exported == [("ppo", {"update": 3})]


def test_what_a_crash_left_unfinished_is_removed(made, tmp_path):
    first = made(0)
    first.checkpoint(state(1), Cursor("sft", step=1))
    assert first.checkpoint_due(2) is False
    first.checkpoint(state(2), Cursor("sft", step=2))
    first._checkpointer._writing.written.result()
    assert len(states(tmp_path)) == 2  # of which the cursor does not name the second
    made(1)
    assert len(states(tmp_path)) == 2
    made(0)
    assert states(tmp_path) == kept_states(tmp_path / "checkpoints")
    assert [name[:10] for name in states(tmp_path)] == ["sft-000001"]


def test_a_run_that_is_to_stop_ends_with_its_state_written(made, tmp_path):
    rank = made(0)
    rank.job.buffer.stopping.remote = lambda: True
    rank._checkpointer._looked = -10.0
    assert rank.checkpoint_due(3)
    with pytest.raises(RunStopped):
        rank.checkpoint(state(1), Cursor("sft", step=3))
    assert Cursor.load(tmp_path / "checkpoints").step == 3
    with pytest.raises(RunStopped):  # as it is where that was saved for an evaluation
        rank.checkpoint(SimpleNamespace(snapshot=pytest.fail), Cursor("sft", step=3))


def test_a_run_that_stops_while_it_waits_writes_what_is_not_written_yet(made, tmp_path):
    rank = made(0)
    for update in (1, 1, 2):
        with pytest.raises(RunStopped):
            rank.save_and_stop(state(update), Cursor("ppo", update=update))
        assert Cursor.load(tmp_path / "checkpoints").update == update
    assert [name[:10] for name in states(tmp_path)] == ["ppo-000001", "ppo-000002"]
    again = made(0)
    with pytest.raises(RunStopped):
        again.save_and_stop(SimpleNamespace(snapshot=pytest.fail), again.cursor)


def test_the_end_of_training_is_saved_before_what_follows(made, tmp_path):
    rank = made(0)
    for value, at in ((1, 5), (2, 5), (3, 6)):
        rank.save(state(value), Cursor("ppo", update=at))
        assert Cursor.load(tmp_path / "checkpoints").update == at
    assert [name[:10] for name in states(tmp_path)] == ["ppo-000005", "ppo-000006"]
    again = made(0)
    again.save(SimpleNamespace(snapshot=pytest.fail), again.cursor)
    learner = replace(rank.cfg.learner, checkpoint_minutes=0)
    rank.cfg = replace(rank.cfg, learner=learner)
    rank.save(SimpleNamespace(snapshot=pytest.fail), Cursor("ppo", update=7))


def test_the_best_model_is_kept(made, tmp_path):
    rank, exported = made(0), []
    learner = replace(rank.cfg.learner, keep_best="hard/success")
    rank.cfg = replace(rank.cfg, learner=learner)
    rank.export = lambda engine, name: exported.append((engine, name))

    def evaluated(stage, success, variant="hard"):
        rank.write("eval", stage=stage, variant=variant, success=success)

    evaluated("start", 0.9)
    rank.keep_best("untrained")
    for number, success in enumerate([0.25, 0.5, None, 0.5, 0.75]):
        evaluated("ppo", success)
        evaluated("ppo", number, variant="train")
        rank.keep_best(number)
    assert exported == [(0, "best"), (1, "best"), (4, "best")]
    rank.cfg = config()
    evaluated("ppo", 1.0)
    rank.keep_best("none is asked for")
    assert len(exported) == 3


def test_no_cursor_moves_before_all_ranks_have_come_so_far(made, tmp_path, monkeypatch):
    cursors = []

    def barrier():
        cursors.append(Cursor.load(tmp_path / "checkpoints"))

    monkeypatch.setattr(learner_rank.distributed, "barrier", barrier)
    made(0).move(Cursor("ppo"))
    made(1).move(Cursor("done"))
    assert cursors == [Cursor(), Cursor("ppo")]


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
    first.checkpoint(state(7), Cursor("ppo", update=1))
    first._checkpointer.finish()
    again = made(0)
    assert (again.version, again.cursor.update) == (1, 1)
    assert [record["update"] for record in lines(tmp_path)] == [1]
    engine = again.open_engine("start", "optimizer", 8, True)
    (content,) = engine.loaded
    assert torch.load(io.BytesIO(content)) == {"steps": 7}
    assert engine.arguments == ("start", again.cfg, "optimizer", 8, True)
    assert engine.options == {"forbidden": (3,), "frozen_steps": 0}


def test_a_damaged_state_leaves_the_run_at_the_one_before(made, tmp_path, monkeypatch):
    first = made(0)
    for update in (4, 5):
        first.checkpoint(state(update), Cursor("ppo", update=update, group=update))
    first._checkpointer.finish()

    def load(engine, names, open_file):
        raise DamagedState("state/part.pt", "not a zip archive")

    monkeypatch.setattr(FakeEngine, "load", load)
    rank = made(1)
    rank.job.token.lost = LeaseLost("taken")
    with pytest.raises(LeaseLost):
        rank.open_engine("start", "optimizer", 8, True)
    rank.job.token.lost = None
    with pytest.raises(StateLost, match=r"the run goes on after PPO update 4$"):
        rank.open_engine("start", "optimizer", 8, True)
    assert made(0).cursor.update == 4


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
    engine = SimpleNamespace(snapshot=pytest.fail, export=pytest.fail)
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


def test_a_model_is_exported_whole_or_not_at_all(made, tmp_path):
    """With what ends its answers; the model of before stays until the new one is complete."""
    target = tmp_path / "checkpoints" / "sft-3"

    def export(folder, stop_ids):
        assert stop_ids == (5, 6)
        assert not target.exists() or (target / "weights").read_text() == "first"
        Path(folder).mkdir(parents=True)
        (Path(folder) / "weights").write_text(content)
        if content == "broken":
            raise OSError("disk full")

    engine = SimpleNamespace(export=export)
    for content in ("first", "broken", "second"):
        with pytest.raises(OSError, match="disk full") if content == "broken" else nullcontext():
            made(0).export(engine, "sft-3")
        expected = "first" if content == "broken" else content
        assert (target / "weights").read_text() == expected
    assert [file.name for file in target.parent.iterdir()] == ["sft-3"]


def test_an_exported_model_is_on_the_disk_before_the_run_goes_on_from_it(
    made, tmp_path, monkeypatch
):
    synced, checkpoints = [], tmp_path / "checkpoints"
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )

    def export(folder, stop_ids):
        (Path(folder) / "part").mkdir(parents=True)
        (Path(folder) / "part" / "weights").write_text("w")

    rank = made(0)
    rank.export(SimpleNamespace(export=export), "sft")
    draft = f"{checkpoints}/sft.new"
    assert sorted(synced[:3]) == [draft, f"{draft}/part", f"{draft}/part/weights"]
    assert synced[3:] == [str(checkpoints)]
    rank.move(Cursor("ppo"))
    assert synced[-1] == f"{checkpoints}/state"


@pytest.mark.parametrize("every", [1, 0])
def test_an_evaluation_that_is_due_has_a_state_of_its_own(made, tmp_path, every):
    rank, cursor = made(0), Cursor("sft", step=2)
    learner = replace(rank.cfg.learner, checkpoint_every=every, checkpoint_minutes=0)
    rank.cfg = replace(rank.cfg, learner=learner)
    rank.checkpoint_before_evaluation(state(1), cursor)
    rank.settle()
    saved = Cursor.load(tmp_path / "checkpoints")
    assert (saved.step, saved.unevaluated) == ((2, True) if every else (0, False))
    rank.checkpoint(state(1), cursor)
    rank.settle()
    again = Cursor.load(tmp_path / "checkpoints")
    assert (again.step, again.unevaluated) == (2, False)
    assert again.state != saved.state
