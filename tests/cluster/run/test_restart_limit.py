"""How often the learner group may be lost."""

import errno

import pytest
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerStatus

from cluster.checkpoints.cursor import Cursor
from cluster.run import patience
from cluster.run.restart_limit import RestartLimit
from cluster.run.run_folder import read_failure, read_losses, take_loss
from tests.cluster.fakes import FakeToken


def seen(errors):
    """What Ray Train sees when it looks at ranks of which some have failed."""
    return WorkerGroupPollStatus(
        {rank: WorkerStatus(running=False, error=error) for rank, error in errors.items()}
    )


@pytest.fixture
def lose(tmp_path):
    """Loses the group after an update of the last checkpoint; what then ends the run."""
    limit = RestartLimit(FakeToken(tmp_path), 2)

    def lose(update, **ranks):
        Cursor("ppo", update=update).save(tmp_path / "checkpoints", keep=1)
        errors = {int(rank[1:]): OSError(words) for rank, words in ranks.items()}
        limit.before_worker_group_start(None)
        for _ in range(4):  # of a node that is drained
            limit.after_worker_group_poll_status(seen({0: None}))
            limit.after_worker_group_poll_status(seen(errors))
        return read_failure(tmp_path)

    return lose


def test_losses_with_checkpoints_between_are_borne(lose):
    assert [lose(update, r0="dead") for update in (1, 1, 2, 2, 3, 3)] == [None] * 6


def test_one_more_than_is_borne_from_one_checkpoint_ends_the_run_with_the_first_cause(lose):
    assert lose(3, r0="an earlier one") is None
    assert lose(4, r2="two", r1="one") is None
    assert lose(4, r0="another") is None
    assert lose(4, r0="the last") == (
        "the learner group failed: rank 1: OSError: one (the first of 3 losses since PPO update 4, "
        "without a checkpoint between them; learner.max_restarts=2)"
    )


def test_where_none_is_borne_the_first_is_the_end(tmp_path):
    limit = RestartLimit(FakeToken(tmp_path), 0)
    limit.after_worker_group_poll_status(seen({0: OSError("dead")}))
    assert read_failure(tmp_path) == "the learner group failed: rank 0: OSError: dead"


def test_of_two_the_first_is_said_to_be_that(tmp_path):
    limit = RestartLimit(FakeToken(tmp_path), 1)
    for words in ("one", "two"):
        limit.before_worker_group_start(None)
        limit.after_worker_group_poll_status(seen({0: OSError(words)}))
    assert "rank 0: OSError: one (the first of 2 losses since" in read_failure(tmp_path)


def test_each_loss_is_told_to_the_next_group(lose, tmp_path):
    assert take_loss(tmp_path) is None
    lose(1, r0="first")
    lose(1, r1="second")
    assert take_loss(tmp_path) == "rank 1: OSError: second"
    assert take_loss(tmp_path) is None


def test_a_loss_is_counted_once_the_storage_is_back(tmp_path, monkeypatch):
    token = FakeToken(tmp_path, OSError(errno.ESTALE, "Stale file handle"))
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: setattr(token, "lost", None))
    assert RestartLimit(token, 1).bears("one")
    token.lost = OSError(errno.ESTALE, "Stale file handle")
    assert not RestartLimit(token, 1).bears("two")
    assert read_losses(tmp_path, "SFT step 0 ") == ["one", "two"]
    assert "one (the first of 2 losses" in read_failure(tmp_path)
