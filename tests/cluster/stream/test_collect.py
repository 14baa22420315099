"""Collecting: what a learner rank asks for, gets and makes of it, without Ray's processes."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.handles import BlockRows, Share
from cluster.stream import collect as module
from cluster.stream.collect import Collector, collect, fetch
from rollout.engine_load import EngineLoad
from rollout.trajectory import to_block
from rollout.trajectory_summary import summarize
from tests.support.learner import config, trajectories

PLAYED = trajectories(6)
RESTARTS_S = 5 * 300.0  # rollout.max_restarts, each as long as a start


class Method:
    def __init__(self, function):
        self.remote = function


def loaded(running_s, busy_s, seconds=10.0, tokens=100, begin=7.0):
    """How busy an engine was since it began to be."""
    return EngineLoad(begin, running_s, busy_s, seconds, tokens)


def with_loads(collector, buffer, *answers):
    """The records of updates whose answers are these; before them no engine had done anything."""
    nothing = [loaded(0.0, 0.0, 0.0, 0) for _ in answers[0]]
    waiting = [nothing, *answers]
    buffer.loads = Method(lambda: waiting.pop(0))
    collector.forget_loads()
    records = []
    for _ in answers:
        collector.take(4)
        records.append(collector.loads())
    return records


class FakeBuffer:
    """Has played all; its references are the values themselves."""

    def __init__(self):
        self.asked = []
        self.collect, self.shard = Method(self._collect), Method(self._shard)
        self.begin, self.take = Method(self._begin), Method(self._take)
        self.loads = Method(lambda: [loaded(n * n, n) for n in (3.0, 5.0)])
        self.happened = [{"kind": "restart", "who": "rollout worker 1", "cause": "it is back"}]
        self.incidents = Method(lambda: [self.happened.pop()] if self.happened else [])

    def _collect(self, requests):
        self.asked.append(requests)
        failed = replace(summarize(PLAYED[0]), end="failed")
        return [failed, *map(summarize, PLAYED[1:])]

    def _begin(self, update, next_group):
        self.asked.append(("begin", update, next_group))

    def _take(self, update, rank):
        self.asked.append(("take", update, rank))
        own, played = [[PLAYED[rank].id]], {"episodes_played": 9}
        return Share(self._shard(rank), own, played, [5, 1], ["a", "b"], 77, {"ready": 9})

    def _shard(self, rank):
        return [BlockRows(to_block(PLAYED), list(range(rank, 6, 2)), 3)]


@pytest.fixture
def made(monkeypatch):
    """make(rank) gives a collector of two ranks, its buffer, and what was waited for."""
    waits = []

    def wait_for(value, *asked):
        waits.append(asked)
        return value

    monkeypatch.setattr(module, "wait_for", wait_for)
    monkeypatch.setattr(module, "wait_until_ready", lambda value, *asked: None)
    monkeypatch.setattr(module, "wait_for_all", lambda values, *asked: list(values))

    def make(rank, staleness=2):
        cfg = config(max_staleness=staleness, updates=4)
        cfg = replace(cfg, learner=replace(cfg.learner, ranks=2))
        buffer = FakeBuffer()
        job = SimpleNamespace(cfg=cfg, buffer=buffer)
        written = buffer.written = []
        return Collector(job, rank, lambda **fields: written.append(fields)), buffer

    return make, waits


def test_rank_0_has_requests_played_and_other_ranks_none(made):
    for rank, asked in ((0, [["request"]]), (1, [])):
        collector, buffer = made[0](rank)
        collector.collect(["request"])
        assert buffer.asked == asked


def test_rank_0_says_when_what_was_collected_is_needed_no_more(made):
    for rank, said in ((0, ["release"]), (1, [])):
        collector, buffer = made[0](rank)
        buffer.release = Method(lambda asked=buffer.asked: asked.append("release"))
        collector.release()
        assert buffer.asked == said


def test_rank_0_begins_to_play_and_forgets_the_load_before(made):
    for rank, asked in ((0, [("begin", 3, 40)]), (1, [])):
        collector, buffer = made[0](rank)
        collector.begin(3, 40)
        assert buffer.asked == asked


def test_rank_0_records_what_has_befallen_the_workers_once(made):
    for rank, written in ((0, ["it is back"]), (1, [])):
        collector, buffer = made[0](rank)
        collector.forget_loads()
        collector.forget_loads()
        assert [record["cause"] for record in buffer.written] == written


def test_while_the_only_engine_is_replaced_none_is_busy(made):
    collector, buffer = made[0](0)
    (record,) = with_loads(collector, buffer, [None])
    assert (record["running"], record["busy_seconds"], record["engine_idle"]) == (0.0, 0.0, [None])


def test_shares_stand_at_the_places_of_their_engines_though_one_is_lost(made):
    collector, buffer = made[0](0)
    (record,) = with_loads(collector, buffer, [None, loaded(24.0, 6.0, 8.0, 30)])
    assert (record["running"], record["busy_seconds"]) == (4.0, 6.0), "of those that are known"
    assert (record["engine_idle"], record["sampled_tokens"]) == ([None, 0.25], 30)


def test_whoever_does_not_answer_at_once_is_named(made):
    collector, _ = made[0](0)
    collector.begin(1, 0)
    whats = ("begin to play", "give the engines' loads", "tell what has happened")
    assert made[1] == [("the buffer", what, 600.0, "block_deadline_s") for what in whats]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_wait_until_rank_0_has_told_the_buffer(made, monkeypatch, rank):
    collector, buffer = made[0](rank)
    monkeypatch.setattr(module.distributed, "barrier", lambda: buffer.asked.append("barrier"))
    buffer.shard = Method(lambda of: buffer.asked.append(of) or buffer._shard(of))
    collector.begin(3, 40)
    collector.fetch()
    begin = [("begin", 3, 40)] if rank == 0 else []
    assert buffer.asked == [*begin, "barrier", "barrier", rank]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_batch_is_the_ranks_own_share_and_rank_0_knows_how_it_was_played(made, rank):
    collector, buffer = made[0](rank, staleness=0)
    batch = collector.take(3)
    assert [t.id for t in batch.trajectories] == [t.id for t in PLAYED[rank::2]]
    assert batch.next_group == 77
    record = dict(batch.record)
    assert 0 <= record.pop("waited_seconds") < 60
    known = {"staleness": [5, 1], "ledger": {"ready": 9}, "episodes_played": 9}
    assert record == {"failed": 2, "failed_ids": ["a", "b"]} | (known if rank == 0 else {})
    assert buffer.asked == [("take", 3, rank)], "engines do not play ahead"
    assert batch.packed is None


@pytest.mark.parametrize("rank", [0, 1])
def test_engines_are_asked_how_busy_they_were_when_a_batch_is_taken_and_answer_later(made, rank):
    collector, buffer = made[0](rank)
    loads = buffer.loads.remote
    buffer.loads = Method(lambda: [loaded(0.0, 0.0, 0.0, 0)] * 2)
    collector.forget_loads()
    made[1].clear()
    asked = []
    buffer.loads = Method(lambda: asked.append("loads") or loads())
    collector.take(4)
    assert asked == ["loads"] * (rank == 0)
    assert "give the engines' loads" not in [what for _, what, *_ in made[1]], "nobody waits yet"
    known = {
        "running": 4.0,
        "busy_seconds": 4.0,
        "sampled_tokens": 200,
        "engine_idle": [0.7, 0.5],
    }
    assert collector.loads() == (known if rank == 0 else {})
    assert collector.loads() == {}, "they are asked once a batch"


def test_the_next_batch_is_fetched_meanwhile_where_engines_play_ahead(made):
    collector, buffer = made[0](1, staleness=1)
    for update in (2, 3, 4):
        assert collector.take(update).next_group == 77
        collector._ahead.submit(bool).result(10)  # after what it fetches ahead
        ahead = range(2, min(update + 1, 4) + 1)
        assert buffer.asked == [("take", u, 1) for u in ahead], "and none after the last"


def test_what_is_fetched_ahead_is_packed_there_and_what_is_waited_for_in_its_update(made):
    packed, free = [], []

    def pack(played, minibatches):
        packed.append((threading.current_thread().name, [t.id for t in played], minibatches))
        free.append(not module.RECEIVING.locked())
        return f"packed {len(packed)}"

    collector, _ = made[0](1, staleness=1)
    collector.begin(2, 0, pack)
    assert [collector.take(update).packed for update in (2, 3, 4)] == [None, "packed 1", "packed 2"]
    own = [t.id for t in PLAYED[1::2]]
    assert packed == [("next batch_0", own, [[PLAYED[1].id]])] * 2
    assert all(free), "another thread may receive references meanwhile"


def test_the_last_batch_goes_with_whoever_took_it(made):
    """Its trajectories are views that keep its blocks in the object store."""
    collector, _ = made[0](1, staleness=1)
    for update in (2, 3, 4):
        batch = collector.take(update)
    last = weakref.ref(batch.trajectories[0])
    collector._ahead.submit(bool).result(10)  # its thread has let go of it
    del batch
    assert last() is None


def test_a_batch_that_cannot_be_packed_is_an_error_where_it_is_taken(made):
    def pack(played, minibatches):
        raise ValueError("a sequence has 4 picture tokens")

    collector, _ = made[0](1, staleness=1)
    collector.begin(2, 0, pack)
    collector.take(2)
    with pytest.raises(ValueError, match="4 picture tokens"):
        collector.take(3)


def test_only_the_batch_that_is_asked_for_is_given(made):
    collector, buffer = made[0](1, staleness=1)
    collector.take(1)
    collector.take(3)
    collector._ahead.shutdown()
    assert sorted(buffer.asked) == [("take", update, 1) for update in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("bound", "every", "blocks"), [(0, 0, 2), (0, 2, 2), (1, 0, 2), (1, 2, 2 + 2 * (3 + 3))]
)
def test_a_batch_may_take_as_long_as_its_blocks_and_an_evaluation_before_it(
    made, bound, every, blocks
):
    """An evaluation of two variants, each 32 greedy episodes and 4 times 8 samples."""
    collector, _ = made[0](0, bound)
    job, variants = collector._job, {"a": {}, "b": {}}
    evaluation = replace(
        job.cfg.eval, every=every, episodes=32, sampled_questions=4, samples=8, variants=variants
    )
    job.cfg = replace(job.cfg, eval=evaluation)
    collector.take(4)
    what = "complete the batch of update 4"
    seconds = 600.0 * blocks + RESTARTS_S * (1 + 4 * (bound and every > 0))
    assert made[1][0] == ("the buffer", what, seconds, "block_deadline_s")


def test_a_batch_may_take_as_long_as_all_that_dynamic_sampling_may_play(made):
    collector, _ = made[0](0, 0)
    job = collector._job
    job.cfg = replace(job.cfg, ppo=replace(job.cfg.ppo, dynamic_sampling=3))  # 36 episodes
    collector.take(4)
    assert made[1][0][2] == 600.0 * 4 + RESTARTS_S


@pytest.mark.parametrize("rank", [0, 1])
def test_what_engines_did_before_they_play_is_forgotten(made, rank):
    collector, buffer = made[0](rank)
    popped = []
    buffer.loads = Method(lambda: popped.append("load") or [loaded(9.0, 9.0)])
    collector.begin(1, 0)
    assert popped == ["load"] * (rank == 0)
    collector.forget_loads()
    assert popped == ["load", "load"] * (rank == 0)


def test_what_an_engine_did_that_answers_late_is_part_of_its_next_record(made):
    collector, buffer = made[0](0)
    answers = [loaded(4.0, 2.0, 3.0, 10), None, loaded(16.0, 6.0, 8.0, 25)]
    first, second, third = with_loads(collector, buffer, *([answer] for answer in answers))
    assert (first["sampled_tokens"], first["busy_seconds"], first["running"]) == (10, 2.0, 2.0)
    assert (second["sampled_tokens"], second["engine_idle"]) == (0, [None])
    assert (third["sampled_tokens"], third["busy_seconds"], third["running"]) == (15, 4.0, 3.0)
    assert third["engine_idle"] == [pytest.approx(0.2)]


def test_of_an_engine_in_the_place_of_a_lost_one_all_counts(made):
    collector, buffer = made[0](0)
    answers = [[loaded(4.0, 2.0, 5.0, 10)], [loaded(2.0, 1.0, 9.0, 3, begin=8.0)]]
    _, record = with_loads(collector, buffer, *answers)
    assert (record["sampled_tokens"], record["running"]) == (3, 2.0)


def test_of_one_that_was_not_known_when_they_began_to_count_nothing_is_known(made):
    collector, buffer = made[0](0)
    with_loads(collector, buffer, [loaded(1.0, 1.0)])
    buffer.loads = Method(lambda: [None])
    collector.forget_loads()
    buffer.loads = Method(lambda: [loaded(9.0, 9.0, 20.0, 300)])
    collector.take(4)
    assert collector.loads()["engine_idle"] == [None], "an evaluation would count"
    buffer.loads = Method(lambda: [loaded(9.0, 9.0, 25.0, 307)])
    collector.take(4)
    assert collector.loads()["sampled_tokens"] == 7


def test_as_many_first_trajectories_as_asked_for():
    buffer = SimpleNamespace(first=Method(lambda n: [BlockRows(to_block(PLAYED), [*range(n)], 0)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "wait_until_ready", lambda *_: None)
        patch.setattr(module, "wait_for", lambda value, *_: value)
        patch.setattr(module, "wait_for_all", lambda values, *_: list(values))
        first = module.first_trajectories(config(), buffer, 3)
    assert [t.id for t in first] == [t.id for t in PLAYED[:3]]


class Reference:
    """One that weak references can watch."""


class WatchedLock:
    """Knows which references are still there when it is given back."""

    def __init__(self):
        self.held, self.references, self.left = False, [], None

    def __enter__(self):
        self.held = True

    def __exit__(self, *error):
        self.held, self.left = False, [r() for r in self.references if r() is not None]


def test_references_arrive_and_are_gone_before_another_thread_may_read_some(monkeypatch):
    lock, seen = WatchedLock(), []
    monkeypatch.setattr(module, "RECEIVING", lock)
    monkeypatch.setattr(module, "wait_until_ready", lambda *_: seen.append(("waits", lock.held)))
    monkeypatch.setattr(module, "wait_for", lambda ref, *_: seen.append(("arrives", lock.held)))

    def call():
        reference = Reference()
        lock.references.append(weakref.ref(reference))
        return reference

    read = module.receive(call, lambda _: ("read", lock.held), "name some", 9.0)
    assert [*seen, read] == [("waits", False), ("arrives", True), ("read", True)]
    assert (lock.left, len(lock.references)) == ([], 1)


def test_each_rank_fetches_its_own_share(made):
    for rank in range(2):
        shard = made[0](rank)[0].fetch()
        assert [t.id for t in shard] == [t.id for t in PLAYED[rank::2]]


@pytest.mark.parametrize(("episodes", "blocks"), [(1, 2), (16, 2), (17, 3)])
def test_the_deadline_is_that_of_all_blocks_and_one_more(made, episodes, blocks):
    collect(config(), FakeBuffer(), [None] * episodes)
    seconds = 600.0 * blocks + RESTARTS_S
    assert made[1] == [("the buffer", "collect the episodes", seconds, "block_deadline_s")]


@pytest.mark.parametrize("blocks", [[[4, 1], [0]], [[1], [0, 4]], [[4], [1], [0]]])
def test_whichever_of_them_share_a_block_they_come_in_the_order_of_their_ids(made, blocks):
    played = [PLAYED[i] for i in (5, 0, 3, 2, 4, 1)]
    shard = [BlockRows(to_block(played), rows, 5 + i) for i, rows in enumerate(blocks)]
    fetched = fetch(config(), shard)
    assert [t.id for t in fetched] == sorted(played[i].id for i in (0, 1, 4))
    workers = {played[i].id: 5 + n for n, rows in enumerate(blocks) for i in rows}
    assert {t.id: t.worker for t in fetched} == workers


def test_the_wait_for_a_batch_is_measured(made, monkeypatch):
    collector, buffer = made[0](0, staleness=0)
    clock, take = SimpleNamespace(now=100.0), buffer._take
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def slow(update, rank):
        clock.now += 2.5
        return take(update, rank)

    buffer.take = Method(slow)
    assert collector.take(3).record["waited_seconds"] == 2.5
