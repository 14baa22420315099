"""The buffer on a real Ray: it owns references, keeps its promises, and says who failed how."""

import re
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import ray

from cluster.driver.buffer_watch import BufferWatch
from cluster.failures import RunFailure, RunStopped, TooManyFailures, WorkerLost
from cluster.handles import BufferHandle, restart
from cluster.stream.buffer import TrajectoryBuffer
from cluster.wait import is_dead, wait_for
from learner.minibatches import deal, update_minibatches
from report.spans import read_spans
from rollout.episode import EpisodeRequest
from rollout.trajectory import from_block
from tests.support.learner import config
from tests.support.local_ray import kill, replace_dead
from tests.support.ray_actors import HangsInItsStart
from tests.support.scripted_worker import ScriptedWorker
from tests.support.slow import fast

pytestmark = pytest.mark.usefixtures("local_ray")
WAIT_S = 300.0  # reached only where an answer never comes
BUFFERS = []  # of the test


@pytest.fixture(scope="module")
def fleet():
    return [ScriptedWorker.remote() for _ in range(2)]


@pytest.fixture
def workers(fleet):
    """The same two in each test: to start them takes longer than a test."""
    replace_dead(fleet, ScriptedWorker.remote)
    ray.get([worker.forget.remote() for worker in fleet], timeout=WAIT_S)
    yield list(fleet)
    while BUFFERS:  # they would ask the workers for more
        kill(BUFFERS.pop())


def requests(n, variant="plain"):
    return [EpisodeRequest(f"x/{i:04d}", variant, i, i) for i in range(n)]


def made(workers, cfg, **options):
    BUFFERS.append(TrajectoryBuffer.options(**options).remote(workers, cfg))
    return BufferHandle(BUFFERS[-1])


def buffer_of(workers, deadline=200.0, rate=0.1, most=5, **ppo):
    """A buffer whose engines have started, and that is in its first epoch."""
    cfg = config(**ppo)
    cluster = replace(
        cfg.cluster, block_deadline_s=deadline, max_failure_rate=rate, heartbeat_s=60.0
    )
    learner, rollout = replace(cfg.learner, ranks=2), replace(cfg.rollout, max_restarts=most)
    cfg = replace(cfg, cluster=cluster, learner=learner, rollout=rollout)
    buffer = made(workers, cfg)
    assert ray.get(buffer.start.remote(), timeout=WAIT_S) == ["here", "here"]
    return begin_epoch(buffer)


def begin_epoch(buffer):
    return replace(buffer, epoch=ray.get(buffer.reset.remote(), timeout=WAIT_S))


def collect(workers, asked, **options):
    buffer = buffer_of(workers, **options)
    ref = buffer.collect.remote(asked)
    return buffer, wait_for(ref, "the buffer", "collect", WAIT_S, "block_deadline_s")


def trajectories(rows):
    return [from_block(ray.get(ref))[row] for ref, chosen, _ in rows for row in chosen]


def test_every_request_comes_back_once_and_in_order(workers):
    buffer, found = collect(workers, requests(20))
    assert [n.id for n in found] == [f"x/{i:04d}" for i in range(20)]
    shards = [ray.get(buffer.shard.remote(rank)) for rank in range(2)]
    dealt = [trajectories(shard) for shard in shards]
    assert sorted(t.id for share in dealt for t in share) == [n.id for n in found]
    loads = [sum(t.tokens for t in share) for share in dealt]
    assert abs(loads[0] - loads[1]) <= 21  # one trajectory at most
    again = [ray.get(buffer.shard.remote(rank)) for rank in range(2)]
    assert [[part.rows for part in s] for s in again] == [[part.rows for part in s] for s in shards]


def test_the_first_ones_by_id(workers):
    asked = [EpisodeRequest("x/0000", "fails", 1, 1), *requests(12)[1:]]
    buffer, _ = collect(workers, asked[::-1])
    earliest = ray.get(buffer.first.remote(2))
    assert [t.id for t in trajectories(earliest)] == ["x/0001", "x/0002"]


def test_failed_ones_are_counted_and_never_handed_out(workers):
    asked = [*requests(19), EpisodeRequest("x/9999", "fails", 1, 1)]
    buffer, found = collect(workers, asked)
    assert sum(n.end == "failed" for n in found) == 1
    shards = [ray.get(buffer.shard.remote(rank)) for rank in range(2)]
    assert sum(len(rows) for shard in shards for _, rows, _ in shard) == 19


