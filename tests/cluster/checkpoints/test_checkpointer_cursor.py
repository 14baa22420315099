"""What the run's cursor says of a state, and that no error of its storage costs one."""

from __future__ import annotations

from cluster.checkpoints.cursor import Cursor
from tests.cluster.checkpoints import test_checkpointer
from tests.cluster.checkpoints.test_checkpointer import save, written

make = test_checkpointer.make


def test_a_cursor_that_cannot_be_moved_leaves_the_run_going(make, tmp_path):
    made = make()
    save(made, 1)
    made.finish()

    def full(cursor):
        raise OSError(28, "No space left on device")

    made._move = full
    save(made, 2)
    made.finish()
    assert make.reports == ["SFT step 2 has no checkpoint: [Errno 28] No space left on device"]
    assert written(tmp_path) == (1, 1)
    assert not made.has(Cursor("sft", step=2))


def test_the_cursor_has_the_bytes_of_each_file(make, tmp_path):
    made = make()
    save(made, 1)
    made.finish()
    cursor = Cursor.load(tmp_path)
    files = make.store.sizes(cursor.state)
    assert cursor.files == files
    assert files["part.pt"] > 0


def test_an_error_after_the_cursor_was_replaced_costs_no_state(make, tmp_path):
    """As of its folder, which is to be on the disk too: what it names must stay."""
    made = make()
    move = made._move

    def late(cursor):
        move(cursor)
        raise OSError(116, "Stale file handle")

    made._move = late
    for step in (1, 2, 3):
        save(made, step)
        made.finish()
        made._thread.submit(int).result()  # after what it was to remove
        assert written(tmp_path) == (step, step)
        assert made.has(Cursor("sft", step=step))
    assert make.reports == []


def test_a_cursor_that_cannot_be_read_costs_no_state_either(make, tmp_path):
    made = make()

    def away(*_):
        raise OSError(116, "Stale file handle")

    made._move = made._kept = away
    save(made, 1)
    made.finish()
    made._thread.submit(int).result()
    assert len(make.store.states()) == 1
    assert make.reports == ["SFT step 1 has no checkpoint: [Errno 116] Stale file handle"]
