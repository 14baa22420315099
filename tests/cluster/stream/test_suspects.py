"""Which episode kills its workers, found by the losses alone."""

from __future__ import annotations

from cluster.stream.suspects import LOTS, Suspects


def names(number):
    return [f"e{i}" for i in range(number)]


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
    assert ("a" in suspects, suspects.losses("a")) == (False, 0)
    assert suspects.lose(["b", "c"]) == "b"
    assert "c" in suspects, "that is its second"


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
