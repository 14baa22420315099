"""Cards and what they count: ranks, suits, face-card rules, the deck, the hold-out of hands.

In: a random generator and settings. Out: ranks and suits. Knows nothing of formulas or text.
"""

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
SUITS = "shdc"
"""Spades, hearts, diamonds, clubs: the four suits of a deck, in the order in which cards count."""

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
def hold_out_position(ranks: tuple[int, ...]) -> float:
    """Where a multiset of ranks (sorted) falls in [0, 1); below the hold-out share: held out.

    A hash of the ranks alone: the split is the same for every seed, run and machine.
    """
    digest = blake2b(",".join(map(str, ranks)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def draw(
    rng: np.random.Generator, num_cards: int, max_rank: int, replacement: bool, suits: str
) -> tuple[list[int], list[int]]:
    """Ranks and suits (indices of SUITS) of a hand.

    `suits` recolours the cards drawn and changes no rank: one seed gives one hand in any colour.
    """
    if replacement:
        cards = rng.integers(0, 4 * max_rank, num_cards).tolist()
    else:
        cards = rng.permutation(4 * max_rank)[:num_cards].tolist()
    recolour = _RECOLOUR[suits]
    return [card // 4 + 1 for card in cards], [recolour[card % 4] for card in cards]


def draw_released(
    rng: np.random.Generator, num_cards: int, max_rank: int, suits: str
) -> tuple[list[int], list[int]]:
    """A hand with a face card as the released code draws it: one of J, Q, K, the others free.

    Hands with two or more face cards are thus likelier than among random hands that have one.
    """
    ranks = rng.integers(1, max_rank + 1, num_cards)
    ranks[-1] = rng.integers(11, min(max_rank, 13) + 1)
    recolour = _RECOLOUR[suits]
    return rng.permutation(ranks).tolist(), [recolour[s] for s in rng.integers(0, 4, num_cards)]
