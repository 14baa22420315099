"""The end of a run whose storage is away for a moment."""

import errno
from types import SimpleNamespace

from cluster.driver.train import _recorded
from cluster.run import patience
from report.summary import ended
from tests.cluster.fakes import FakeToken


def test_a_run_that_has_come_to_its_end_has_finished(tmp_path, monkeypatch):
    token = FakeToken(tmp_path, OSError(errno.ESTALE, "Stale file handle"))
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: setattr(token, "lost", None))
    with _recorded(token, None, SimpleNamespace()):
        pass
    assert ended(tmp_path)["status"] == "finished"
    assert token.checks == 2
