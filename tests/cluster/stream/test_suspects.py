"""Which episode kills its workers, found by the losses alone."""

from __future__ import annotations

import random

import pytest

from cluster.stream.ledger import Stream
from cluster.stream.suspects import LOTS, SUSPECT_LOSSES
from cluster.stream.suspects import Suspects as OfRequests
from rollout.episode import EpisodeRequest
from tests.support.ledgers import groups, ledger, quarantined, result


def names(number):
    return [f"e{i}" for i in range(number)]


def play(name, question=None):
    """One of a question of its own, unless it is given."""
    return EpisodeRequest(id=name, variant="rollout", seed=hash(question or name), group_id=0)


class Suspects(OfRequests):
    """Of episodes by their names, each of its own question."""

    def lose(self, episodes):
        """The one whose question was found by it."""
        before = set(self._found)
        super().lose([play(name) for name in episodes])
        found = [name for name in episodes if (play(name).variant, play(name).seed) in self._found]
        return found[0] if set(self._found) - before else None

    def losses(self, episode):
        return super().losses(play(episode))


def lots(suspects, episodes):
    """The suspects among episodes that may run together, in the order in which they are played."""
    parts = []
    for episode in episodes:
        running = {parts[-1][0]: 5} if parts else {}
        if suspects.places(episode, range(2), running) == {5}:
            parts[-1].append(episode)
        else:
            parts.append([episode])
    return parts


def test_nobody_is_a_suspect_at_a_first_loss_or_for_losses_of_others():
    suspects = Suspects()
    assert suspects.lose(["a", "b"]) is None
    assert suspects.lose(["c"]) is None
    assert not any(name in suspects for name in "abc")
    assert [suspects.losses(name) for name in "abcd"] == [1, 1, 1, 0]


def test_at_the_second_all_that_were_there_are_in_lots():
    suspects, episodes = Suspects(), names(20)
    suspects.lose(episodes)
    suspects.lose([*episodes[:18], "new"])
    assert [name in suspects for name in (*episodes, "new")] == [True] * 18 + [False] * 3
    assert [len(lot) for lot in lots(suspects, episodes[:18])] == [3] * 6


def test_few_have_a_lot_each():
    suspects = Suspects()
    for _ in range(2):
        assert suspects.lose(names(LOTS)) is None
    assert lots(suspects, names(LOTS)) == [[name] for name in names(LOTS)]


def test_a_lot_goes_where_it_runs_and_else_where_no_suspect_does():
    suspects = Suspects()
    for _ in range(2):
        suspects.lose(names(16))  # in lots of two
    assert suspects.places("e0", range(3), {}) == {0, 1, 2}
    assert suspects.places("e0", range(3), {"other": 1}) == {0, 1, 2}
    assert suspects.places("e1", range(3), {"e0": 1}) == {1}
    assert suspects.places("e2", range(3), {"e0": 1}) == {0, 2}
    assert suspects.places("e4", range(2), {"e0": 1, "e2": 0}) == set()


def test_two_losses_of_one_lot_are_no_lot_of_another():
    suspects = Suspects()
    first, second = names(16), [f"x{i}" for i in range(16)]
    for episodes in (first, second):
        suspects.lose(episodes)
        suspects.lose(episodes)
    assert suspects.places("x0", range(2), {"e0": 1}) == {0}


def test_the_only_suspect_at_a_loss_is_the_cause():
    suspects = Suspects()
    suspects.lose(["a", "b"])
    assert suspects.lose(["a", "b"]) is None, "two became suspects at once"
    assert suspects.lose(["a", "c", "d"]) == "a"
    assert suspects.losses("a") == 3
    assert "c" not in suspects
    suspects.clear("a")
    assert "a" not in suspects
    assert suspects.losses("a") == 3, "its question was found"
    assert suspects.lose(["b", "d"]) is None, "d was there at another loss, and may be the cause"
    assert "d" in suspects, "that is its second"
    assert suspects.lose(["b", "e"]) == "b"


