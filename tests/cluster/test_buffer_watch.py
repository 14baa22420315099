"""Whether the buffer lives, as the driver sees it; without Ray's processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from cluster import buffer_watch, wait
from cluster.buffer_watch import BufferWatch
from cluster.failures import DeadlineExceeded, WorkerLost


class Buffer:
    """Gives a sign once `answers`; a call that it answers raises its `error`."""

    def __init__(self):
        self.asked, self.answers, self.error = 0, True, None
        self.heartbeat = SimpleNamespace(remote=self._heartbeat)

    def _heartbeat(self):
        self.asked += 1
        return self

    def get(self, ref, timeout):
        if self.error:
            raise self.error


@pytest.fixture
def watched(monkeypatch):
    buffer, now = Buffer(), [100.0]
    monkeypatch.setattr(
        buffer_watch.ray, "wait", lambda refs, timeout: (refs if buffer.answers else [], [])
    )
    monkeypatch.setattr(wait.ray, "get", buffer.get)
    watch = BufferWatch(buffer, 8.0, 60.0, lambda: now[0])

    def pass_time(seconds, step=0.5):
        for _ in range(int(seconds / step)):
            now[0] += step
            watch.check()

    watch.check()
    return buffer, pass_time


def test_it_is_asked_a_few_times_in_a_heartbeat_and_at_once(watched):
    buffer, pass_time = watched
    assert buffer.asked == 1
    pass_time(20.0)
    assert 8 <= buffer.asked <= 11


def test_one_that_is_silent_for_the_heartbeat_hangs(watched):
    buffer, pass_time = watched
    pass_time(4.0)
    buffer.answers = False
    pass_time(7.5)
    words = r"the trajectory buffer did not give a sign of life within 8 s \(cluster.heartbeat_s\)"
    with pytest.raises(DeadlineExceeded, match=words):
        pass_time(3.0)


def test_a_dead_one_is_told_at_the_next_look(watched):
    buffer, pass_time = watched
    buffer.error = ActorDiedError()
    with pytest.raises(WorkerLost, match="the trajectory buffer was lost"):
        pass_time(0.5)


def test_its_first_sign_has_the_time_that_a_process_has_to_start(watched):
    buffer, pass_time = watched
    buffer.answers = False
    pass_time(59.0)
    with pytest.raises(DeadlineExceeded, match=r"within 60 s \(cluster.start_deadline_s\)"):
        pass_time(2.0)


def test_one_that_answers_late_lives(watched):
    buffer, pass_time = watched
    for _ in range(5):
        buffer.answers = False
        pass_time(5.0)
        buffer.answers = True
        pass_time(0.5)
