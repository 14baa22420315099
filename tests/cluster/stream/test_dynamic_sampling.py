"""Dynamic sampling: what an update trains on depends on the stream's order alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stream.dynamic_sampling import complete_updates, select
from tests.support.ledgers import Simulation, all_given, ids, ledger, result


@dataclass
class Played:
    name: str

    @property
    def without_signal(self) -> bool:
        return self.name.islower()


def selections(names, size, most):
    return [
        ("".join(g.name for g in kept), "".join(g.name for g in passed))
        for kept, passed in select([Played(name) for name in names], size, most)
    ]


@pytest.mark.parametrize(
    ("names", "most", "expected", "complete"),
    [
        ("ABcDE", 0, [("AB", ""), ("cD", ""), ("E", "")], 2),
        ("ABcDE", 1, [("AB", ""), ("DE", "c")], 2),
        ("abCdEF", 1, [("bC", "a"), ("EF", "d")], 2),
        ("abCdE", 2, [("Cd", "ab"), ("E", "")], 1),
        ("abCdE", 3, [("CE", "abd")], 1),
        ("abc", 2, [("c", "ab")], 0),
        ("ab", 2, [("", "ab")], 0),
        ("", 2, [], 0),
    ],
)
def test_groups_without_signal_are_passed_over_up_to_a_bound(names, most, expected, complete):
    assert selections(names, 2, most) == expected
    assert complete_updates([Played(name) for name in names], 2, most) == complete


def finish(made, requests, even=(), version=0):
    """The requests end; groups whose number is in `even` with equal returns."""
    made.finish(
        [
            result(r, version, reward=1.0 if r.seed in even else float(r.sample_index))
            for r in requests
        ]
    )


def taken(batch):
    return [r.summary.id for r in batch.results]


def test_another_group_takes_the_place_of_one_without_signal_at_once():
    made = ledger(per_update=2, size=2, passed=4)
    first = all_given(made.assign([0], 100))
    finish(made, first[:2], even={0})
    assert ids(all_given(made.assign([0], 100))) == ["g2/0", "g2/1"], "the second still plays"
    finish(made, first[2:])
    assert made.take(1) is None
    assert made.states()["ready"] == 4
    assert "dropped no signal" not in made.states()


def test_a_group_that_ends_early_is_not_trained_on_before_an_earlier_one():
    made = ledger(per_update=2, size=2, passed=4)
    first = all_given(made.assign([0], 100))
    finish(made, first[:2], even={0})
    second = all_given(made.assign([0], 100))
    finish(made, second)
    assert made.take(1) is None, "the batch is of the groups 1 and 2, and 1 still plays"
    finish(made, first[2:], even={1})
    assert made.take(1) is None
    finish(made, all_given(made.assign([0], 100)))
    batch = made.take(1)
    assert taken(batch) == ["g2/0", "g2/1", "g3/0", "g3/1"]
    assert [r.summary.id for r in batch.passed] == ["g0/0", "g0/1", "g1/0", "g1/1"]
    assert (batch.next_group, batch.staleness, batch.failed) == (4, [4], [])
    states = made.states()
    assert (states["ready"], states["taken"], states["dropped no signal"]) == (0, 4, 4)


def test_when_the_bound_is_reached_groups_without_signal_are_trained_on():
    made = ledger(per_update=2, size=2, passed=1)
    everything = range(100)
    finish(made, all_given(made.assign([0], 100)), even=everything)
    third = all_given(made.assign([0], 100))
    assert ids(third) == ["g2/0", "g2/1"]
    finish(made, third, even=everything)
    assert made.assign([0], 100) == {}
    batch = made.take(1)
    assert taken(batch) == ["g1/0", "g1/1", "g2/0", "g2/1"]
    assert made.states()["dropped no signal"] == 2
    made.trained(1)
    finish(made, all_given(made.assign([1], 100)), even=everything, version=1)
    assert ids(all_given(made.assign([1], 100))) == ["g5/0", "g5/1"], "each update has its own"


@pytest.mark.parametrize(
    ("rewards", "without"), [([1, 1, 1], True), ([1, 1, 2], False), ([1, None, 1], True)]
)
def test_failed_episodes_do_not_count_as_returns(rewards, without):
    made = ledger(per_update=1, size=3, passed=1)
    for request, reward in zip(all_given(made.assign([0], 100)), rewards, strict=True):
        end = "terminated" if reward is not None else "failed"
        made.finish([result(request, 0, end, reward or 0.0)])
    assert (made.take(1) is None) == without
    if without:
        finish(made, all_given(made.assign([0], 100)))
        well = [f"g0/{i}" for i, reward in enumerate(rewards) if reward is not None]
        assert [r.summary.id for r in made.take(1).passed] == well


def test_at_the_last_update_others_still_take_the_places_of_those_without_signal():
    made = ledger(per_update=1, size=2, passed=1, last=1)
    finish(made, all_given(made.assign([0], 100)), even={0})
    finish(made, all_given(made.assign([0], 100)))
    assert taken(made.take(1)) == ["g1/0", "g1/1"]
    assert made.assign([1], 100) == {}


def test_what_is_too_old_is_judged_by_its_new_play():
    made = ledger(per_update=1, size=2, passed=2)
    made.finish(
        [result(r, 0, reward=float(r.sample_index)) for r in all_given(made.assign([0], 9))]
    )
    assert made.take(1) is not None
    old = all_given(made.assign([1], 9))
    made.finish([result(r, 0, reward=float(r.sample_index)) for r in old])
    assert made.take(2) is None, "played by too old a policy"
    again = all_given(made.assign([1], 9))
    assert sorted(ids(again)) == ids(old)
    assert made.assign([1], 9) == {}
    finish(made, again, even={1}, version=1)
    assert made.take(2) is None
    finish(made, all_given(made.assign([1], 9)), version=1)
    assert taken(made.take(2)) == ["g2/0", "g2/1"]


class Interrupted(Simulation):
    """The learner restarts now and then, and goes on after the batch that it took last."""

    restarts, next_group, dropped = 0, 0, 0

    def take(self):
        before = len(self.batches)
        super().take()
        if len(self.batches) > before:
            self.next_group = self.batches[-1].next_group
        elif self.restarts < 4 and self.random.random() < 0.02:
            self.restarts += 1
            self.playing = [[] for _ in self.playing]
            self.dropped += self.ledger.states().get("dropped no signal", 0)
            self.ledger = ledger(**self.options, first=self.next_group, update=self.learner + 1)


def batches_in_order(run, updates, per_update, size, most):
    """What the updates train on, by the definition: the stream from its beginning."""
    number, batches, passed_episodes = 0, [], 0
    for _ in range(updates):
        batch, groups, passed = [], 0, 0
        while groups < per_update:
            episodes = [(f"g{number}/{i}", number, i) for i in range(size)]
            well = [e for e in episodes if run.ends[e[0]] != "failed"]
            returns = {reward(seed, i) for _, seed, i in well}
            if well and len(returns) == 1 and passed < most:
                passed += 1
                passed_episodes += len(well)
            elif well:
                groups += 1
                batch += [name for name, _, _ in well]
            number += 1
        batches.append(batch)
    return batches, passed_episodes


def reward(seed, index):
    """Of four groups, two have one return."""
    return 1.0 if random.Random(seed).random() < 0.5 else float(index % 2)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(2, 3),
    st.integers(1, 3),
    st.integers(0, 7),
)
def test_whoever_ends_first_dies_or_restarts_the_batches_are_those_of_the_stream(
    seed, staleness, per_update, size, workers, most
):
    updates = 5
    run = Interrupted(
        seed,
        staleness,
        per_update,
        size,
        workers,
        updates,
        most,
        lambda request: reward(request.seed, request.sample_index),
    )
    for _ in range(20_000):
        if run.learner == updates:
            break
        run.step()
    assert run.learner == updates, f"stands still: {run.ledger.states()}"
    expected, passed = batches_in_order(run, updates, per_update, size, most)
    assert [taken(batch) for batch in run.batches] == expected
    assert run.dropped + run.ledger.states().get("dropped no signal", 0) == passed
    assert all(sum(batch.staleness) == len(batch.results) for batch in run.batches)
