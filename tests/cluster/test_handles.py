"""How an actor finds another."""

import ray

from cluster.handles import find_worker


def test_a_worker_is_found_by_its_name_or_is_given(monkeypatch):
    monkeypatch.setattr(ray, "get_actor", lambda name: f"handle of {name}")
    given = object()
    assert [find_worker("rollout worker 0"), find_worker(given)] == [
        "handle of rollout worker 0",
        given,
    ]
