"""What an episode asks, and which questions two settings have in common.

A question is the multiset of numbers under the scored rule with the target: hands of other ranks
with the same numbers have the same answers.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

from envs.general_points import rules, solver
from envs.general_points.settings import Settings, resolve

MOST_CARDS_SOLVED = 4
"""Hands of more cards are compared without regard to whether they can be solved."""

Numbers = tuple[int, ...]


def question(numbers: Numbers, target: int) -> str:
    """The id of a question: `1 5 10 10 = 24`; numbers are sorted."""
    return f"{' '.join(map(str, numbers))} = {target}"


def admits(ranks: Numbers, numbers: Numbers, s: Settings) -> bool:
    """Whether a hand (both sorted) is on the side of the split that is played and has its face."""
    if s.require_face and not any(11 <= rank <= 13 for rank in ranks):
        return False
    if s.hands == "all":
        return True
    position = rules.hold_out_position(numbers if s.split == "numbers" else ranks)
    return (position < s.hold_out) == (s.hands == "held_out")


def scored_rules(s: Settings) -> tuple[str, ...]:
    """The rules under which episodes or demonstrations can be scored; not for face_rule=any."""
    rule = s.fake_rule or s.face_rule
    drawn = rules.MIXED if rule == "mixed" or s.prompt_diversity else ()
    return tuple({rule, *drawn} - {"mixed"})


def all_questions(s: Settings) -> frozenset[Numbers]:
    """The numbers of every question that episodes or demonstrations of these settings can ask.

    With face_rule=any also a few that the deck cannot deal.
    """
    deck = range(1, s.max_rank + 1)
    if s.face_rule == "any":
        values = sorted({*deck, *range(1, rules.LARGEST + 1)})
        faces = (11,) * s.num_cards  # any card may be a face card
        hands = combinations_with_replacement(values, s.num_cards)
        split_by_ranks = s.hands != "all" and s.split == "ranks"
        admitted = {n for n in hands if split_by_ranks or admits(faces, n, s)}
    else:
        copies = s.num_cards if resolve(s).replacement else 4 if s.suits == "mixed" else 2
        admitted = set()
        for ranks in combinations_with_replacement(deck, s.num_cards):
            if max(Counter(ranks).values()) > copies:
                continue
            for rule in scored_rules(s):
                numbers = tuple(sorted(rules.value(rank, rule) for rank in ranks))
                if numbers not in admitted and admits(ranks, numbers, s):
                    admitted.add(numbers)
    if s.num_cards > MOST_CARDS_SOLVED:
        return frozenset(admitted)
    return frozenset(numbers for numbers in admitted if solver.solvable(numbers, s.target))


def overlap(train: Settings, evaluation: Settings) -> str:
    """Which of the evaluation's questions training can ask: none, some or all."""
    if train.target != evaluation.target:
        return "none"
    trained, evaluated = all_questions(train), all_questions(evaluation)
    if not trained & evaluated:
        return "none"
    return "all" if evaluated <= trained else "some"
