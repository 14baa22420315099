"""Every keyword of GeneralPoints: meaning, default, allowed values, and what contradicts what.

`Settings` is frozen and checked; in `Resolved` each null has become its preset's value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Template

from configs.leaf import leaf
from configs.schema import PRESETS
from envs.general_points.prompts import TEMPLATES
from envs.general_points.rules import FACE_VALUES, RULES
from envs.rewards import Rewards, merge_rewards
from envs.settings import check_values
from envs.templates import read_templates

REWARDS = {
    "solved": 5.0,
    "partial": 1.0,
    "wrong": -1.0,
    "misused": -2.0,
    "illegal": -3.0,
    "misread": -1.5,
    "exhausted": -1.0,
}
"""Of the study's verifier (arXiv 2501.17161). misused: numbers that are not the cards'; misread and
exhausted are added to the answer's own."""


@dataclass(frozen=True)
class Settings:
    """Keywords of `gymnasium.make("cardinal/GeneralPoints-v0", ...)`."""

    modality: str = leaf(
        "language", "cards as text or as a picture", choices=("language", "vision")
    )
    preset: str = leaf(
        "fixed", "preset of the study; decides every key that is null", choices=PRESETS
    )
    prompt_style: str = leaf("full", "explained, or as short as can be", choices=("full", "brief"))
    face_rule: str = leaf(
        "ten",
        "what J, Q, K count, as the prompt says; drawn per hand: mixed, of the four rules "
        "that are not ranks, or any, each of the three by itself from 1 to 13",
        choices=RULES,
    )
    fake_rule: str | None = leaf(
        None,
        "rule that is scored instead of the one that the prompt states",
        choices=(None, *FACE_VALUES),
    )
    suits: str = leaf("mixed", "colours of the pictured cards", choices=("mixed", "black", "red"))
    num_cards: int = leaf(4, "cards in a hand", low=2, high=6)
    max_rank: int = leaf(13, "highest rank in the deck", low=1, high=20)
    target: int = leaf(24, "value that the formula must have", low=1, high=1000)
    deck: str | None = leaf(
        None,
        "draw with or without replacement; null: with in paper_code only",
        choices=(None, "without", "with"),
    )
    hands: str = leaf(
        "all", "which side of the split is played", choices=("all", "train", "held_out")
    )
    hold_out: float = leaf(0.2, "share of the hands that train never sees", low=0, high=1)
    split: str = leaf(
        "numbers",
        "what tells hands apart for hands=train and held_out: the numbers under the scored rule, "
        "which are the question, or the ranks, of which several give the same numbers",
        choices=("numbers", "ranks"),
    )
    require_face: bool = leaf(False, "every hand holds at least one of J, Q, K")
    verify_iter: int = leaf(5, "graded answers per episode", low=1, high=100)
    feedback: str | None = leaf(
        None,
        "what follows a failed answer; null: verifier, in paper_code prefix_hint",
        choices=(None, "none", "binary", "verifier", "prefix_hint"),
    )
    penalty_mode: str | None = leaf(
        None,
        "first failing rule counts, or all; null: sum in paper_code only",
        choices=(None, "first", "sum"),
    )
    partial_reward: bool | None = leaf(
        None, "+1 for an unfinished solution; null: in paper_code only"
    )
    parser: str | None = leaf(
        None,
        "how answers are read; null: strict_legacy in paper_code with full prompts only",
        choices=(None, "lenient", "strict_legacy"),
    )
    rewards: dict[str, float] = leaf(
        {},
        "rewards that differ from the study's: solved 5, partial 1 (see partial_reward), wrong -1, "
        "misused -2, illegal -3, and, added to these, misread -1.5 and exhausted -1",
    )
    templates: dict[str, str] = leaf(
        {},
        "files with wordings of your own, by the message that they replace: prompt, feedback (of "
        "a failed answer), solved, exhausted, answer (of demonstrations)",
    )
    image_size: int = leaf(1200, "height and width of the picture, pixels", low=64, high=4096)
    cot: bool = leaf(False, "answers carry a thought before the formula")
    prompt_diversity: bool = leaf(
        False, "demonstrations draw rule (never ranks) and, in full, wording at random"
    )
    trajectories: str = leaf(
        "optimal",
        "demonstrations: one right answer (optimal); 1 to verify_iter - 1 wrong ones with their "
        "feedback before it, trained on too (suboptimal); or 0 to as many, not trained on "
        "(corrected)",
        choices=("optimal", "suboptimal", "corrected"),
    )
    corrected_share: float | None = leaf(
        None,
        "share of the demonstrations of trajectories=corrected that hold wrong answers, 1 to "
        "verify_iter - 1 of them; null: how many each holds is drawn from 0 to verify_iter - 1",
        low=0,
        high=1,
    )
    formulas: str = leaf(
        "canonical",
        "demonstrations: the simplest formula with its numbers falling, the simplest "
        "in the cards' order, or any formula in the cards' order",
        choices=("canonical", "hand", "any"),
    )

    def __post_init__(self) -> None:
        check_values(self, "GeneralPoints")
        if sentence := contradiction(self):
            raise ValueError(f"GeneralPoints: {sentence}")
        message_templates(self)