def test_one_that_has_ended_is_as_if_it_had_never_been_there():
    suspects = Suspects()
    suspects.lose(["a"])
    suspects.clear("a")
    suspects.lose(["a"])
    assert "a" not in suspects


def losses_until_found(number, guilty):
    suspects, losses, queue = Suspects(), 2, names(number)
    for _ in range(2):
        assert suspects.lose(queue) is None
    while True:
        lot = next(lot for lot in lots(suspects, queue) if guilty in lot)
        losses += 1
        if cause := suspects.lose(lot):
            return losses, cause
        queue = lot


def test_one_among_many_is_found_within_the_losses_that_a_worker_may_have():
    for number, losses in ((8, 3), (32, 4), (64, 4), (512, 5)):
        for guilty in ("e0", f"e{number - 1}"):
            assert losses_until_found(number, guilty) == (losses, guilty)


def test_a_question_that_was_found_stays_known_and_its_losses_too():
    suspects = OfRequests()
    first, second = play("a", "one picture"), play("b", "one picture")
    for _ in range(SUSPECT_LOSSES):
        suspects.lose([first, play("c")])
        suspects.clear("c")
    assert not suspects.guilty(first)
    suspects.lose([first])
    assert suspects.guilty(first) and suspects.guilty(second)
    assert (suspects.losses(first), suspects.losses(second)) == (3, 3)
    suspects.forget()
    assert suspects.guilty(second)
    assert suspects.losses(second) == 3
    assert not suspects.guilty(play("c"))


LOSSES = {1: 4, 2: 9, 4: 15}  # of all workers, at most


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_a_question_whose_every_episode_kills_costs_few_losses_and_no_other_episode(
    workers, size, seed
):
    """As of a picture that ends the process which draws it: all of its group see it."""
    draw, in_all = random.Random(seed), 64 // size
    guilty, lost, dropped = draw.randrange(in_all), 0, []
    made = ledger(per_update=in_all, size=size, last=1)
    running = {worker: [] for worker in range(workers)}

    def fail(request, times):
        dropped.append(request)
        return quarantined(request, times)

    while True:
        for worker, given in made.assign([0] * workers, 64).items():
            running[worker] += given
        busy = [worker for worker, own in running.items() if own]
        if not busy:
            break
        worker = draw.choice(busy)
        if any(request.group_id == guilty for request in running[worker]):
            made.lose(worker, fail)
            lost += 1
        else:
            made.finish([result(request) for request in running[worker]])
        running[worker] = []
    assert {request.group_id for request in dropped} == {guilty}, "nobody else"
    assert len(dropped) == size
    assert lost <= LOSSES[workers]


def test_a_question_that_was_found_is_dropped_at_its_first_loss_of_the_next_epoch():
    made = ledger(per_update=1, size=1, last=1)
    for _ in range(SUSPECT_LOSSES):
        made.assign([0], 8)
        assert made.lose(0, quarantined) == (1, 0)
    made.assign([0], 8)
    assert made.lose(0, quarantined) == (0, 1)
    made.forget()
    made.begin(Stream(groups(0, 2), 2, 0, 1, 1))
    assert [request.seed for request in made.assign([0], 8)[0]] == [0, 0, 1, 1]
    assert made.lose(0, quarantined) == (2, 2), "and its group's other one"


def test_those_of_a_question_that_was_found_do_not_wait_to_kill_others():
    made = ledger(per_update=1, size=8, last=1)
    dropped = []

    def fail(request, losses):
        dropped.append(request.id)
        return quarantined(request, losses)

    for _ in range(2 * SUSPECT_LOSSES):
        made.assign([0], 2)  # so that six of the eight wait
        again, now = made.lose(0, fail)
        if now:
            break
    assert now == 8
    assert again == 0
    assert len(set(dropped)) == 8
