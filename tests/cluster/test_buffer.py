"""The buffer on a real Ray: it owns references, keeps its promises, and says who failed how."""

import asyncio
import os
import time
from dataclasses import replace

import pytest
import ray

from cluster.buffer import TrajectoryBuffer
from cluster.failures import (
    DeadlineExceeded,
    RunFailure,
    RunStopped,
    TooManyFailures,
    WorkerLost,
)
from cluster.wait import wait_for
from learner.minibatches import deal, update_minibatches
from report.spans import read_spans
from rollout.episode import EpisodeRequest
from rollout.trajectory import from_block, to_block
from rollout.trajectory_summary import summarize, to_columns
from tests.rollout.test_trajectory import segment, trajectory
from tests.support.learner import config
from tests.support.local_ray import local_ray
from tests.support.trajectories import mark_failed


@ray.remote(max_concurrency=8, num_cpus=0)
class ScriptedWorker:
    """Answers like a RolloutActor: blocks of three, behaviour by the request's variant."""

    def __init__(self):
        self.queue, self.played, self.version, self.loading = [], [], -1, []
        self.epoch = 0

    async def submit(self, requests):
        self.queue += requests

    async def drop(self):
        self.queue.clear()
        self.epoch += 1

    async def node(self):
        return "here"

    async def receive(self, version, refs):
        self.loading.append(time.monotonic())
        await asyncio.sleep(0.2)
        self.version = version
        return 0.2

    @ray.method(num_returns=2)
    async def next_block(self):
        if not self.queue:
            await asyncio.sleep(0.05)
        block, self.queue = self.queue[:3], self.queue[3:]
        played = [await self._play(r) for r in block]
        return to_block(played), to_columns([summarize(t) for t in played])

    async def _play(self, request):
        self.played.append((request.id, self.version))
        if request.variant == "dies":
            os._exit(1)
        if request.variant == "hangs":
            epoch = self.epoch
            for _ in range(600):
                await asyncio.sleep(0.1 * (epoch == self.epoch))
        length = 5 + request.seed % 17
        made = segment([(2, length)], length)
        made.policy_versions[2:length] = self.version
        t = trajectory(request.id, (made,), variant=request.variant)
        return mark_failed(t, "a card fell off") if request.variant == "fails" else t

    def seen(self):
        return self.played, self.loading


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with local_ray():
        yield


@pytest.fixture
def workers():
    made = [ScriptedWorker.remote() for _ in range(2)]
    yield made
    for worker in made:
        ray.kill(worker)


def requests(n, variant="plain"):
    return [EpisodeRequest(f"x/{i:04d}", variant, i, i) for i in range(n)]


def buffer_of(workers, deadline=60.0, rate=0.1, **ppo):
    cfg = config(**ppo)
    cluster = replace(cfg.cluster, block_deadline_s=deadline, max_failure_rate=rate)
    learner = replace(cfg.learner, ranks=2)
    return TrajectoryBuffer.remote(workers, replace(cfg, cluster=cluster, learner=learner))


def collect(workers, asked, **options):
    buffer = buffer_of(workers, **options)
    ref = buffer.collect.remote(asked)
    return buffer, wait_for(ref, "the buffer", "collect", 120, "block_deadline_s")


def trajectories(rows):
    return [from_block(ray.get(ref))[row] for ref, chosen in rows for row in chosen]


def test_every_request_comes_back_once_and_in_order(workers):
    buffer, found = collect(workers, requests(20))
    assert [n.id for n in found] == [f"x/{i:04d}" for i in range(20)]
    shards = ray.get(buffer.shards.remote(2))
    dealt = [trajectories(shard) for shard in shards]
    assert sorted(t.id for share in dealt for t in share) == [n.id for n in found]
    loads = [sum(t.tokens for t in share) for share in dealt]
    assert abs(loads[0] - loads[1]) <= 21  # one trajectory at most
    again = ray.get(buffer.shards.remote(2))
    assert [[rows for _, rows in s] for s in again] == [[rows for _, rows in s] for s in shards]


def test_the_first_ones_by_id(workers):
    asked = [EpisodeRequest("x/0000", "fails", 1, 1), *requests(12)[1:]]
    buffer, _ = collect(workers, asked[::-1])
    first = ray.get(buffer.first.remote(2))
    assert [t.id for t in trajectories(first)] == ["x/0001", "x/0002"]


def test_failed_ones_are_counted_and_never_handed_out(workers):
    asked = [*requests(19), EpisodeRequest("x/9999", "fails", 1, 1)]
    buffer, found = collect(workers, asked)
    assert sum(n.end == "failed" for n in found) == 1
    (shard,) = ray.get(buffer.shards.remote(1))
    assert sum(len(rows) for _, rows in shard) == 19


def test_too_many_failures_stop_with_the_first_cause(workers):
    asked = requests(16) + [EpisodeRequest(f"x/9{i:03d}", "fails", 1, 1) for i in range(4)]
    with pytest.raises(TooManyFailures, match=r"4 of 20 .* x/9000: a card fell off"):
        collect(workers, asked)