def message_templates(settings: Settings) -> dict[str, Template]:
    """The templates by message.

    Raises:
        ValueError: one cannot be read, or a field is unknown or missing.
    """
    return read_templates(settings.templates, TEMPLATES, "GeneralPoints.templates")


@dataclass(frozen=True)
class Resolved:
    """What the nulls of a Settings became."""

    replacement: bool
    feedback: str
    penalty_sum: bool
    partial_reward: bool
    legacy_parser: bool
    released: bool
    """Whether grading and budget are the released code's (preset paper_code)."""
    rewards: Rewards = field(default_factory=REWARDS.copy)


def resolve(settings: Settings) -> Resolved:
    """Give every null its preset's value, and every reward its value.

    Raises:
        ValueError: as `merge_rewards`.
    """
    released = settings.preset == "paper_code"
    brief = settings.prompt_style == "brief"

    def pick(value: str | bool | None, otherwise: str | bool) -> str | bool:
        return otherwise if value is None else value

    return Resolved(
        replacement=pick(settings.deck, "with" if released else "without") == "with",
        feedback=str(pick(settings.feedback, "prefix_hint" if released else "verifier")),
        penalty_sum=pick(settings.penalty_mode, "sum" if released else "first") == "sum",
        partial_reward=bool(pick(settings.partial_reward, released)),
        legacy_parser=pick(
            settings.parser, "strict_legacy" if released and not brief else "lenient"
        )
        == "strict_legacy",
        rewards=merge_rewards(REWARDS, settings.rewards, "GeneralPoints.rewards"),
        released=released,
    )


def contradiction(s: Settings) -> str | None:
    """The first pair of settings that cannot both hold, in one sentence; None when all can."""
    checks = {**_rule_contradictions(s), **_hand_contradictions(s), **_answer_contradictions(s)}
    return next((sentence for sentence, holds in checks.items() if holds), None)


def _rule_contradictions(s: Settings) -> dict[str, bool]:
    no_faces = s.max_rank < 11
    return {
        f"max_rank={s.max_rank} has no face cards for face_rule={s.face_rule}": (
            no_faces and s.face_rule != "ten"
        ),
        f"max_rank={s.max_rank} has no face cards for fake_rule={s.fake_rule}": (
            no_faces and s.fake_rule is not None
        ),
        f"max_rank={s.max_rank} has no face cards for require_face": no_faces and s.require_face,
        f"fake_rule={s.fake_rule} is the rule that face_rule already states": (
            s.fake_rule == s.face_rule
        ),
        f"fake_rule needs one stated rule, not face_rule={s.face_rule}": (
            s.fake_rule is not None and s.face_rule in ("mixed", "any")
        ),
        "prompt_diversity draws the rule itself and needs fake_rule=null": (
            s.prompt_diversity and s.fake_rule is not None
        ),
        f"prompt_diversity needs face cards, max_rank={s.max_rank} has none": (
            s.prompt_diversity and no_faces
        ),
    }


def _hand_contradictions(s: Settings) -> dict[str, bool]:
    one_colour = s.suits != "mixed"
    deck = (2 if one_colour and not resolve(s).replacement else 4) * s.max_rank
    return {
        "suits needs modality=vision, because text shows no suits": (
            one_colour and s.modality == "language"
        ),
        "hands=held_out needs hold_out above 0": s.hands == "held_out" and s.hold_out == 0,
        "hands=train needs hold_out below 1": s.hands == "train" and s.hold_out == 1,
        f"num_cards={s.num_cards} is more than the {deck} cards of a deck with "
        f"max_rank={s.max_rank}": s.num_cards > deck,
    }


def _answer_contradictions(s: Settings) -> dict[str, bool]:
    resolved = resolve(s)
    return {
        f"num_cards={s.num_cards} has too many solution strings for feedback=prefix_hint or "
        "partial_reward, the most is 5": (
            s.num_cards > 5 and (resolved.feedback == "prefix_hint" or resolved.partial_reward)
        ),
        "parser=strict_legacy reads JSON and needs prompt_style=full": (
            s.parser == "strict_legacy" and s.prompt_style == "brief"
        ),
        "rewards are not those of the released verifier, which preset=paper_code grades with": (
            bool(s.rewards) and resolved.released
        ),
        "trajectories=suboptimal needs verify_iter of at least 2": (
            s.trajectories == "suboptimal" and s.verify_iter < 2
        ),
        f"corrected_share needs trajectories=corrected, not {s.trajectories}": (
            s.corrected_share is not None and s.trajectories != "corrected"
        ),
    }