def test_too_many_failures_stop_with_the_first_cause(workers):
    asked = requests(14) + [EpisodeRequest(f"x/9{i:03d}", "fails", 1, 1) for i in range(6)]
    with pytest.raises(TooManyFailures, match=r"6 of 20 .* x/9000: a card fell off"):
        collect(workers, asked)


def assert_minibatches_are_dealt(shares, update):
    """The ranks' shares balance the minibatches that the learner will make."""
    cfg = config()
    tokens = {t.id: t.tokens for share in shares for t in share}
    in_order = {name: tokens[name] for name in sorted(tokens)}
    rank_of = deal(in_order, update_minibatches(tokens, cfg.ppo, cfg.seed, update - 1), 2)
    assert rank_of == {t.id: rank for rank, share in enumerate(shares) for t in share}


def until(happened):
    """Wait for it; the assertion that follows says what it is."""
    deadline = time.monotonic() + WAIT_S
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)


def episodes_of(workers):
    return sum(len(ray.get(worker.seen.remote())[0]) for worker in workers)


@pytest.mark.parametrize(("bound", "begun"), fast([(2, 36)], [(0, 12), (2, 36)]))
def test_batches_are_played_ahead_by_the_bound_and_shared_by_ranks(workers, bound, begun):
    buffer = buffer_of(workers, max_staleness=bound)
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    for update in (1, 2, 3):
        shares = ray.get([buffer.take.remote(update, rank) for rank in (0, 1)], timeout=WAIT_S)
        played = [t for share in shares for t in trajectories(share.rows)]
        assert sorted(t.id for t in played) == [f"ppo/{update:06d}/{i:06d}" for i in range(12)]
        assert_minibatches_are_dealt([trajectories(share.rows) for share in shares], update)
        oldest = max(0, update - 1 - bound)
        assert {t.oldest_version for t in played} <= set(range(oldest, update))
        assert sum(shares[0].staleness) == 12
        assert len(shares[0].staleness) == bound + 1
        assert (shares[0].failed, shares[0].next_group) == ([], 12 * update)
        if update == 1:
            until(lambda: episodes_of(workers) >= begun)
            time.sleep(0.3)  # more would come
            assert episodes_of(workers) == begun
        ray.get(buffer.publish.remote(update, []))


def test_queues_and_weights_on_their_way_are_in_the_run_folder(workers, tmp_path):
    cfg = config(episodes=12, minibatch=4, updates=1)
    cfg = replace(cfg, name="mine", cluster=replace(cfg.cluster, root=str(tmp_path)))
    (tmp_path / "mine").mkdir()
    buffer = made(workers, cfg)
    ray.get(buffer.start.remote())
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    ray.get(buffer.take.remote(1, 0))
    counts = lambda: read_spans(tmp_path / "mine").counts  # noqa: E731
    until(lambda: counts() and counts()[-1].values["taken"])
    recorded = read_spans(tmp_path / "mine")
    assert {count.process.name for count in recorded.counts} == {"trajectory buffer"}
    assert recorded.counts[-1].values == {"queued": 0, "running": 0, "ready": 0, "taken": 12}
    assert all(sum(count.values.values()) <= 12 for count in recorded.counts)
    (travel,) = recorded.spans
    assert (travel.name, travel.track, travel.args) == ("weights travel", "weights", {"version": 0})
    assert not travel.open


def test_engines_of_a_node_load_one_after_another(workers):
    """So shared memory holds one engine's bucket at a time, whether they play or not."""
    buffer = buffer_of(workers)
    _, idle = ray.get(buffer.publish.remote(1, []))
    ray.get(buffer.publish.remote(2, []))
    first = [ray.get(worker.seen.remote())[1][-1] for worker in workers]
    assert abs(first[0] - first[1]) >= 0.2
    hanging = buffer.collect.remote(requests(2, "hangs"))
    until(lambda: episodes_of(workers) == 2)
    ray.get(buffer.publish.remote(3, []))
    second = [ray.get(worker.seen.remote())[1][-1] for worker in workers]
    assert abs(second[0] - second[1]) >= 0.2
    assert idle == [0.2, 0.2]
    del hanging


def test_engines_that_did_not_play_begin_together(workers):
    """Else the first one to have the weights would be given all episodes."""
    buffer = buffer_of(workers)
    ray.get(buffer.begin.remote(1, 0))
    ray.get(buffer.publish.remote(0, []))
    ray.get([buffer.take.remote(1, rank) for rank in (0, 1)], timeout=WAIT_S)
    assert all(ray.get(worker.seen.remote())[0] for worker in workers)


