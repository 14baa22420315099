"""Cards, rules, decks, and the hold-out of hands."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest

from envs.general_points import rules


def test_names_and_values():
    assert [rules.rank_name(r) for r in range(1, 15)] == (
        ["A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K", "14"]
    )
    assert [rules.value(r, "ten") for r in (1, 10, 11, 12, 13, 14)] == [1, 10, 10, 10, 10, 14]
    assert [rules.value(r, "ranks") for r in (11, 12, 13)] == [11, 12, 13]
    for rule, expected in (("five", 5), ("seven", 7), ("twelve", 12)):
        assert {rules.value(r, rule) for r in (11, 12, 13)} == {expected}
    assert "ranks" not in rules.MIXED


def test_a_deck_without_replacement_has_four_of_each_rank():
    rng = np.random.default_rng(0)
    for _ in range(300):
        ranks, suits = rules.draw(rng, 6, 3, replacement=False, suits="mixed")
        assert max(Counter(ranks).values()) <= 4
        assert len(set(zip(ranks, suits, strict=True))) == 6
    many = [rules.draw(rng, 6, 3, replacement=True, suits="mixed")[0] for _ in range(300)]
    assert max(max(Counter(ranks).values()) for ranks in many) > 4


@pytest.mark.parametrize(("suits", "allowed"), [("red", "hd"), ("black", "sc"), ("mixed", "shdc")])
@pytest.mark.parametrize("replacement", [False, True])
def test_suits_recolour_and_change_no_hand(suits, allowed, replacement):
    seen, refused = set(), 0
    for seed in range(1000):
        plain = rules.draw(np.random.default_rng(seed), 4, 13, replacement, "mixed")
        hand = rules.draw(np.random.default_rng(seed), 4, 13, replacement, suits)
        most = max(Counter(plain[0]).values())
        if hand is None:
            assert most > 2
            refused += 1
            continue
        ranks, drawn = hand
        assert ranks == plain[0]
        seen |= {"shdc"[s] for s in drawn}
        if not replacement:
            assert suits == "mixed" or most <= 2
            assert len(set(zip(ranks, drawn, strict=True))) == 4
    assert seen == set(allowed)
    assert (refused > 0) == (suits != "mixed" and not replacement)


def test_the_released_draw_holds_a_face_card_in_any_place():
    rng = np.random.default_rng(0)
    hands = [rules.draw_released(rng, 4, 13, "mixed")[0] for _ in range(300)]
    assert all(any(rank > 10 for rank in hand) for hand in hands)
    assert {i for hand in hands for i, rank in enumerate(hand) if rank > 10} == {0, 1, 2, 3}
    larger = [rules.draw_released(rng, 4, 20, "mixed")[0] for _ in range(300)]
    assert all({11, 12, 13} & set(hand) for hand in larger)


def test_the_hold_out_is_a_fifth_and_fixed_for_ever():
    hands = list(combinations_with_replacement(range(1, 14), 4))
    held_out = [hand for hand in hands if rules.hold_out_position(hand) < 0.2]
    assert 0.17 < len(held_out) / len(hands) < 0.23
    assert rules.hold_out_position((1, 5, 10, 13)) == pytest.approx(0.66048, abs=1e-5)