def assert_minibatches_are_dealt(shares, update):
    """The ranks' shares balance the minibatches that the learner will make."""
    cfg = config()
    tokens = {t.id: t.tokens for share in shares for t in share}
    in_order = {name: tokens[name] for name in sorted(tokens)}
    rank_of = deal(in_order, update_minibatches(tokens, cfg.ppo, cfg.seed, update - 1), 2)
    assert rank_of == {t.id: rank for rank, share in enumerate(shares) for t in share}


@pytest.mark.parametrize(("bound", "begun"), [(0, 12), (2, 36)])
def test_batches_are_played_ahead_by_the_bound_and_shared_by_ranks(workers, bound, begun):
    buffer = buffer_of(workers, max_staleness=bound)
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    for update in (1, 2, 3):
        shares = ray.get([buffer.take.remote(update, rank) for rank in (0, 1)], timeout=60)
        played = [t for share in shares for t in trajectories(share.rows)]
        assert sorted(t.id for t in played) == [f"ppo/{update:06d}/{i:06d}" for i in range(12)]
        assert_minibatches_are_dealt([trajectories(share.rows) for share in shares], update)
        oldest = max(0, update - 1 - bound)
        assert {t.oldest_version for t in played} <= set(range(oldest, update))
        assert sum(shares[0].staleness) == 12
        assert len(shares[0].staleness) == bound + 1
        assert (shares[0].failed, shares[0].next_group) == (0, 12 * update)
        if update == 1:
            time.sleep(1.0)
            ids = [name for worker in workers for name, _ in ray.get(worker.seen.remote())[0]]
            assert len(ids) == begun
        ray.get(buffer.publish.remote(update, []))


def test_queues_and_weights_on_their_way_are_in_the_run_folder(workers, tmp_path):
    cfg = config(episodes=12, minibatch=4, updates=1)
    cfg = replace(cfg, name="mine", cluster=replace(cfg.cluster, root=str(tmp_path)))
    (tmp_path / "mine").mkdir()
    buffer = TrajectoryBuffer.remote(workers, cfg)
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    ray.get(buffer.take.remote(1, 0))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        recorded = read_spans(tmp_path / "mine")
        if recorded.counts and recorded.counts[-1].values["taken"]:
            break
        time.sleep(0.05)
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
    time.sleep(0.5)
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
    ray.get([buffer.take.remote(1, rank) for rank in (0, 1)], timeout=60)
    assert all(ray.get(worker.seen.remote())[0] for worker in workers)


def test_a_new_epoch_hands_out_nothing_of_the_old_one(workers):
    buffer = buffer_of(workers)
    ray.get(buffer.publish.remote(0, []))
    ray.get(buffer.begin.remote(1, 0))
    lost = buffer.take.remote(1, 0)
    old = buffer.collect.remote(requests(2, "hangs"))
    ray.get(buffer.begin.remote(3, 24), timeout=60)
    with pytest.raises(RunFailure, match="a restarted learner has begun a new epoch"):
        wait_for(old, "the buffer", "collect", 60, "block_deadline_s")
    ray.get(buffer.publish.remote(2, []))
    share = ray.get(buffer.take.remote(3, 1), timeout=60)
    assert {t.id.split("/")[1] for t in trajectories(share.rows)} == {"000003"}
    assert share.next_group == 36
    del lost


def test_half_of_what_is_requested_may_not_fail(workers):
    asked = [*requests(2), *[EpisodeRequest(f"x/9{i:03d}", "fails", 1, 1) for i in range(2)]]
    buffer = buffer_of(workers)
    failing = buffer.collect.remote(asked)
    with pytest.raises(TooManyFailures, match="2 of 4 trajectories failed"):
        wait_for(failing, "the buffer", "collect", 60, "block_deadline_s")


def test_a_hanging_worker_is_named_with_the_deadline(workers):
    ray.get(
        [w.seen.remote() for w in workers], timeout=120
    )  # their start takes longer on a bad day
    with pytest.raises(
        DeadlineExceeded,
        match=r"rollout worker \d did not (finish a block|take requests).* within 6 s",
    ):
        collect(workers, requests(2, "hangs"), deadline=6.0)


def test_a_dead_worker_is_named(workers):
    with pytest.raises(WorkerLost, match=r"rollout worker \d was lost while it should"):
        collect(workers, requests(2, "dies"))


def test_a_run_that_is_to_stop_waits_for_no_episode(workers):
    """All ranks get a batch that was complete before, or none does."""
    buffer = buffer_of(workers, updates=3, episodes=4)
    assert ray.get(buffer.stopping.remote()) is False
    ray.get([buffer.begin.remote(1, 0), buffer.published.remote(0)])
    first = ray.get(buffer.take.remote(1, 0))
    waits = buffer.take.remote(2, 0)  # no engine has the weights of update 1
    ray.get(buffer.stop.remote())
    for call in (waits, buffer.take.remote(2, 1), buffer.collect.remote(requests(2))):
        with pytest.raises(RunStopped):
            wait_for(call, "the buffer", "give episodes", 20, "block_deadline_s")
    second = ray.get(buffer.take.remote(1, 1))
    assert len(trajectories(first.rows)) + len(trajectories(second.rows)) == 4
    assert ray.get(buffer.stopping.remote()) is True
