"""The ledger over losses, late results and restarts: what is trained on is the stream, once."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stream.ledger import Stream
from rollout.episode import EpisodeRequest
from tests.support.ledgers import all_given, groups, ids, ledger, quarantined, result

UPDATES = 6


def number_of(episode):
    """Of its group, in the order in which groups are asked for."""
    return int(episode[1:].split("/")[0])


class Checkpointed:
    """A learner that goes back to its last checkpoint now and then, and workers that are lost.

    playing: (request, policy version) by worker. late: results of lost workers that may still come.
    batches: of the updates in the learner's present timeline.
    """

    def __init__(self, seed, staleness, per_update, size, workers):
        self.random = random.Random(seed)
        self.options = {"staleness": staleness, "per_update": per_update, "size": size}
        self.capacity, self.fails = 1 + seed % 5, seed % 3 == 0
        self.workers, self.batches, self.saved, self.restarts = workers, [], [], 0
        self.dropped = set()  # groups with a member that failed, or whose workers were lost often
        self.begin()

    @property
    def learner(self):
        return len(self.batches)

    def begin(self):
        """An epoch: no engine has weights, and nothing of the one before is handed out."""
        first = self.batches[-1].next_group if self.batches else 0
        self.ledger = ledger(**self.options, first=first, update=self.learner + 1, last=UPDATES)
        self.versions, self.late = [-1] * self.workers, []
        self.playing = [[] for _ in range(self.workers)]

    def step(self):
        """One thing happens somewhere."""
        for worker, requests in self.ledger.assign(self.versions, self.capacity).items():
            self.playing[worker] += [(r, self.versions[worker]) for r in requests]
        busy = [worker for worker, episodes in enumerate(self.playing) if episodes]
        action = self.random.random()
        if action < 0.01 and self.restarts < 5:
            self.restarts += 1
            self.batches = list(self.saved)
            self.begin()
        elif action < 0.05 and busy:
            self.lose(self.random.choice(busy))
        elif action < 0.1 and self.late:
            self.ledger.finish([self.late.pop(self.random.randrange(len(self.late)))])
        elif action < 0.3:
            self.versions[self.random.randrange(self.workers)] = self.learner
        elif action < 0.7 and busy:
            self.end_one(self.random.choice(busy))
        else:
            self.take()

    def lose(self, worker):
        """It dies, or is given up: then what it played may come after all."""
        if self.random.random() < 0.5:
            self.late += [result(request, version) for request, version in self.playing[worker]]
        self.playing[worker] = []
        self.versions[worker] = -1
        self.ledger.lose(worker, self.quarantine)

    def quarantine(self, request, *cause):
        self.dropped.add(number_of(request.id))
        return quarantined(request, *cause)

    def end_one(self, worker):
        episodes = self.playing[worker]
        request, version = episodes.pop(self.random.randrange(len(episodes)))
        end = "failed" if self.fails and self.random.random() < 0.2 else "terminated"
        if end == "failed":
            self.dropped.add(number_of(request.id))
        self.ledger.finish([result(request, version, end)])

    def take(self):
        batch = self.ledger.take(self.learner + 1)
        if batch is not None:
            self.batches.append(batch)
            self.ledger.trained(self.learner)
            if self.random.random() < 0.5:
                self.saved = list(self.batches)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_over_losses_late_results_and_restarts_each_group_is_trained_on_once_in_order(
    seed, staleness, per_update, size, workers
):
    run = Checkpointed(seed, staleness, per_update, size, workers)
    for _ in range(30_000):
        if run.learner == UPDATES:
            break
        run.step()
        states = run.ledger.states()
        alive = states["queued"] + states["running"] + states["ready"] + states["taken"]
        assert alive <= (staleness + 1) * per_update * size
    assert run.learner == UPDATES, f"stands still: {run.ledger.states()}"
    trained = [r.summary.id for batch in run.batches for r in batch.results]
    assert len(set(trained)) == len(trained)
    numbers = [number_of(name) for name in trained]
    assert numbers == sorted(numbers), "a group of a later batch came first"
    # However long an episode takes, and whatever was lost: none is left out that ends well.
    assert set(range(max(numbers))) - set(numbers) <= run.dropped
    for update, batch in enumerate(run.batches):
        groups = {r.summary.id.split("/")[0] for r in batch.results}
        assert len(groups) == per_update
        assert sum(batch.staleness) == len(batch.results)
        oldest = min(r.summary.oldest_version for r in batch.results)
        assert update - staleness <= oldest <= update, "older than the bound, or of the future"
    for before, after in zip(run.batches, run.batches[1:], strict=False):
        first = min(int(r.summary.id[1:].split("/")[0]) for r in after.results)
        assert first >= before.next_group


def test_what_was_trained_on_and_dropped_counts_on_over_restarts():
    """Before play begins again too; an update that is made again counts again."""
    made = ledger(staleness=1, per_update=2)
    failed, *others, running = all_given(made.assign([0], 9))
    made.finish([result(failed, end="failed"), *map(result, others)])
    made.finish(map(result, all_given(made.assign([0], 9))))
    made.take(1)
    made.trained(1)
    so_far = {"trained": 2, "dropped failed": 1}
    gone = {"queued": 0, "running": 0, "ready": 0, "taken": 0}
    made.forget()
    assert made.states() == gone | so_far
    made.finish([result(running)])
    made.begin(Stream(groups(0, 1), 2, 0, 1, 9))
    assert made.states() == gone | so_far | {"dropped foreign": 1}
    made.finish(map(result, all_given(made.assign([0], 9))))
    made.take(1)
    made.trained(1)
    assert made.states() == gone | {"trained": 4, "dropped failed": 1, "dropped foreign": 1}


def test_what_is_for_one_worker_waits_for_it_and_holds_up_no_other():
    made = ledger(per_update=2, last=1)
    made.assign([0, 0], 1)
    own = made.request_of(1, [EpisodeRequest(f"own/{i}", "v", i, i) for i in range(2)], 3)
    other = made.request([EpisodeRequest("x", "v", 0, 0)])
    assert made.states()["queued"] == 3
    assert made.assign([3, 3], 1) == {}, "both have a full flight"
    assert {w: ids(given) for w, given in made.assign([3, 2], 2).items()} == {0: ["x"]}
    assert made.assign([3, None], 2) == {}
    assert ids(made.assign([3, 3], 2)[1]) == ["own/0"], "first of all, with weights as new"
    assert made.assign([9, 9], 2) == {}
    made.finish([result("own/0", 3)])
    assert ids(made.assign([3, 4], 2)[1]) == ["own/1"]
    made.finish([result("own/1", 4), result("x", 3)])
    assert own.finished
    assert other.finished
    assert made.states()["queued"] == 0


def test_what_is_for_a_worker_that_is_lost_is_played_by_others():
    made = ledger(per_update=2)
    own = made.request_of(1, [EpisodeRequest(f"own/{i}", "v", i, i) for i in range(2)], 3)
    assert ids(made.assign([3, 3], 1)[1]) == ["own/0"]
    made.lose(1, quarantined)
    assert ids(made.assign([3, None], 9)[0])[:2] == ["own/0", "own/1"]
    made.finish([result("own/0", 3), result("own/1", 3)])
    assert own.finished
