"""When a group of episodes is complete, and what it gives to train on."""

from __future__ import annotations

from cluster.stream.group import Group
from tests.support.ledgers import groups, result


def made(size=3):
    number, requests = next(groups(4, size))
    return Group(requests, number), requests


def test_it_is_finished_once_all_have_ended_and_in_the_order_of_the_requests():
    group, requests = made()
    results = [result(request) for request in requests]
    for done in reversed(results):
        assert not group.finished
        group.add(done)
    assert group.finished
    assert group.in_order() == group.ended_well() == results


def test_it_has_failed_where_nothing_of_it_can_be_trained_on():
    group, requests = made()
    group.add(result(requests[0]))
    for request in requests[1:]:
        group.add(result(request, end="failed"))
    assert not group.failed
    assert [found.summary.id for found in group.ended_well()] == [requests[0].id]
    group, requests = made()
    for request in requests:
        assert not group.failed
        group.add(result(request, end="failed"))
    assert group.failed


def test_rewards_that_are_all_equal_are_no_signal_and_failed_ones_do_not_count():
    for rewards, ends, without in (
        ((1.0, 1.0, 1.0), ("terminated",) * 3, True),
        ((1.0, 0.0, 1.0), ("terminated",) * 3, False),
        ((1.0, 0.0, 1.0), ("terminated", "failed", "terminated"), True),
    ):
        group, requests = made()
        for request, reward, end in zip(requests, rewards, ends, strict=True):
            assert not group.without_signal
            group.add(result(request, reward=reward, end=end))
        assert group.without_signal == without
