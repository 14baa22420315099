"""A folder that was deleted and begun again has the same number, and another owner."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from cluster.run import lease
from cluster.run.lease import Lease, LeaseLost
from cluster.run.run_folder import write_failure


@pytest.fixture
def twice(tmp_path, monkeypatch):
    """The first owner's lease, the second's, and their folder."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    folder = tmp_path / "run"
    folder.mkdir()
    first = Lease(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    return first, Lease(folder), folder


def test_the_first_owner_writes_nothing_more_and_the_second_does(twice):
    first, second, folder = twice
    assert first.token.number == second.token.number == 1
    with pytest.raises(LeaseLost) as error:
        first.token.check()
    words = f"{folder}: another run has taken this run folder (process {os.getpid()} on "
    assert str(error.value).startswith(words)
    second.token.check()


def test_the_end_of_the_first_leaves_the_second_its_folder(twice):
    first, second, _ = twice
    with second as token:
        with first:
            pass
        token.check()
    with pytest.raises(LeaseLost, match="the run has ended"):
        token.check()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_first_gives_no_heartbeat_for_the_second(twice):
    """One that has died would be waited for in vain."""
    first, _, folder = twice
    file = folder / "lease" / "000001.json"
    os.utime(file, (0, 0))
    with first:
        time.sleep(0.5)
    assert file.stat().st_mtime == 0


def test_an_owner_whose_name_is_not_written_yet_is_another_one(twice, monkeypatch):
    monkeypatch.setattr(lease, "LOOK_S", 0.02)
    first, _, folder = twice
    (folder / "lease" / "000001.json").write_text("")
    with pytest.raises(LeaseLost, match="another run has taken this run folder; this one"):
        first.token.check()


def test_a_learner_group_that_was_taken_for_lost_writes_nothing_once_another_has_begun(tmp_path):
    with Lease(tmp_path) as token:
        first = token.of_next_group()
        first.check()
        second = token.of_next_group()
        with pytest.raises(LeaseLost, match="another learner group of the run has begun"):
            first.check()
        with pytest.raises(LeaseLost, match="another learner group of the run has begun"):
            write_failure(first, "what it came to meanwhile")
        second.check()
        token.check()  # of the driver, and of Ray Train's controller
    with Lease(tmp_path) as later:
        (group, third) = later.of_next_group(), later.of_next_group()
        assert (group.group, third.group) == (1, 2), "the owner is another one"
        third.check()
        with pytest.raises(LeaseLost, match="another learner group"):
            group.check()
    for old in (second, third, token):
        with pytest.raises(LeaseLost, match=r"the run has ended|another run"):
            old.check()
