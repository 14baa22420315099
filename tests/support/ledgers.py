"""Ledgers of groups that are counted from the first, and the results of their episodes."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.ledger import Ledger, Stream
from rollout.episode import EpisodeRequest
from rollout.trajectory_summary import TrajectorySummary


@dataclass
class Result:
    summary: TrajectorySummary


def result(request, version=0, end="terminated"):
    name = request if isinstance(request, str) else request.id
    failure = "broke" if end == "failed" else ""
    return Result(TrajectorySummary(name, end, failure, 1.0, 5, 3, version, {}))


def quarantined(request, losses):
    assert losses > 2
    return result(request, -1, "failed")


def groups(first=0, size=1):
    number = first
    while True:
        requests = [EpisodeRequest(f"g{number}/{i}", "v", number, number, i) for i in range(size)]
        yield number, requests
        number += 1


def ledger(staleness=0, per_update=4, size=1, first=0, update=1, last=10):
    made = Ledger()
    made.begin(Stream(groups(first, size), per_update, staleness, update, last))
    return made


def ids(requests):
    return [request.id for request in requests]


def all_given(given):
    return sorted((r for requests in given.values() for r in requests), key=lambda r: r.seed)