def test_a_new_epoch_hands_out_nothing_of_the_old_one(workers):
    buffer = buffer_of(workers)
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    lost = buffer.take.remote(1, 0)
    old = buffer.collect.remote(requests(2, "hangs"))
    new = begin_epoch(buffer)
    assert new.epoch == buffer.epoch + 1
    for late in (
        old,
        buffer.publish.remote(9, []),
        buffer.published.remote(9),
        buffer.begin.remote(1, 0),
        buffer.take.remote(1, 1),
        buffer.collect.remote(requests(2)),
    ):
        with pytest.raises(RunFailure, match="a restarted learner has begun a new epoch"):
            wait_for(late, "the buffer", "answer", WAIT_S, "block_deadline_s")
    ray.get(new.publish.remote(2, []))
    ray.get(new.begin.remote(3, 24), timeout=WAIT_S)
    share = ray.get(new.take.remote(3, 1), timeout=WAIT_S)
    assert {t.id.split("/")[1] for t in trajectories(share.rows)} == {"000003"}
    assert share.next_group == 36
    assert share.states["dropped foreign"] >= 5
    del lost


def test_a_learner_that_restarts_during_play_goes_on_with_the_same_episodes(workers):
    """The old group's blocks have the ids of the new one's episodes, and come while it waits."""
    buffer = buffer_of(workers, max_staleness=1)
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    for version in (5, 6, 7):
        old = buffer.take.remote(1, 0)
        buffer = begin_epoch(buffer)
        ray.get(buffer.publish.remote(version - 5, []))
        ray.get(buffer.begin.remote(version - 4, 12 * (version - 5)))
        shares = ray.get([buffer.take.remote(version - 4, rank) for rank in (0, 1)], timeout=WAIT_S)
        played = [t for share in shares for t in trajectories(share.rows)]
        assert sorted(t.id for t in played) == [f"ppo/{version - 4:06d}/{i:06d}" for i in range(12)]
        assert {t.oldest_version for t in played} == {version - 5}
        del old


def test_a_buffer_that_dies_comes_back_with_its_workers_and_a_higher_epoch(workers):
    """Its workers play on for it, and what belonged to the lost one is refused."""
    cfg = config(episodes=12, minibatch=4)
    cfg = replace(cfg, learner=replace(cfg.learner, ranks=2))
    buffer = made(workers, cfg, max_restarts=-1)
    ray.get(buffer.start.remote(), timeout=WAIT_S)
    old = begin_epoch(buffer)
    _, _, late = old.publish.remote(0, []), old.begin.remote(1, 0), old.take.remote(1, 0)
    restart(buffer.actor)
    with pytest.raises(WorkerLost) as lost:
        wait_for(late, "the buffer", "deal", WAIT_S, "block_deadline_s")
    assert is_dead(lost.value)
    begin, answer = time.monotonic(), None
    while answer is None and time.monotonic() - begin < WAIT_S:
        with suppress(WorkerLost):
            answer = wait_for(old.start.remote(), "the buffer", "start", WAIT_S, "start_deadline_s")
    assert answer == ["here", "here"]
    old.note.remote({"kind": "failure"})
    new = begin_epoch(old)
    assert new.epoch > old.epoch + 1000
    with pytest.raises(RunFailure, match="a restarted learner has begun a new epoch"):
        wait_for(old.take.remote(1, 0), "the buffer", "deal", WAIT_S, "block_deadline_s")
    ray.get([new.publish.remote(0, []), new.begin.remote(1, 0)], timeout=WAIT_S)
    shares = ray.get([new.take.remote(1, rank) for rank in (0, 1)], timeout=WAIT_S)
    played = [t.id for share in shares for t in trajectories(share.rows)]
    assert sorted(played) == [f"ppo/000001/{i:06d}" for i in range(12)]
    assert ray.get(new.incidents.remote()) == [{"kind": "failure"}]


def test_half_of_what_is_requested_may_not_fail(workers):
    asked = [*requests(2), *[EpisodeRequest(f"x/9{i:03d}", "fails", 1, 1) for i in range(2)]]
    buffer = buffer_of(workers)
    failing = buffer.collect.remote(asked)
    with pytest.raises(TooManyFailures, match="2 of 4 trajectories failed"):
        wait_for(failing, "the buffer", "collect", WAIT_S, "block_deadline_s")


