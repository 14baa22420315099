"""The buffer on a real Ray: it owns references, keeps its promises, and says who failed how."""

import asyncio
import os

import pytest
import ray

from cluster.buffer import TrajectoryBuffer
from cluster.failures import DeadlineExceeded, TooManyFailures, WorkerLost
from cluster.wait import wait_for
from rollout.episode import EpisodeRequest
from rollout.trajectory import from_block, to_block
from rollout.trajectory_summary import summarize, to_columns
from tests.rollout.test_trajectory import segment, trajectory
from tests.support.local_ray import local_ray
from tests.support.trajectories import mark_failed


@ray.remote(max_concurrency=4, num_cpus=0)
class ScriptedWorker:
    """Answers like a RolloutActor: blocks of three, behaviour by the request's variant."""

    def __init__(self):
        self.queue, self.plays = [], {}

    def submit(self, requests):
        self.queue += requests

    @ray.method(num_returns=2)
    async def next_block(self):
        block, self.queue = self.queue[:3], self.queue[3:]
        played = [await self._play(r) for r in block]
        return to_block(played), to_columns([summarize(t) for t in played])

    async def _play(self, request):
        if request.variant == "dies":
            os._exit(1)
        if request.variant == "hangs":
            await asyncio.sleep(60)
        number = self.plays[request.id] = self.plays.get(request.id, 0) + 1
        version = 3 - 2 * (request.variant == "stale first" and number == 1)
        length = 5 + request.seed % 17
        made = segment([(2, length)], length)
        made.policy_versions[2:length] = version
        t = trajectory(request.id, (made,), variant=request.variant)
        return mark_failed(t, "a card fell off") if request.variant == "fails" else t

    def ready(self):
        return True


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


def collect(workers, asked, deadline=60.0, rate=0.1, version=3, staleness=0):
    buffer = TrajectoryBuffer.remote(workers, deadline, rate)
    ref = buffer.collect.remote(asked, version, staleness)
    return buffer, wait_for(ref, "the buffer", "collect", 120, "block_deadline_s")


def test_every_request_comes_back_once_and_in_order(workers):
    buffer, found = collect(workers, requests(20))
    assert [n.id for n in found] == [f"x/{i:04d}" for i in range(20)]
    shards = ray.get(buffer.shards.remote(2))
    rows = [
        from_block(ray.get(ref))[row] for shard in shards for ref, rows in shard for row in rows
    ]
    assert sorted(t.id for t in rows) == [n.id for n in found]
    loads = [
        sum(from_block(ray.get(ref))[row].tokens for ref, rows in shard for row in rows)
        for shard in shards
    ]
    assert abs(loads[0] - loads[1]) <= 21  # one trajectory at most
    again = ray.get(buffer.shards.remote(2))
    assert [[rows for _, rows in s] for s in again] == [[rows for _, rows in s] for s in shards]


def test_the_first_ones_by_id(workers):
    asked = [EpisodeRequest("x/0000", "fails", 1, 1), *requests(12)[1:]]
    buffer, _ = collect(workers, asked[::-1])
    first = ray.get(buffer.first.remote(2))
    played = [from_block(ray.get(ref))[row] for ref, rows in first for row in rows]
    assert [t.id for t in played] == ["x/0001", "x/0002"]


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


def test_what_is_too_stale_is_played_again(workers):
    _, found = collect(workers, requests(6, "stale first"))
    assert [n.oldest_version for n in found] == [3] * 6
    for bound, version in ((2, 1), (1, 3)):  # two versions late
        request = EpisodeRequest(f"y{bound}/1", "stale first", 1, 1)
        _, found = collect(workers, [request], staleness=bound)
        assert [n.oldest_version for n in found] == [version]


def test_a_hanging_worker_is_named_with_the_deadline(workers):
    ray.get(
        [w.ready.remote() for w in workers], timeout=120
    )  # their start takes longer on a bad day
    with pytest.raises(
        DeadlineExceeded,
        match=r"rollout worker \d did not (finish a block|take requests).* within 6 s",
    ):
        collect(workers, requests(2, "hangs"), deadline=6.0)


def test_a_dead_worker_is_named(workers):
    with pytest.raises(WorkerLost, match=r"rollout worker \d was lost while it should"):
        collect(workers, requests(2, "dies"))
