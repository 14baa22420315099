"""The states of a part: which follow which, how long a loss is waited out, and what ends a run."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.workers.part import LONGEST_BACKOFF_S, SOUND_S, Part, State

STARTING, SERVING, SUSPECT, LOST, REPLACING = State
ALLOWED = [
    (STARTING, SERVING),
    (STARTING, LOST),
    (SERVING, SUSPECT),
    (SERVING, LOST),
    (SUSPECT, SERVING),
    (SUSPECT, LOST),
    (LOST, REPLACING),
    (REPLACING, STARTING),
    (REPLACING, LOST),
]
WAY = {
    STARTING: [],
    SERVING: [SERVING],
    SUSPECT: [SERVING, SUSPECT],
    LOST: [LOST],
    REPLACING: [LOST, REPLACING],
}


def go(part, state, now=0.0):
    part.lose("a cause", now) if state == LOST else part.move(state, now)


def in_state(state):
    part = Part(3, 0.0)
    for step in WAY[state]:
        go(part, step)
    assert part.state == state
    return part


@pytest.mark.parametrize(("before", "after"), itertools.product(State, State))
def test_only_these_states_follow(before, after):
    part = in_state(before)
    if (before, after) in ALLOWED:
        go(part, after, 7.0)
        assert (part.state, part.since) == (after, 7.0)
    else:
        with pytest.raises(AssertionError, match=f"that is {before} cannot be {after}"):
            go(part, after)


@pytest.mark.parametrize("state", State)
def test_it_is_present_while_it_serves_or_is_only_suspect(state):
    assert in_state(state).present == (state in (SERVING, SUSPECT))


def lost_again(part, now, serve=0.0):
    """Replaced, served for `serve` seconds, lost."""
    part.move(REPLACING, now)
    part.move(STARTING, now)
    part.move(SERVING, now)
    part.lose(f"cause at {now + serve:g}", now + serve)


def test_the_first_loss_is_not_waited_out_and_later_ones_longer_and_longer():
    part, waits = Part(100, 0.0), []
    part.move(SERVING, 0.0)
    part.lose("first", 1.0)
    for i in range(9):
        waits.append(part.backoff_s)
        lost_again(part, 10.0 + i)
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S]


def test_a_run_ends_with_the_first_and_the_last_cause_of_the_row():
    part = Part(2, 0.0)
    part.move(SERVING, 0.0)
    part.lose("long ago", 5.0)
    lost_again(part, 10.0, SOUND_S)
    assert part.given_up is None
    lost_again(part, 50.0)
    assert part.given_up is None
    lost_again(part, 60.0)
    assert part.given_up == f"cause at {10 + SOUND_S:g}; last: cause at 60"
    assert part.losses == 4


def test_a_cause_that_is_first_and_last_is_named_once():
    part = Part(1, 0.0)
    for _ in range(2):
        part.lose("the same", 1.0)
        part.move(REPLACING, 1.0)
    assert part.given_up == "the same"


def test_one_that_serves_a_little_less_is_not_sound():
    part = Part(1, 0.0)
    part.move(SERVING, 0.0)
    part.lose("first", 1.0)
    lost_again(part, 2.0, SOUND_S - 0.1)
    assert part.given_up == "first; last: cause at 31.9"


@pytest.mark.parametrize("silent", [30.0, 600.0])
def test_one_that_hangs_at_once_is_not_sound_however_late_that_is_found(silent):
    part = Part(2, 0.0)
    part.move(SERVING, 0.0)
    part.lose("first", silent + SOUND_S - 1, silent)
    for now in (1000.0, 3000.0):
        part.move(REPLACING, now)
        part.move(STARTING, now)
        part.move(SERVING, now)
        part.lose("again", now + silent + SOUND_S - 1, silent)
    assert part.given_up == "first; last: again"
    assert part.backoff_s == 2.0


def test_one_that_served_well_before_it_hung_is_sound():
    part = Part(1, 0.0)
    part.move(SERVING, 0.0)
    part.lose("first", 0.0)
    part.move(REPLACING, 0.0)
    part.move(STARTING, 0.0)
    part.move(SERVING, 0.0)
    part.lose("second", SOUND_S + 600.0, 600.0)
    assert part.given_up is None
    assert part.backoff_s == 0.0


def test_silence_in_between_does_not_make_it_unsound():
    part = Part(0, 0.0)
    part.move(SERVING, 0.0)
    part.lose("first", 0.0)
    part.move(REPLACING, 0.0)
    part.move(STARTING, 0.0)
    part.move(SERVING, 0.0)
    part.move(SUSPECT, SOUND_S - 1)
    part.move(SERVING, SOUND_S - 0.5)
    part.lose("second", SOUND_S)
    assert part.given_up == "second"


def test_a_start_that_fails_is_never_sound_however_long_it_took():
    part = Part(1, 0.0)
    part.lose("first", 1000.0)
    part.move(REPLACING, 1000.0)
    part.lose("second", 3000.0)
    assert part.given_up == "first; last: second"


@given(
    st.lists(st.tuples(st.sampled_from(State), st.floats(0, 100)), max_size=60), st.integers(0, 5)
)
def test_whatever_happens_it_is_lost_at_most_so_often_in_a_row_unless_given_up(steps, most):
    part, now, row = Part(most, 0.0), 0.0, 0
    served = None
    for state, seconds in steps:
        now += seconds
        if (part.state, state) not in ALLOWED:
            continue
        if state == LOST:
            sound = part.present and now - served >= SOUND_S
            row = 1 if sound else row + 1
        if (part.state, state) == (STARTING, SERVING):
            served = now
        go(part, state, now)
        assert (part.given_up is not None) == (row > most)
        assert 0 <= part.backoff_s <= LONGEST_BACKOFF_S
