"""Ledgers of groups that are counted from the first, and the results of their episodes."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cluster.stream.ledger import Ledger, Stream
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary


@dataclass
class Result:
    summary: TrajectorySummary


def result(request, version=0, end="terminated", reward=1.0):
    name = request if isinstance(request, str) else request.id
    failure = "broke" if end == "failed" else ""
    return Result(TrajectorySummary(name, end, failure, reward, 5, 3, version, {}))


def quarantined(request, losses):
    assert losses > 2
    return result(request, -1, "failed")


def groups(first=0, size=1):
    number = first
    while True:
        requests = [EpisodeRequest(f"g{number}/{i}", "v", number, number, i) for i in range(size)]
        yield number, requests
        number += 1


def ledger(staleness=0, per_update=4, size=1, first=0, update=1, last=10, passed=0):
    made = Ledger()
    made.begin(Stream(groups(first, size), per_update, staleness, update, last, passed))
    return made


def ids(requests):
    return [request.id for request in requests]


def all_given(given):
    return sorted((r for requests in given.values() for r in requests), key=lambda r: r.seed)


class Simulation:
    """Workers that play at random speeds, die, and get new weights one after another.

    reward: of an episode's request; ends: how the last play of each episode ended, by id.
    """

    def __init__(
        self, seed, staleness, per_update, size, workers, updates=6, passed=0, reward=lambda _: 1.0
    ):
        self.random = random.Random(seed)
        self.options = {"staleness": staleness, "per_update": per_update, "size": size}
        self.options |= {"last": updates, "passed": passed}
        self.ledger, self.reward, self.ends = ledger(**self.options), reward, {}
        self.versions, self.playing = [0] * workers, [[] for _ in range(workers)]
        self.staleness, self.updates, self.capacity = staleness, updates, 1 + seed % 7
        self.fails, self.batches, self.learner = seed % 3 == 0, [], 0

    def step(self):
        """One thing happens somewhere."""
        for worker, requests in self.ledger.assign(self.versions, self.capacity).items():
            self.playing[worker] += [(r, self.versions[worker]) for r in requests]
        busy = [worker for worker, episodes in enumerate(self.playing) if episodes]
        action = self.random.random()
        if action < 0.05 and busy:
            worker = self.random.choice(busy)
            self.playing[worker] = []
            self.ledger.lose(worker, self.quarantined)
        elif action < 0.3:
            worker = self.random.randrange(len(self.versions))
            self.versions[worker] = self.learner
        elif action < 0.7 and busy:
            worker = self.random.choice(busy)
            episodes = self.playing[worker]
            request, version = episodes.pop(self.random.randrange(len(episodes)))
            end = "failed" if self.fails and self.random.random() < 0.2 else "terminated"
            self.ends[request.id] = end
            self.ledger.finish([result(request, version, end, self.reward(request))])
        else:
            self.take()

    def quarantined(self, request, losses):
        self.ends[request.id] = "failed"
        return quarantined(request, losses)

    def take(self):
        batch = self.ledger.take(self.learner + 1)
        if batch is not None:
            self.batches.append(batch)
            self.learner += 1
            self.ledger.trained(self.learner)
