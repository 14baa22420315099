"""Whether the buffer lives, as the driver sees it; without Ray's processes."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from cluster import wait
from cluster.driver import buffer_watch
from cluster.driver.buffer_watch import BufferWatch, StartWatch
from cluster.failures import DeadlineExceeded, RunFailure, WorkerLost
from configs.schema import ClusterConfig


class Buffer:
    """Gives a sign once `answers`; a call that it answers raises its `error`."""

    def __init__(self):
        self.asked, self.answers, self.error = 0, True, None
        self.heartbeat = SimpleNamespace(remote=self._heartbeat)
        self.notes, self.ended, self.actor = [], [], "the actor"
        self.note = SimpleNamespace(remote=self.notes.append)

    def _heartbeat(self):
        self.asked += 1
        return self

    def get(self, ref, timeout):
        if self.error:
            raise self.error


@pytest.fixture(params=[0])
def watched(monkeypatch, request):
    buffer, now = Buffer(), [100.0]
    monkeypatch.setattr(
        buffer_watch.ray, "wait", lambda refs, timeout: (refs if buffer.answers else [], [])
    )
    monkeypatch.setattr(wait.ray, "get", buffer.get)
    monkeypatch.setattr(buffer_watch, "restart", buffer.ended.append)
    watch = BufferWatch(buffer, 8.0, 60.0, request.param, lambda: now[0])

    def pass_time(seconds, step=0.5):
        for _ in range(int(seconds / step)):
            now[0] += step
            watch.check()

    pass_time.clock = now

    watch.check()
    return buffer, pass_time


def test_it_is_asked_a_few_times_in_a_heartbeat_and_at_once(watched):
    buffer, pass_time = watched
    assert buffer.asked == 1
    pass_time(20.0)
    assert 17 <= buffer.asked <= 22


@pytest.mark.parametrize("since_its_sign", [0.0, 0.25, 0.5, 1.0])
def test_one_that_is_silent_for_the_heartbeat_hangs(watched, since_its_sign):
    """However long after a sign, and after a look, it stops; and one that answers later lives."""
    buffer, pass_time = watched
    pass_time(4.0)
    asked = buffer.asked
    while buffer.asked == asked:
        pass_time(0.25, 0.25)
    pass_time(since_its_sign, 0.25)
    buffer.answers = False
    pass_time(5.5)
    words = r"the trajectory buffer did not give a sign of life within 8 s \(cluster.heartbeat_s\)"
    with pytest.raises(DeadlineExceeded, match=words):
        pass_time(2.5)


@pytest.mark.parametrize(("heartbeat_s", "lives_s"), [(1.0, 0.5), (4.0, 2.0)])
def test_of_a_short_heartbeat_half_is_left_for_an_answer(watched, heartbeat_s, lives_s):
    buffer, _ = watched
    now = [0.0]
    watch = BufferWatch(buffer, heartbeat_s, 60.0, 0, lambda: now[0])
    watch.check()
    watch.check()
    now[0] = 1.0
    buffer.answers = False
    watch.check()  # asks
    now[0] += lives_s - 0.01
    watch.check()
    now[0] += 0.02
    with pytest.raises(DeadlineExceeded):
        watch.check()


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


@pytest.mark.parametrize("serves", [True, False])
def test_a_driver_that_was_stopped_takes_no_buffer_for_one_that_hangs(watched, serves):
    buffer, pass_time = watched
    buffer.answers = serves
    pass_time(4.0)
    buffer.answers = False
    pass_time(2.0)
    pass_time.clock[0] += 1000.0
    pass_time(1.5)
    buffer.answers = True
    pass_time(1.0)
    buffer.answers = False
    with pytest.raises(DeadlineExceeded, match=r"within 8 s"):
        pass_time(10.0)


def test_one_that_answers_late_lives(watched):
    buffer, pass_time = watched
    for _ in range(5):
        buffer.answers = False
        pass_time(5.0)
        buffer.answers = True
        pass_time(0.5)


def test_whoever_waits_without_a_driver_is_told_of_a_hang_by_the_buffers_end(
    watched, monkeypatch, capsys
):
    buffer, _ = watched
    buffer.answers, ended = False, threading.Event()
    monkeypatch.setattr(buffer_watch, "LOOK_S", 0.01)
    monkeypatch.setattr(buffer_watch, "kill", lambda actor: ended.set())
    cluster = ClusterConfig(heartbeat_s=8.0, start_deadline_s=0.05)
    with buffer_watch.watched(buffer, cluster):
        assert ended.wait(200)
    said = "the trajectory buffer did not give a sign of life within 0.05 s"
    assert capsys.readouterr().err.startswith(said)


replaceable = pytest.mark.parametrize("watched", [2], indirect=True)


@replaceable
def test_one_that_hangs_is_ended_once_and_told_of_when_it_is_back(watched, capsys):
    buffer, pass_time = watched
    pass_time(4.0)
    buffer.answers = False
    while not buffer.ended:
        pass_time(0.5)
    asked = buffer.asked
    assert capsys.readouterr().err == (
        "the trajectory buffer did not give a sign of life within 8 s (cluster.heartbeat_s); "
        "the driver waited for it; it is restarted, and the learner group with it\n"
    )
    pass_time(40.0)  # it starts
    assert buffer.asked == asked + 1, "the lost one will never answer"
    assert (buffer.ended, buffer.notes) == (["the actor"], [])
    buffer.answers = True
    pass_time(20.0)
    (note,) = buffer.notes
    assert (note["kind"], note["who"]) == ("failure", "the trajectory buffer")
    assert note["cause"].startswith("did not give a sign of life within 8 s")
    assert note["at"] > 1e9
    buffer.answers = False  # a second loss
    pass_time(10.5)
    assert buffer.ended == ["the actor", "the actor"]


@replaceable
def test_one_that_dies_is_left_to_ray(watched, capsys):
    buffer, pass_time = watched
    pass_time(4.0)
    buffer.error = ActorUnavailableError("socket closed", None)
    pass_time(30.0)
    assert (buffer.ended, buffer.notes) == ([], [])
    assert capsys.readouterr().err.count("\n") == 1
    buffer.error = None
    pass_time(4.0)
    (note,) = buffer.notes
    assert note["cause"].startswith("was lost while it should give a sign of life: ActorUnavail")


@replaceable
@pytest.mark.parametrize("serves_first", [True, False])
def test_one_that_does_not_start_in_time_is_ended_and_started_again(watched, capsys, serves_first):
    buffer, pass_time = watched
    if serves_first:
        pass_time(4.0)
        buffer.error = ActorUnavailableError("socket closed", None)
        pass_time(2.0)
        buffer.error = None
    before = len(capsys.readouterr().err.splitlines())
    assert before == serves_first
    buffer.answers = False
    pass_time(57.5)
    assert buffer.ended == []
    pass_time(3.0)
    assert buffer.ended == ["the actor"]
    assert capsys.readouterr().err == (
        "the trajectory buffer did not give a sign of life within 60 s (cluster.start_deadline_s); "
        "the driver waited for it; it is restarted, and the learner group with it\n"
    )
    pass_time(30.0)
    buffer.answers = True
    pass_time(1.0)
    causes = [note["cause"].split()[0] for note in buffer.notes]
    assert causes == ["was", "did"][not serves_first :]
    pass_time(10.0)
    assert len(buffer.notes) == len(causes), "each is told once"


@replaceable
def test_one_that_never_starts_ends_the_run_with_the_first_cause(watched):
    buffer, pass_time = watched
    pass_time(4.0)
    buffer.error = ActorUnavailableError("socket closed", None)
    pass_time(118.0)
    assert len(buffer.ended) == 1
    words = (
        r"^the trajectory buffer was lost 3 times, the last ones soon after each other "
        r"\(learner.max_restarts=2\); first: was lost while it should give a sign of life: Actor"
    )
    with pytest.raises(RunFailure, match=words):
        pass_time(4.0)


@replaceable
def test_losses_with_good_service_between_are_borne(watched):
    buffer, pass_time = watched
    for _ in range(6):
        pass_time(40.0)
        buffer.answers = False
        pass_time(12.0)
        buffer.answers = True
    assert len(buffer.ended) == 6
    pass_time(5.0)
    buffer.answers = False
    pass_time(12.0)
    buffer.answers = True
    pass_time(5.0)
    buffer.answers = False
    with pytest.raises(RunFailure, match=r"was lost 8 times"):
        pass_time(12.0)


@replaceable
def test_the_silence_before_a_hang_was_found_is_no_service(watched):
    buffer, pass_time = watched
    for _ in range(2):
        pass_time(26.0)
        buffer.answers = False
        pass_time(10.5)
        buffer.answers = True
    pass_time(26.0)
    buffer.answers = False
    with pytest.raises(RunFailure, match=r"was lost 3 times"):
        pass_time(10.5)


@replaceable
def test_one_that_ray_gives_up_ends_the_run(watched):
    buffer, pass_time = watched
    buffer.error = ActorDiedError()
    with pytest.raises(WorkerLost, match="the trajectory buffer was lost"):
        pass_time(2.0)


def task_error(cause):
    return RayTaskError("start", "a traceback", cause)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (None, None),
        (task_error(RunFailure("rollout worker 0: no room")), "rollout worker 0: no room"),
        (task_error(OSError("x")), "the trajectory buffer was lost while it should start all"),
        (ActorDiedError(), None),  # of which the watch of its signs knows more
    ],
)
def test_a_failed_start_of_engines_is_told_once(monkeypatch, error, failure):
    buffer = Buffer()
    buffer.error, buffer.start, buffer.answers = error, buffer.heartbeat, False
    monkeypatch.setattr(
        buffer_watch.ray, "wait", lambda refs, timeout: (refs if buffer.answers else [], [])
    )
    monkeypatch.setattr(wait.ray, "get", buffer.get)
    watch = StartWatch(buffer)
    assert buffer.asked == 1
    assert watch.failure() is None
    buffer.answers = True
    said = watch.failure()
    assert said == failure or said.startswith(failure)
    assert watch.failure() is None
