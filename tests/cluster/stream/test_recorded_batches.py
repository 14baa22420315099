"""A learner's batches, recorded and read again: the same steps are taken, to the last bit."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.stream import collect
from cluster.stream.collect import Batch, Collector
from cluster.stream.recorded_batches import RecordedCollector, RecordingCollector
from cluster.stream.recorded_blocks import FOLDER, recorded_updates
from learner.engine import TrainingEngine
from learner.ppo import ppo_steps, ppo_update
from rollout.trajectory import from_block, to_block
from tests.cluster.fakes import FakeToken
from tests.support.learner import config, save_llama, trajectories


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """make(rank, …) gives a recording collector; update u has 12 trajectories drawn by u."""
    run, model = tmp_path / "run", save_llama(tmp_path / "model")
    (model / "tokenizer.json").write_text("{}")

    def take(self, update):
        played = from_block(to_block(trajectories(12, seed=update)))  # rewards in float32
        return Batch(played, 12 * update, {"failed": 0})

    monkeypatch.setattr(collect.Collector, "take", take)

    def make(rank=0, lost=None, epoch=1):
        token = FakeToken(run, lost)
        token.number = 1
        cfg = config(record=True)
        buffer = SimpleNamespace(epoch=epoch)
        job = SimpleNamespace(
            cfg=cfg, token=token, folder=str(run), model=str(model), buffer=buffer
        )
        return RecordingCollector(job, rank, print)

    return make


def blocks_of(recorder):
    return Path(recorder._job.folder) / FOLDER


def record(recorder, update):
    """What a PPO phase does at an update."""
    batch = recorder.take(update)
    recorder.write_batch(update, batch)
    return batch


def reading(recorder, updates=4):
    cfg = config(blocks=str(blocks_of(recorder)), updates=updates)
    return RecordedCollector(SimpleNamespace(cfg=cfg), 0, print)


def losses(model, collector):
    cfg = config()
    engine = TrainingEngine(model, cfg, cfg.ppo.optimizer, ppo_steps(cfg.ppo), True)
    found = [
        ppo_update(engine, record(collector, update).trajectories, cfg, update - 1)
        for update in (1, 2)
    ]
    engine.close()
    return found


def test_a_learner_takes_the_same_steps_on_what_it_recorded(recording):
    recorder = recording()
    model = recorder._job.model
    first = losses(model, recorder)
    assert first == losses(model, reading(recorder))
    assert first[0]["loss"] != first[1]["loss"]


def test_nothing_is_recorded_by_a_run_that_may_no_longer_write(recording, tmp_path):
    with pytest.raises(OSError, match="taken over"):
        record(recording(lost=OSError("taken over")), 1)
    assert not (tmp_path / "run").exists()


def test_what_is_recorded_ends_the_updates_and_so_does_the_configuration(recording):
    recorder = recording()
    for update in (1, 2, 3):
        record(recorder, update)
    assert recorded_updates(blocks_of(recorder)) == [1, 2, 3]
    assert list(reading(recorder).updates(1)) == [1, 2, 3]
    assert list(reading(recorder).updates(3)) == [3]
    assert list(reading(recorder, updates=2).updates(1)) == [1, 2]
    assert list(Collector(SimpleNamespace(cfg=config(updates=5)), 0, print).updates(4)) == [4, 5]


def test_a_batch_that_is_read_names_the_group_that_a_resume_would_play(recording):
    recorder = recording()
    record(recorder, 1)
    record(recorder, 2)
    reader = reading(recorder)
    reader.begin(1, 0)
    batch = reader.take(2)
    assert batch.next_group == 24
    assert batch.record["failed"] == 0
    assert 0 <= batch.record["waited_seconds"] < 60
    ids = [t.id for t in trajectories(12, seed=2)]
    assert [t.id for t in batch.trajectories] == ids


def test_a_group_that_starts_again_records_another_attempt(recording):
    assert recording(epoch=2)._metadata["attempt"] != recording()._metadata["attempt"]


def test_sft_that_came_before_is_what_the_blocks_were_recorded_with(recording):
    recorder = recording()
    before = recorder._metadata
    sft = blocks_of(recorder).parent / "checkpoints" / "sft"
    sft.mkdir(parents=True)
    (sft / "tokenizer.json").write_text("another")
    assert recording()._metadata != before
