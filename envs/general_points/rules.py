"""Cards and what they count: ranks, suits, face-card rules, the deck, the hold-out of hands."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np

FACE_VALUES = {
    "ten": (10, 10, 10),
    "ranks": (11, 12, 13),
    "five": (5, 5, 5),
    "seven": (7, 7, 7),
    "twelve": (12, 12, 12),
}
"""What J, Q and K count under each rule."""

MIXED = ("ten", "five", "seven", "twelve")
"""The rules that `mixed` draws from; `ranks` stays out, so that it can be tested as unseen."""

LARGEST = 13
"""`any` draws what J, Q and K count, each by itself, from 1 to this."""

RULES = (*FACE_VALUES, "mixed", "any")

_NAMES = {1: "A", 11: "J", 12: "Q", 13: "K"}
_RECOLOUR = {"mixed": (0, 1, 2, 3), "black": (0, 0, 3, 3), "red": (1, 1, 2, 2)}


def rank_name(rank: int) -> str:
    """The text on a card: A for 1, J, Q, K for 11, 12, 13, else the number."""
    return _NAMES.get(rank) or str(rank)


def draw_rule(rng: np.random.Generator, face_rule: str) -> str:
    """The rule of one hand: `face_rule` itself, or what `mixed` and `any` draw."""
    if face_rule == "mixed":
        return MIXED[int(rng.integers(len(MIXED)))]
    if face_rule == "any":
        return "-".join(map(str, rng.integers(1, LARGEST + 1, 3)))
    return face_rule


def face_values(rule: str) -> tuple[int, int, int]:
    """What J, Q and K count; rule is a key of FACE_VALUES, or says it: `3-11-7`."""
    if rule in FACE_VALUES:
        return FACE_VALUES[rule]
    jack, queen, king = map(int, rule.split("-"))
    return jack, queen, king


def value(rank: int, rule: str) -> int:
    """What a card of this rank counts under a rule as `face_values` reads it."""
    return face_values(rule)[rank - 11] if 11 <= rank <= 13 else rank


@lru_cache(maxsize=1 << 16)
def hold_out_position(values: tuple[int, ...]) -> float:
    """Where a multiset of numbers or ranks (sorted) falls in [0, 1), by a hash of it alone.

    What falls below the share held out is held out: the same split for every seed, rule, run and
    machine. Because the numbers decide and not the rule that gave them, a hand held out under one
    rule is held out under every other that gives the same numbers.
    """
    digest = blake2b(",".join(map(str, values)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def draw(
    rng: np.random.Generator, num_cards: int, max_rank: int, replacement: bool, suits: str
) -> tuple[list[int], list[int]] | None:
    """Ranks and suits (0 to 3: spades, hearts, diamonds, clubs) of a hand.

    `suits` recolours the cards drawn and changes no rank: one seed gives one hand in any colour.
    Without replacement no card occurs twice; None where a deck of one colour cannot give the
    hand, because it holds three cards of a rank.
    """
    if replacement:
        cards = rng.integers(0, 4 * max_rank, num_cards).tolist()
    else:
        cards = rng.permutation(4 * max_rank)[:num_cards].tolist()
    ranks = [card // 4 + 1 for card in cards]
    recolour = _RECOLOUR[suits]
    shown = [recolour[card % 4] for card in cards]
    if replacement or suits == "mixed":
        return ranks, shown
    dealt: set[tuple[int, int]] = set()
    for i, rank in enumerate(ranks):
        if (rank, shown[i]) in dealt:
            shown[i] = next(suit for suit in recolour if suit != shown[i])
            if (rank, shown[i]) in dealt:
                return None
        dealt.add((rank, shown[i]))
    return ranks, shown


def draw_released(
    rng: np.random.Generator, num_cards: int, max_rank: int, suits: str
) -> tuple[list[int], list[int]]:
    """A hand as the released code draws one with a face card: one of J, Q, K, the others free.

    Hands with two or more face cards are thus likelier than among random hands that have one.
    """
    ranks = rng.integers(1, max_rank + 1, num_cards)
    ranks[-1] = rng.integers(11, min(max_rank, 13) + 1)
    recolour = _RECOLOUR[suits]
    return rng.permutation(ranks).tolist(), [recolour[s] for s in rng.integers(0, 4, num_cards)]