def test_what_a_dead_worker_played_is_played_again_and_it_comes_back(workers, tmp_path):
    buffer = buffer_of(workers)
    ray.get(buffer.publish.remote(4, [ray.put(None)]))
    asked = [
        *requests(10),
        EpisodeRequest("x/dies", f"dies once: {tmp_path / 'mark'}", 1, 1),
        *requests(30)[10:],
    ]
    found = ray.get(buffer.collect.remote(asked), timeout=WAIT_S)
    assert [n.id for n in found] == [r.id for r in asked]
    assert all(n.end == "terminated" for n in found)
    incidents = []
    until(lambda: incidents.extend(ray.get(buffer.incidents.remote())) or len(incidents) >= 2)
    failure, restart = incidents
    assert (failure["kind"], restart["kind"]) == ("failure", "restart")
    assert failure["who"] == restart["who"]
    assert failure["episodes"] > 0
    assert failure["quarantined"] == 0
    (index,) = (i for i in (0, 1) if failure["who"] == f"rollout worker {i}")
    _, loading = ray.get(workers[index].seen.remote())
    samples = [entry for entry in loading if isinstance(entry, list)]
    assert restart["proof"] == ("replayed" if samples else "left to the next batch")
    again = ray.get(buffer.collect.remote(requests(20)), timeout=WAIT_S)
    assert len(again) == 20
    assert ray.get(workers[index].seen.remote())[0][-1][1] == 4, "under the last weights"


def test_a_run_that_is_to_stop_waits_for_no_episode(workers):
    """All ranks get a batch that was complete before, or none does."""
    buffer = buffer_of(workers, updates=3, episodes=4)
    ray.get([buffer.begin.remote(1, 0), buffer.published.remote(0)])
    first = ray.get(buffer.take.remote(1, 0))
    waits = buffer.take.remote(2, 0)  # no engine has the weights of update 1
    ray.get(buffer.stop.remote())
    ray.get(buffer.publish.remote(1, []))  # of the update that it was stopped in, which ends
    for call in (waits, buffer.take.remote(2, 1), buffer.collect.remote(requests(2))):
        with pytest.raises(RunStopped):
            wait_for(call, "the buffer", "give episodes", WAIT_S, "block_deadline_s")
    second = ray.get(buffer.take.remote(1, 1))
    assert len(trajectories(first.rows)) + len(trajectories(second.rows)) == 4
    assert ray.get(buffer.stopping.remote()) is True


@pytest.mark.slow
def test_an_episode_that_kills_its_workers_is_quarantined_alone(workers):
    buffer = buffer_of(workers)
    asked = [*requests(19), EpisodeRequest("x/dies", "dies", 1, 1)]
    found = ray.get(buffer.collect.remote(asked), timeout=WAIT_S)
    ends = {n.id: n.end for n in found}
    assert ends.pop("x/dies") == "failed"
    assert set(ends.values()) == {"terminated"}
    (failure,) = (n.failure for n in found if n.failure)
    assert re.match(
        "quarantined: [34] workers were lost with its question; the last: rollout worker", failure
    )


@pytest.mark.slow
def test_a_worker_that_is_lost_again_and_again_ends_the_run(workers):
    buffer = buffer_of(workers, most=1)
    with pytest.raises(RunFailure, match=r"lost 2 times.*max_restarts=1\); first: rollout worker"):
        wait_for(buffer.collect.remote(requests(2, "dies")), "the buffer", "collect", WAIT_S, "x")


@pytest.mark.slow
def test_a_hanging_worker_is_replaced_at_its_deadline_and_what_hangs_is_quarantined(workers):
    buffer = buffer_of(workers, deadline=3.0, rate=1.0)
    words = "did not finish a block of episodes within 3 s .cluster.block_dead"
    with pytest.raises(
        RunFailure, match=rf"all of 1 trajectories failed; .* quarantined: .*{words}"
    ):
        wait_for(buffer.collect.remote(requests(1, "hangs")), "the buffer", "collect", WAIT_S, "x")


def test_one_that_hangs_in_its_start_is_started_again(tmp_path):
    actor, later = HangsInItsStart.remote(tmp_path), [0.0]
    watch = BufferWatch(BufferHandle(actor), WAIT_S, WAIT_S, 1, lambda: time.monotonic() + later[0])
    end = time.monotonic() + WAIT_S

    def look_until(reached):
        while not reached():
            assert time.monotonic() < end
            watch.check()
            time.sleep(0.05)

    look_until((tmp_path / "begun").exists)
    for _ in range(int(WAIT_S)):
        later[0] += 1.01
        watch.check()
    notes = []

    def noted():
        with suppress(ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            notes.extend(ray.get(actor.notes.remote(), timeout=0.2))
        return notes

    look_until(noted)
    assert "within 300 s (cluster.start_deadline_s)" in notes[0]["cause"]
