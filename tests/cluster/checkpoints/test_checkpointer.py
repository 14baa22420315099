"""When states are written, what a failure leaves, and that no crash loses the last whole one."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cluster.checkpoints import checkpointer
from cluster.checkpoints.checkpoint_store import CheckpointStore
from cluster.checkpoints.checkpointer import Checkpointer
from cluster.checkpoints.cursor import Cursor, kept_states
from configs.schema import RunConfig
from learner.snapshot import read_file


class Engine:
    """Its state is one number."""

    value = 0

    def snapshot(self):
        return {"part.pt": {"weights": torch.full((4,), float(self.value))}}


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpointer, "time", clock)
    return clock


@pytest.fixture
def make(tmp_path):
    """A function that makes one of learner keys, all on one folder; `reports` is what they said."""

    def make(**learner):
        cfg = RunConfig()
        make.store = CheckpointStore(str(tmp_path / "state"))
        made = Checkpointer(
            replace(cfg, learner=replace(cfg.learner, **learner)),
            0,
            make.store,
            move=lambda cursor: cursor.save(tmp_path, keep=2),
            kept=lambda: kept_states(tmp_path),
            stop_requested=lambda: make.stop,
            report=make.reports.append,
        )
        made.engine = Engine()
        return made

    make.reports, make.stop = [], False
    return make


def written(tmp_path):
    """The number in the state that the cursor names, and where that stands."""
    cursor = Cursor.load(tmp_path)
    store = CheckpointStore(str(tmp_path / "state"))
    content = read_file(lambda name: store.open(cursor.state, name), "part.pt")
    return int(content["weights"][0]), cursor.step


def save(made, step):
    made.engine.value = step
    made.begin(made.engine, Cursor("sft", step=step))


def test_a_state_is_due_by_number(make, clock):
    made = make(checkpoint_every=3, checkpoint_minutes=0)
    clock.now = 1e6
    assert [step for step in range(1, 10) if made.due(step)] == [3, 6, 9]
    assert not any(make(checkpoint_every=0, checkpoint_minutes=0).due(s) for s in range(1, 9))


def test_a_state_is_due_by_time_since_the_last_one_was_begun(make, clock):
    made = make(checkpoint_minutes=5)
    clock.now = 299.0
    assert not made.due(1)
    clock.now = 300.0
    assert made.due(2)
    save(made, 2)
    clock.now = 599.0
    made.finish()
    assert not made.due(3)
    clock.now = 600.0
    assert made.due(4)


def test_by_default_every_few_minutes():
    assert RunConfig().learner.checkpoint_minutes == 5.0


def test_the_cursor_moves_at_the_step_after_the_last_part_is_written(make, tmp_path):
    made = make(checkpoint_minutes=0)
    save(made, 4)
    made._writing.written.result()
    assert Cursor.load(tmp_path) == Cursor()
    made.due(5)
    assert written(tmp_path) == (4, 4)


def test_what_is_written_is_what_was_when_it_began(make, tmp_path, monkeypatch):
    held = hold(monkeypatch)
    made = make()
    save(made, 1)
    made.engine.value = 2
    held.set()
    made.finish()
    assert written(tmp_path) == (1, 1)


def hold(monkeypatch, times=1):
    """The first writes wait for the event; its `begun` has a stream for each write."""
    event, write = threading.Event(), checkpointer.write_file
    event.begun = []

    def held(stream, content):
        event.begun.append(stream)
        assert len(event.begun) > times or event.wait(200)
        write(stream, content)

    monkeypatch.setattr(checkpointer, "write_file", held)
    return event


def test_training_goes_on_while_it_is_written_and_the_next_waits_for_it(
    make, tmp_path, clock, monkeypatch
):
    held = hold(monkeypatch)
    made = make(checkpoint_minutes=5)
    save(made, 1)
    clock.now = 400.0
    assert not made.due(2)  # late, but the one before is not complete
    assert Cursor.load(tmp_path) == Cursor()
    held.set()
    made._writing.written.result()
    assert made.due(3)
    assert written(tmp_path) == (1, 1)
    save(made, 3)
    save(made, 4)
    made.finish()
    made.finish()
    assert written(tmp_path) == (4, 4)
    assert make.reports == []


def test_the_newest_are_kept(make, tmp_path):
    made = make()
    for step in range(1, 5):
        save(made, step)
    made.finish()
    made._thread.shutdown()
    names = sorted(f.name for f in (tmp_path / "state").iterdir() if f.is_dir())
    assert names == sorted(kept_states(tmp_path))
    assert [name[:10] for name in names] == ["sft-000003", "sft-000004"]


def test_a_process_that_was_lost_writes_under_no_name_of_the_next(make):
    assert make()._suffix != make()._suffix


def test_a_failed_write_leaves_the_run_going_and_the_last_state(make, tmp_path, monkeypatch):
    made = make(checkpoint_every=1)
    save(made, 1)
    made.finish()
    write = checkpointer.write_file

    def full(stream, content):
        stream.write(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointer, "write_file", full)
    place = f"{tmp_path}/state/sft-000002-{made._suffix}/part.pt"
    save(made, 2)
    made.finish()
    (said,) = make.reports
    assert said == f"SFT step 2 has no checkpoint: {place}: [Errno 28] No space left on device"
    assert written(tmp_path) == (1, 1)
    monkeypatch.setattr(checkpointer, "write_file", write)
    assert made.due(3)
    save(made, 3)
    made.finish()
    made._thread.shutdown()
    assert written(tmp_path) == (3, 3)
    assert len(list((tmp_path / "state").glob("sft-*"))) == 2  # nothing is left of the failed one


def test_a_state_that_has_failed_can_be_begun_again_under_another_name(make, tmp_path, monkeypatch):
    made, write = make(), checkpointer.write_file

    def full(stream, content):
        raise OSError(28, "No space left on device")

    for step in (1, 2):
        monkeypatch.setattr(checkpointer, "write_file", full)
        save(made, step)
        before = made._suffix
        assert not made.has(Cursor("sft", step=step)), "it is looked at once it has ended"
        assert made._suffix != before, "one that is stuck may still write"
        monkeypatch.setattr(checkpointer, "write_file", write)
        save(made, step)
        assert made.has(Cursor("sft", step=step))
        assert written(tmp_path) == (step, step)
        assert len(make.reports) == step
    made._suffix = "ffff"
    made._fail(Cursor(), "why")
    assert made._suffix == "0000"


def test_room_is_looked_at_before_anything_is_written(make, tmp_path, monkeypatch):
    made = make()
    monkeypatch.setattr(CheckpointStore, "free_bytes", lambda store: 15)  # of 16
    save(made, 1)
    assert make.reports == [
        f"SFT step 1 has no checkpoint: {tmp_path}/state: it takes 0.00 GiB and 0.00 GiB are free; "
        "lower learner.keep_checkpoints, or choose another learner.checkpoint_root"
    ]
    assert not (tmp_path / "state").exists()
    for free in (16, None):
        monkeypatch.setattr(CheckpointStore, "free_bytes", lambda store, free=free: free)
        save(made, free or 17)
        made.finish()
        assert written(tmp_path)[0] == (free or 17)


def test_a_place_that_does_not_say_what_is_free_costs_a_checkpoint_alone(make, monkeypatch):
    def away(store):
        raise OSError(116, "Stale file handle")

    made = make()
    monkeypatch.setattr(CheckpointStore, "free_bytes", away)
    save(made, 1)
    assert make.reports == ["SFT step 1 has no checkpoint: [Errno 116] Stale file handle"]


def test_a_write_that_does_not_end_is_given_up(make, tmp_path, clock, monkeypatch):
    held = hold(monkeypatch)
    made = make(checkpoint_minutes=5)
    save(made, 1)
    while not held.begun:
        time.sleep(0.01)
    clock.now = RunConfig().cluster.checkpoint_deadline_s - 0.01
    assert not made.due(2)
    clock.now += 1
    assert made.due(3)
    assert "not written in 1800 s (cluster.checkpoint_deadline_s)" in make.reports[0]
    save(made, 3)
    made.finish()
    assert written(tmp_path) == (3, 3), "by another thread, though the first still hangs"
    held.set()
    made._given_up[0].exception()  # it may find its folder removed
    assert written(tmp_path) == (3, 3)


def test_while_two_that_were_given_up_are_being_written_none_is_copied(
    make, tmp_path, clock, monkeypatch
):
    """Or each would hold the host's memory for as long as the storage hangs."""
    held = hold(monkeypatch, times=2)
    made = make(checkpoint_every=1)
    for step in (1, 2):
        save(made, step)
        while len(held.begun) < step:
            time.sleep(0.01)
        clock.now += RunConfig().cluster.checkpoint_deadline_s + 1
        assert made.due(step)
    for step in (3, 4):
        assert made.due(step), "and again: the storage may be there any moment"
        made.begin(SimpleNamespace(snapshot=pytest.fail), Cursor("sft", step=step))
        assert not made.has(Cursor("sft", step=step))
    assert [said.partition(" has no checkpoint: ")[0] for said in make.reports] == [
        f"SFT step {step}" for step in range(1, 5)
    ]
    still = f"{tmp_path}/state: 2 that were given up are still being written"
    assert all(said.endswith(still) for said in make.reports[2:])
    held.set()
    for given_up in made._given_up:
        given_up.exception()
    save(made, 6)
    made.finish()
    made._thread.shutdown()
    assert written(tmp_path) == (6, 6)


