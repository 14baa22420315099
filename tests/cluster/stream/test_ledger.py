"""The ledger: every episode is somewhere, in order, and never older than the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stream.ledger import Ledger, Stream
from rollout.episode import EpisodeRequest
from tests.support.ledgers import Simulation, all_given, groups, ids, ledger, quarantined, result


def test_at_bound_zero_one_batch_is_played_under_each_version():
    made = ledger()
    first = made.assign([0, 0], 100)
    assert ids(all_given(first)) == ["g0/0", "g1/0", "g2/0", "g3/0"]
    assert [len(requests) for requests in first.values()] == [2, 2]
    assert made.assign([0, 0], 100) == {}
    assert made.take(1) is None
    made.finish([result(r) for r in all_given(first)])
    batch = made.take(1)
    assert [r.summary.id for r in batch.results] == ["g0/0", "g1/0", "g2/0", "g3/0"]
    assert (batch.staleness, batch.failed, batch.next_group) == ([4], [], 4)
    assert made.assign([0, 0], 100) == {}, "the learner's weights have not arrived"
    made.trained(1)
    assert list(made.assign([0, 1], 100)) == [1], "only the engine that has them plays"


@pytest.mark.parametrize("bound", [0, 1, 2, 5])
def test_engines_play_as_far_ahead_as_the_bound(bound):
    made = ledger(bound)
    given = all_given(made.assign([0], 1000))
    assert len(given) == 4 * (bound + 1)
    made.finish([result(r) for r in given])
    assert made.take(1).staleness == [4] + [0] * bound
    assert made.assign([0], 1000) == {}
    assert len(all_given(made.assign([1], 1000))) == 4


def test_nobody_plays_before_the_first_weights_and_none_beyond_the_last_update():
    made = ledger(staleness=3, last=2)
    assert made.assign([-1], 100) == {}
    assert len(all_given(made.assign([0], 100))) == 8


def test_each_episode_goes_to_the_worker_with_fewest_and_none_gets_more_than_its_capacity():
    made = ledger(per_update=12)
    given = made.assign([0, 0, 0], 3)
    assert [len(given[worker]) for worker in range(3)] == [3, 3, 3]
    made.finish([result(r) for r in given[1][:2]])
    assert {w: len(r) for w, r in made.assign([0, 0, 0], 3).items()} == {1: 2}
    assert [made.running(worker) for worker in range(3)] == [3, 3, 3]


def test_a_slow_episode_is_waited_for_and_nothing_overtakes_it():
    made = ledger(staleness=1)
    given = all_given(made.assign([0], 100))
    made.finish([result(r) for r in given[1:]])
    assert made.take(1) is None, "seven of eight are ready, and the first is not"
    made.finish([result(given[0])])
    assert [r.summary.id for r in made.take(1).results] == ids(given[:4])
    made.trained(1)
    assert [r.summary.id for r in made.take(2).results] == ids(given[4:])


def test_a_failed_group_makes_room_for_the_next_and_is_counted():
    made = ledger()
    given = all_given(made.assign([0], 100))
    made.finish([result(given[1], end="failed")])
    more = all_given(made.assign([0], 100))
    assert ids(more) == ["g4/0"]
    made.finish([result(r) for r in [given[0], *given[2:], *more]])
    batch = made.take(1)
    assert [r.summary.id for r in batch.results] == ["g0/0", "g2/0", "g3/0", "g4/0"]
    assert (batch.failed, batch.next_group) == (["g1/0"], 5)
    assert made.failures == []
    assert made.states()["dropped failed"] == 1


def test_a_group_is_whole_and_goes_on_without_a_member_that_failed():
    made = ledger(per_update=2, size=3)
    given = all_given(made.assign([0], 100))
    assert len(given) == 6
    made.finish([result(given[0], end="failed"), *map(result, given[1:5])])
    assert made.assign([0], 100) == {}
    assert made.take(1) is None
    made.finish([result(given[5])])
    batch = made.take(1)
    assert [r.summary.id for r in batch.results] == ids(given[1:])
    assert batch.failed == ids(given[:1])


def test_what_is_too_old_is_dropped_and_played_again():
    made = ledger(staleness=0, first=8, update=3)
    given = all_given(made.assign([2], 100))
    made.finish([result(r, version=1 + (i > 0)) for i, r in enumerate(given)])
    assert made.take(3) is None
    assert made.states()["dropped too old"] == 1
    again = made.assign([2], 100)
    assert ids(all_given(again)) == ["g8/0"]
    made.finish([result("g8/0", version=2)])
    assert made.take(3).staleness == [4]


def test_what_cannot_be_is_refused():
    """Staleness-is-bounded: a batch of a later policy, before the one ahead of it, or of none."""
    made = ledger()
    made.finish([result(r, version=1) for r in all_given(made.assign([1], 100))])
    with pytest.raises(AssertionError, match="update 2 takes after 0"):
        made.take(2)
    with pytest.raises(AssertionError, match="g0/0 is -1 versions old"):
        made.take(1)
    with pytest.raises(AssertionError, match="take without begin"):
        Ledger().take(1)


def test_a_lost_workers_episodes_are_played_first_by_another():
    made = ledger(per_update=8)
    given = made.assign([0, 0], 3)
    lost = ids(given[0])
    assert made.lose(0, quarantined) == (3, 0)
    assert made.running(0) == 0
    again = made.assign([0, 0], 6)
    assert sorted(name for requests in again.values() for name in ids(requests))[:3] == lost
    made.finish([result(name) for name in lost])
    made.finish([result(lost[0])])
    assert made.states()["dropped foreign"] == 1, "it comes a second time, from a worker given up"


def lose(made, versions, times, capacity=100):
    """Worker 0 is lost so often, each time after it was given what it may play."""
    given = []
    for _ in range(times):
        given.append(ids(made.assign(versions, capacity).get(0, [])))
        made.lose(0, quarantined)
    return given


def test_a_worker_that_does_not_serve_is_given_nothing_and_holds_nobody_back():
    made = ledger(per_update=8)
    assert made.assign([None, None], 100) == {}
    assert {w: len(r) for w, r in made.assign([None, 0, None], 100).items()} == {1: 8}
    made.finish([result(f"g{i}/0") for i in range(8)])
    made.take(1)
    assert {w: len(r) for w, r in made.assign([None, 1], 100).items()} == {1: 8}


def test_after_two_losses_few_are_played_beside_no_other_such_one():
    made = ledger()
    assert lose(made, [0], 2) == [["g0/0", "g1/0", "g2/0", "g3/0"]] * 2
    assert made.states()["queued"] == 4
    assert ids(made.assign([0], 100)[0]) == ["g0/0"]
    assert {w: ids(r) for w, r in made.assign([0, 0], 100).items()} == {1: ["g1/0"]}
    made.finish([result("g0/0")])
    assert ids(made.assign([0, 0], 100)[0]) == ["g2/0"]
    assert made.assign([0, 0], 100) == {}


def test_after_two_losses_many_are_played_in_lots_beside_no_other_such_one():
    """As after two losses of all engines: most of them are soon cleared."""
    made = ledger(per_update=24)
    lose(made, [0], 2)
    given = made.assign([0, 0], 100)
    assert {worker: ids(requests) for worker, requests in given.items()} == {
        0: ["g0/0", "g1/0", "g2/0"],
        1: ["g3/0", "g4/0", "g5/0"],
    }
    made.finish([result(request) for request in given[1][:2]])
    assert made.assign([0, 0], 100) == {}, "one of its lot is still there"
    made.finish([result(given[1][2])])
    assert {w: len(r) for w, r in made.assign([0, 0], 2).items()} == {1: 2}, "as many as it takes"
    assert {w: len(r) for w, r in made.assign([0, 0], 100).items()} == {1: 1}
    assert made.lose(0, quarantined) == (3, 0)
    assert ids(made.assign([0, 0], 100)[0]) == ["g0/0"], "now each alone"
    assert made.lose(0, quarantined) == (0, 1)
    assert made.states()["dropped quarantined"] == 1


def test_those_that_were_never_there_play_beside_a_suspect():
    made = ledger(staleness=1)
    lose(made, [0], 2, capacity=2)
    assert ids(made.assign([0], 3)[0]) == ["g0/0", "g2/0", "g3/0"]


def test_the_episode_that_is_there_at_a_third_loss_is_quarantined_alone():
    made = ledger()
    lose(made, [0], 2)
    made.assign([0], 100)
    assert made.lose(0, quarantined) == (0, 1)
    states = made.states()
    assert (states["dropped quarantined"], states["running"], states["queued"]) == (1, 0, 3)
    assert [summary.id for summary in made.failures] == ["g0/0"]
    left = []
    while given := made.assign([0], 100):
        left += ids(given[0])
        made.finish([result(r) for r in given[0]])
    assert sorted(left) == ["g1/0", "g2/0", "g3/0", "g4/0"], "another one takes its place"
    assert (made.take(1).failed, "dropped failed" in made.states()) == (["g0/0"], False)


def test_one_that_ends_well_is_no_suspect_any_more():
    made = ledger(staleness=0, first=8, update=3)
    lose(made, [2], 1)
    given = all_given(made.assign([2], 100))
    made.finish([result(r, version=1) for r in given])
    assert made.take(3) is None, "too old: all are played again"
    lost = lose(made, [2], 1)
    assert sorted(lost[0]) == ["g10/0", "g11/0", "g8/0", "g9/0"]
    assert len(all_given(made.assign([2], 100))) == 4, "as if lost once"


def test_what_is_too_old_is_ready_no_more():
    made = ledger(staleness=0, per_update=2, size=2, first=4, update=3)
    failed, *old, new = all_given(made.assign([2], 100))
    made.finish([result(failed, 1, "failed"), *(result(r, 1) for r in old), result(new, 2)])
    assert made.states()["ready"] == 3
    assert made.take(3) is None
    assert (made.states()["ready"], made.states()["dropped too old"]) == (1, 3)


def test_an_evaluations_episode_is_quarantined_too():
    made = Ledger()
    group = made.request([EpisodeRequest("eval/0", "e", 0, 0)])
    lose(made, [-1], 3)
    assert group.finished
    assert group.in_order()[0].summary.end == "failed"


def test_an_evaluation_comes_first_and_takes_no_room():
    made = ledger()
    made.assign([0], 2)
    request = [EpisodeRequest(f"eval/{i}", "e", i, i) for i in range(3)]
    group = made.request(request)
    made.finish([result("g0/0")])
    assert ids(made.assign([0], 2)[0]) == ["eval/0"]
    made.finish([result("g1/0")])
    assert ids(made.assign([0], 4)[0]) == ["eval/1", "eval/2", "g2/0"]
    made.finish([result("eval/1", version=-1), result("eval/0"), result("eval/2", end="failed")])
    assert group.finished
    assert [r.summary.id for r in group.in_order()] == ids(request)
    assert made.failures == [], "an evaluation's failures are its own"


def test_an_evaluation_needs_no_weights_from_a_learner():
    made = Ledger()
    made.request([EpisodeRequest("eval/0", "e", 0, 0)])
    assert ids(made.assign([-1], 1)[0]) == ["eval/0"]


def test_a_new_epoch_knows_nothing_of_the_old_one():
    made = ledger()
    old = all_given(made.assign([0], 100))
    made.finish([result(old[0])])
    made.begin(Stream(groups(4), 4, 0, 2, 10))
    assert made.running(0) == 0
    made.finish([result(old[1])])
    assert made.states() == {
        "queued": 0,
        "running": 0,
        "ready": 0,
        "taken": 0,
        "trained": 0,
        "dropped foreign": 1,
    }
    assert ids(all_given(made.assign([1], 100))) == ["g4/0", "g5/0", "g6/0", "g7/0"]


def test_states_add_up():
    made = ledger(staleness=1, per_update=2)
    given = all_given(made.assign([0], 3))
    made.finish([result(r) for r in given[:2]])
    made.take(1)
    assert made.states() == {"queued": 1, "running": 1, "ready": 0, "taken": 2, "trained": 0}
    made.trained(1)
    assert made.states() == {"queued": 1, "running": 1, "ready": 0, "taken": 0, "trained": 2}


def test_an_episode_that_failed_in_a_group_that_goes_on_is_not_trained_on():
    made = ledger(per_update=2, size=2)
    failed, *others = all_given(made.assign([0], 9))
    made.finish([result(failed, end="failed"), *map(result, others)])
    made.take(1)
    rest = {"queued": 0, "running": 0, "ready": 0, "dropped failed": 1}
    assert made.states() == rest | {"taken": 3, "trained": 0}
    made.trained(1)
    assert made.states() == rest | {"taken": 0, "trained": 3}


def test_a_batch_can_be_taken_while_the_one_before_is_trained_on():
    made = ledger(staleness=1, per_update=2)
    made.finish([result(r) for r in all_given(made.assign([0], 9))])
    made.take(1)
    assert made.take(2).staleness == [0, 2], "when it is trained on, the learner is at version 1"
    assert (made.states()["taken"], made.states()["trained"]) == (4, 0)
    made.trained(1)
    assert (made.states()["taken"], made.states()["trained"]) == (2, 2)
    made.trained(7)
    assert (made.states()["taken"], made.states()["trained"]) == (2, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_whatever_happens_no_batch_is_late_old_or_short_and_no_wait_is_forever(
    seed, staleness, per_update, size, workers
):
    run = Simulation(seed, staleness, per_update, size, workers)
    for _ in range(20_000):
        if run.learner == run.updates:
            break
        run.step()
        states = run.ledger.states()
        alive = states["queued"] + states["running"] + states["ready"] + states["taken"]
        assert alive <= (staleness + 1) * per_update * size
    assert run.learner == run.updates, f"stands still: {run.ledger.states()}"
    seen = [r.summary.id for batch in run.batches for r in batch.results]
    assert len(set(seen)) == len(seen)
    numbers = [int(name[1:].split("/")[0]) for name in seen]
    assert numbers == sorted(numbers), "first admitted, first taken"
    assert run.ledger.states()["trained"] == len(seen)
    for batch in run.batches:
        groups_in = {r.summary.id.split("/")[0] for r in batch.results}
        assert len(groups_in) == per_update
        assert sum(batch.staleness) == len(batch.results)
    if not run.fails:
        quarantined_ones = run.ledger.states().get("dropped quarantined", 0)
        assert run.updates * per_update * size - len(seen) <= quarantined_ones


@pytest.mark.parametrize("bound", [0, 1])
def test_the_first_engine_with_new_weights_leaves_the_others_their_part(bound):
    made = ledger(staleness=bound, per_update=8)
    made.finish([result(r) for r in all_given(made.assign([0, 0], 100))])
    made.take(1)
    assert {w: len(r) for w, r in made.assign([1, 0], 100).items()} == {0: 4 * (bound + 1)}
    assert {w: len(r) for w, r in made.assign([1, 1], 100).items()} == (
        {1: 4} if bound == 0 else {}
    )


def test_what_was_lost_comes_again_in_its_order_and_before_what_waits():
    made = ledger()
    assert ids(made.assign([0], 3)[0]) == ["g0/0", "g1/0", "g2/0"]
    assert made.lose(0, quarantined) == (3, 0)
    assert ids(made.assign([0], 9)[0]) == ["g0/0", "g1/0", "g2/0", "g3/0"]


def test_a_resume_begins_with_the_first_group_that_is_not_taken_though_it_has_been_played():
    made = ledger(staleness=1)
    given = all_given(made.assign([0], 100))
    made.finish([result(r) for r in given[:7]])
    assert made.finished == 7
    assert made.take(1).next_group == 4
    assert made.finished == 0
