"""For how long a storage that is away is waited for."""

import errno

import pytest

from cluster.run import patience
from cluster.run.patience import PATIENCE_S, Patience

STALE = OSError(errno.ESTALE, "Stale file handle")


@pytest.fixture
def clock(monkeypatch):
    """Seconds of a clock that goes on by half a second at each wait."""
    now = [100.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(patience.time, "sleep", sleep)
    return now


@pytest.fixture
def storage(clock, tmp_path):
    return Patience(tmp_path, lambda: clock[0])


def looks(storage, clock, errors, seconds=0.5):
    """Look again and again, and meet these errors; None is a success."""
    for error in errors:
        clock[0] += seconds
        with storage.look():
            if error:
                raise error


def test_an_error_is_borne_and_told_once_until_it_has_passed(storage, clock, capsys, tmp_path):
    looks(storage, clock, [None, STALE, STALE, STALE])
    said = f"{tmp_path}: away, [Errno {errno.ESTALE}] Stale file handle; it is looked at again\n"
    assert capsys.readouterr().err == said
    looks(storage, clock, [None, PermissionError(errno.EACCES, "a ticket has expired")])
    assert "a ticket has expired" in capsys.readouterr().err


def test_one_that_stays_away_is_raised_in_the_end(storage, clock):
    often = int(PATIENCE_S / 0.5)
    looks(storage, clock, [STALE] * often)
    looks(storage, clock, [None])
    looks(storage, clock, [STALE] * often)
    with pytest.raises(OSError, match="Stale file handle"):
        looks(storage, clock, [STALE])


def test_while_this_process_was_stopped_itself_nobody_was_away(storage, clock):
    looks(storage, clock, [STALE])
    looks(storage, clock, [STALE], seconds=PATIENCE_S)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_one_does_not_pass(storage, clock, number):
    with pytest.raises(OSError, match="full"):
        looks(storage, clock, [OSError(number, "full")])


def test_another_error_is_none_of_the_storages(storage, clock):
    with pytest.raises(RuntimeError):
        looks(storage, clock, [RuntimeError("taken over")])


def test_what_is_insisted_on_is_tried_until_it_is_done(storage, clock):
    fates = [STALE, STALE, None]

    def work():
        if fate := fates.pop(0):
            raise fate
        return "done"

    assert storage.insist(work) == "done"
    assert (fates, clock) == ([], [101.0])


def test_it_is_not_insisted_on_for_ever(storage, clock):
    def work():
        raise STALE

    with pytest.raises(OSError, match="Stale"):
        storage.insist(work)
    assert clock[0] == pytest.approx(100.0 + PATIENCE_S)
