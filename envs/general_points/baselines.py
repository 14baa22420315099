"""GeneralPoints without a model: formulas at random, answers learned by heart, no answer.

Input: the hand of the running episode, and environments of training hands. Output: answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from envs.base import Baseline
from envs.general_points import prompts, rules
from envs.general_points.expert import formula
from envs.general_points.settings import Settings
from envs.general_points.verifier import Hand

STUDIED = 20_000
"""Training hands that the look-up table has seen, of each environment that was trained in."""


class Player(Protocol):
    """An environment with the hand of its running episode."""

    settings: Settings
    hand: Hand

    def reset(self, *, seed: int | None = None) -> object:
        """Deal a hand."""


def training(settings: Settings, trained: Sequence[Settings]) -> list[Settings]:
    """The settings of the hands that are learned by heart, shown as text.

    Those that were trained with, and the rules that their demonstrations draw; where they are not
    known, the training side of the split that is played, of which hold_out=1 leaves nothing.
    """
    learned = list(trained)
    if not learned and settings.hold_out < 1:
        learned = [replace(settings, hands="train")]
    learned += [replace(s, face_rule="mixed") for s in learned if s.prompt_diversity]
    shown: list[Settings] = []
    for one in learned:
        as_text = replace(one, modality="language", suits="mixed")
        if as_text not in shown:
            shown.append(as_text)
    return shown


def policies(player: Player, trainers: Callable[[], Iterable[Player]], seed: int) -> list[Baseline]:
    """The baselines of an environment.

    trainers: makes the environments of `training`; called at most once, when an answer needs it.
    seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    known = functools.cache(lambda: study(trainers()))

    def baseline(name: str, description: str, act: Callable[[Hand], str]) -> Baseline:
        return Baseline(name, description, lambda observation: act(player.hand))

    def guess(hand: Hand) -> str:
        hands = list(known().values())
        if not hands:
            return answer(player.settings, hand, "")
        shown = hands[int(rng.integers(len(hands)))]
        return answer(player.settings, shown, formula(shown))

    def recall(hand: Hand) -> str:
        same = known().get(hand.key)
        return answer(player.settings, hand, "" if same is None else formula(same))

    def draw(hand: Hand) -> str:
        if player.settings.modality == "vision":
            hand = random_hand(player.settings, rng)
        return answer(player.settings, hand, random_formula(hand.numbers, rng))

    unseen = player.settings.modality == "vision"
    return [
        baseline("no answer", "answers nothing", lambda hand: ""),
        baseline("random", f"a formula of {'any' if unseen else 'the'} cards at random", draw),
        baseline("blind", "sees no cards; the right answer to a training hand at random", guess),
        baseline(
            "look-up",
            "sees the numbers; the right answer where a training hand had the same, else none",
            recall,
        ),
    ]


def study(trainers: Iterable[Player]) -> dict[tuple[int, ...], Hand]:
    """A training hand by its numbers, sorted, as many as STUDIED episodes of each trainer show."""
    known: dict[tuple[int, ...], Hand] = {}
    for trainer in trainers:
        for seed in range(STUDIED):
            trainer.reset(seed=seed)
            known.setdefault(trainer.hand.key, trainer.hand)
    return known


def answer(settings: Settings, hand: Hand, text: str) -> str:
    """An answer with these cards and this formula, in the form asked for."""
    thought = "" if settings.cot else None
    return prompts.answer(
        settings.prompt_style,
        hand.names,
        hand.numbers,
        text,
        hand.target,
        settings.modality == "vision",
        thought,
    )


def random_hand(settings: Settings, rng: np.random.Generator) -> Hand:
    """Cards that may be on the table, for a player who does not look."""
    ranks = [int(rank) for rank in rng.integers(1, settings.max_rank + 1, settings.num_cards)]
    rule = settings.face_rule if settings.face_rule in rules.FACE_VALUES else "ten"
    numbers = tuple(rules.value(rank, rule) for rank in ranks)
    names = tuple(rules.rank_name(rank) for rank in ranks)
    return Hand(names, numbers, tuple(sorted(numbers)), settings.target)


def random_formula(numbers: tuple[int, ...], rng: np.random.Generator) -> str:
    """All numbers in any order, joined two at a time by any operators."""
    parts = [str(number) for number in rng.permutation(numbers)]
    while len(parts) > 1:
        right = parts.pop(int(rng.integers(len(parts))))
        left = parts.pop(int(rng.integers(len(parts))))
        joined = f"{left}{'+-*/'[int(rng.integers(4))]}{right}"
        parts.append(f"({joined})" if parts else joined)
    return parts[0]