def test_a_rank_that_is_stuck_keeps_all_from_copying(make, monkeypatch):
    """All ranks decide alike, or some would wait for the others in the copy."""
    made = make()
    gather = checkpointer.distributed.all_gather
    monkeypatch.setattr(
        checkpointer.distributed, "all_gather", lambda value: [*gather(value), "rank 1 is stuck"]
    )
    made.begin(SimpleNamespace(snapshot=pytest.fail), Cursor("sft", step=1))
    assert make.reports == ["SFT step 1 has no checkpoint: rank 1 is stuck"]


def test_what_is_not_removed_is_told(make, monkeypatch):
    def refuse(store, state):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(CheckpointStore, "remove", refuse)
    made = make()
    for step in (1, 2, 3):
        save(made, step)
    made.finish()
    made._thread.shutdown()
    made.due(4)
    made.due(5)
    (said,) = make.reports
    assert said.endswith(f"/sft-000001-{made._suffix} is not removed: [Errno 13] Permission denied")


def test_a_run_that_is_to_stop_has_its_state_written_at_once(make, clock):
    made = make(checkpoint_minutes=0)
    make.stop = True
    assert not made.due(1)  # asked once a second
    clock.now = 1.0
    assert made.due(2)
    assert made.stopping
    make.stop = False
    assert made.due(3)


def test_whichever_write_it_dies_at_the_cursor_names_a_whole_state(make, tmp_path, monkeypatch):
    """Each call that changes the disk may be the last one of the process."""

    class Dies(BaseException):
        pass

    left = [0]

    def mortal(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Dies
            return function(*arguments, **options)

        return call

    for owner, name in (
        (checkpointer, "write_file"),
        (CheckpointStore, "create"),
        (CheckpointStore, "remove"),
        (Cursor, "save"),
    ):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    for life in range(12):
        left[0] = life
        made = make()
        first = Cursor.load(tmp_path).step
        try:
            for step in range(first + 1, first + 5):
                save(made, step)
                made.finish()
        except Dies:
            pass
        made._thread.shutdown(wait=True)
        if Cursor.load(tmp_path).state:
            value, step = written(tmp_path)
            assert value == step
    assert Cursor.load(tmp_path).step > 4
