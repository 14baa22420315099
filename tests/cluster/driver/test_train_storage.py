"""The end of a run whose storage is away for a moment, or whose folder is another's, or moved."""

import errno
import shutil
from types import SimpleNamespace

import pytest

from cluster.driver.train import _recorded
from cluster.failures import RunFailure
from cluster.run import patience
from cluster.run.lease import Lease, LeaseLost, Token
from configs.load import ConfigError
from report.summary import ended
from tests.cluster.driver import test_train
from tests.cluster.fakes import FakeToken

run = test_train.run


def test_a_run_that_has_come_to_its_end_has_finished(tmp_path, monkeypatch):
    token = FakeToken(tmp_path, OSError(errno.ESTALE, "Stale file handle"))
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: setattr(token, "lost", None))
    with _recorded(token, None, SimpleNamespace()):
        pass
    assert ended(tmp_path)["status"] == "finished"
    assert token.checks == 2


def test_a_run_whose_folder_was_taken_over_leaves_it_alone(run, tmp_path):
    def taken():
        (tmp_path / "one" / "lease" / "000002.json").write_text("{}")
        (tmp_path / "one" / "status.json").write_text('{"status": "of the other"}')
        return RunFailure("an engine was lost")

    words = r"another run has taken this run folder .*; the run ended with: an engine was lost$"
    with pytest.raises(LeaseLost, match=words):
        run(taken)
    assert ended(tmp_path / "one")["status"] == "of the other"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RunFailure("it holds no tokenizer"), "it holds no tokenizer"),
        (FileNotFoundError(2, "no such file"), r"FileNotFoundError: \[Errno 2\] no such file"),
        (ConfigError("no model"), "no model"),
    ],
)
def test_what_is_not_found_in_a_folder_that_was_moved_is_told_as_that(run, tmp_path, error, cause):
    def moved():
        (tmp_path / "one").rename(tmp_path / "two")
        return error

    words = f"the run folder was deleted or moved .*; the run ended with: {cause}$"
    with pytest.raises(LeaseLost, match=words):
        run(moved)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two" / "status.json").exists()
    assert run.done[-1] == "close"


def test_a_storage_that_is_away_does_not_hide_the_cause(run, tmp_path, monkeypatch, capsys):
    def away():
        def check(token):
            raise OSError(errno.ESTALE, "stale file handle")

        monkeypatch.setattr(Token, "check", check)
        return RunFailure("an engine was lost")

    with pytest.raises(RunFailure, match=r"^an engine was lost$"):
        run(away)
    said = capsys.readouterr().err
    assert "how it ended is not recorded: " in said
    assert "logs of its processes are not kept: " in said


def test_a_folder_that_is_begun_again_while_its_run_starts_is_left_alone(
    run, tmp_path, monkeypatch
):
    acquire, others = test_train.FakePool.acquire, []

    def while_engines_start(pool, cfg, model):
        shutil.rmtree(tmp_path / "one")
        (tmp_path / "one").mkdir()
        others.append(Lease(tmp_path / "one"))
        return acquire(pool, cfg, model)

    monkeypatch.setattr(test_train.FakePool, "acquire", while_engines_start)
    with pytest.raises(LeaseLost, match="another run has taken this run folder"):
        run()
    assert run.done == [("join", "initial"), ("acquire", "initial"), "close"]
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["lease"]
    others[0].token.check()
