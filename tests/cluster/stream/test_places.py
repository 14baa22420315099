"""Places: an episode goes to the worker with fewest, of those whose weights are new enough."""

from __future__ import annotations

from collections import Counter

from cluster.stream.places import Places


def given(places, load, oldest, episodes):
    """The workers that so many episodes go to, each counted where it is given."""
    workers = []
    for _ in range(episodes):
        worker = places.least_loaded(oldest)
        workers.append(worker)
        if worker is not None:
            load[worker] += 1
    return workers


def test_the_worker_with_fewest_comes_first_until_none_has_room():
    load = Counter({0: 1})
    places = Places([0, 0, 0], 2, 100, load)
    assert given(places, load, 0, 6) == [1, 2, 0, 1, 2, None]


def test_one_that_does_not_serve_or_has_old_weights_is_passed_over():
    load = Counter()
    assert given(Places([None, 3, 2], 9, 4, load), load, 3, 3) == [1, 1, None]
    assert given(Places([None, 3, 2], 9, 4, load), load, None, 1) == [2]
    assert Places([None, None], 9, 4, load).least_loaded(None) is None


def test_while_weights_travel_the_first_engine_takes_its_part_alone():
    load = Counter()
    places = Places([1, 0, 0, 0], 9, 8, load)
    assert given(places, load, 1, 3) == [0, 0, None]
    assert places.newest == 1


def test_its_part_is_rounded_up():
    load = Counter()
    assert given(Places([1, 0, 0, 0], 9, 9, load), load, 1, 4) == [0, 0, 0, None]


def test_once_all_have_the_weights_only_their_room_counts():
    load = Counter()
    assert given(Places([1, 1], 3, 2, load), load, 1, 5) == [0, 1, 0, 1, 0]


def test_whichever_weights_an_episode_needs_what_others_were_given_counts():
    load = Counter()
    places = Places([3, 3, 3, 2], 9, 40, load)
    assert places.least_loaded(3) == 0
    load.update({0: 5, 1: 5, 2: 1})
    assert places.least_loaded(3) == 2
    assert places.least_loaded(None) == 3
