"""The ledger and episodes that are not as most: without action tokens, in groups, too old."""

from tests.support.ledgers import all_given, ids, ledger, result


def test_an_episode_without_action_tokens_is_of_no_version_and_never_too_old():
    made = ledger(staleness=0, first=8, update=3)
    first, *others = all_given(made.assign([2], 100))
    made.finish([result(first, version=-1), *(result(r, version=2) for r in others)])
    batch = made.take(3)
    assert batch is not None, "else it would be played again for ever"
    assert (len(batch.results), batch.staleness) == (4, [3])


def test_an_engines_part_is_of_episodes_and_not_of_groups():
    made = ledger(per_update=4, size=2)
    made.finish([result(r) for r in all_given(made.assign([0, 0], 100))])
    made.take(1)
    assert {w: len(r) for w, r in made.assign([1, 0], 100).items()} == {0: 4}


def test_what_is_too_old_is_played_again_before_all_that_is_queued():
    made = ledger(staleness=1, per_update=2, first=4, update=3)
    given = made.assign([2], 3)[0]
    made.finish([result(r, version=0) for r in given[:2]])
    assert (made.take(3), made.states()["queued"]) == (None, 3)
    again = ids(made.assign([2], 100)[0])
    assert (sorted(again[:2]), again[2:]) == (["g4/0", "g5/0"], ["g7/0"])
