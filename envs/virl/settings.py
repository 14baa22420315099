"""The settings of V-IRL: every keyword, which pairs contradict each other, what a preset means.

Input: the environment's keywords. Output: frozen Settings, and the Rules that they resolve to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from string import Template

from configs.leaf import leaf
from configs.schema import PRESETS
from envs.rewards import Rewards, merge_rewards
from envs.settings import check_values
from envs.templates import Fields, read_templates
from envs.virl.names import CITY_WORDS

CITIES = tuple(CITY_WORDS)
BENCHMARK = "benchmark"
ACTION_SPACES = ("absolute", "relative")
TRAINING_ROUTES = 1000
BENCHMARK_ROUTES_A_CITY = 2

TEMPLATES = {
    "prompt": Fields(("directions", "history", "observation", "turns"), ("directions",)),
    "feedback": Fields(("reason", "verdict")),
    "answer": Fields(("observation", "instruction", "action"), ("action",)),
}
"""Messages that can have a template, with its fields. directions: as the prompt style states them;
history: lines of observations and actions up to the current observation; observation: the current
one alone, of pictures only what text says; turns: the words that turn_direction takes; reason and
verdict: the verifier's."""

REWARDS = {"correct": 1.0, "wrong_action": -1.0, "wrong_observation": -1.5, "exhausted": -1.0}
"""Of the study's verifier (arXiv 2501.17161); exhausted is added to the last answer's own."""


@dataclass(frozen=True)
class Settings:
    """The environment's keywords; null means 'by preset' or 'by world'."""

    modality: str = leaf(
        "language", "landmarks as text or as pictures", choices=("language", "vision")
    )
    preset: str = leaf(
        "fixed",
        "the study's rules: corrected, as its paper states them, or as its released code has them; "
        "decides what is null",
        choices=PRESETS,
    )
    prompt_style: str = leaf(
        "full", "task, rules and format, or one short text", choices=("full", "brief")
    )
    world: str = leaf("procedural", "`procedural`, or the folder of a released data set")
    city: str | None = leaf(
        None,
        "procedural city, or `benchmark`: two routes in each of nine; null: New York",
        choices=(*CITIES, BENCHMARK, None),
    )
    split: str | None = leaf(
        None,
        "which streets of the city: those of training, or disjoint ones; null: train, and test "
        "in the benchmark",
        choices=("train", "test", None),
    )
    routes: int | None = leaf(
        None, "number of routes; null: 1000, 2 a city in the benchmark, all of a folder", low=1
    )
    max_legs: int | None = leaf(
        None, "procedural routes have two legs to this many; null: 5", low=2, high=5
    )
    action_space: str = leaf(
        "absolute",
        "compass words (the training rule), left and right, or mixed: one of both drawn per "
        "episode, as the prompt says",
        choices=(*ACTION_SPACES, "mixed"),
    )
    view_layout: str | None = leaf(
        None,
        "views at 0, 90, 180, 270 degrees, or at -135, -45, 45, 135 as released; null: by preset",
        choices=("cardinal", "legacy", None),
    )
    image_size: int = leaf(640, "side of each of the four views, pixels", low=16, high=1024)
    verify_iter: int = leaf(2, "graded answers a navigation step", low=1, high=100)
    feedback: str = leaf(
        "verifier", "what follows a wrong answer", choices=("none", "binary", "verifier")
    )
    penalty_mode: str | None = leaf(
        None,
        "the first failing rule counts, or penalties add up; null: first",
        choices=("first", "sum", None),
    )
    rewards: dict[str, float] = leaf(
        {},
        "rewards that differ from the study's: correct 1, wrong_action -1, wrong_observation "
        "-1.5, and, added to the last answer's, exhausted -1",
    )
    straight_line_length: int = leaf(
        5, "in-between points of a leg before dropping", low=0, high=10_000
    )
    drop_rate: float = leaf(0.5, "probability that an in-between point is dropped", low=0, high=1)
    mapping_radius: float = leaf(20.0, "farthest panorama that a point moves to, metres", low=0)
    init_heading: int | None = leaf(
        None,
        "heading before the first turn, degrees; 0: random by seed; null: the route's own",
        low=0,
        high=359,
    )
    max_steps: int | None = leaf(
        None, "answers after which an episode is truncated; null: as many as the rail needs", low=1
    )
    trajectories: str = leaf(
        "optimal",
        "demonstrations: one right answer a step, or wrong ones and the feedback before it",
        choices=("optimal", "suboptimal"),
    )
    prompt_diversity: bool = leaf(False, "demonstrations draw the full prompt's wording at random")
    templates: dict[str, str] = leaf(
        {},
        "files with wordings of your own, by the message that they replace: prompt, feedback (of "
        "a wrong answer), answer (of demonstrations)",
    )
    cache_mib: int = leaf(256, "bound on the panoramas kept in memory, a process, MiB", low=1)

    @property
    def training(self) -> Settings:
        """Those of training, as far as an evaluation's say: its city, of a world of ours."""
        return replace(self, city=None, split=None) if self.world == "procedural" else self

    def __post_init__(self) -> None:
        check_values(self, "VIRL")
        if sentence := contradiction(self):
            raise ValueError(sentence)
        resolve(self)
        message_templates(self)


def message_templates(settings: Settings) -> dict[str, Template]:
    """The templates by message.

    Raises:
        ValueError: one cannot be read, or a field is unknown or missing.
    """
    return read_templates(settings.templates, TEMPLATES, "VIRL.templates")


@dataclass(frozen=True)
class Rules:
    """What a preset decides.

    wrap: turn words from the wrapped heading difference.
    observation: how a stated observation is checked when the action is wrong: `truth` (landmark
        and intersection against the truth), `landmark` (a missed one), `inverted` (the released
        check, which looks for the word intersection in the landmark's field).
    extra_answer: an answer beyond the budget is asked for, not read, and costs the budget's
        penalty (the released code); otherwise the penalty joins the last graded answer.
    legacy_parser: read answers as the released code does.
    tidy_rail: drop in-between points that repeat their predecessor; one word for no landmark.
    """

    wrap: bool
    observation: str
    extra_answer: bool
    legacy_parser: bool
    tidy_rail: bool
    view_layout: str
    penalty_mode: str
    rewards: Rewards = field(default_factory=REWARDS.copy)


_RULES = {
    "fixed": Rules(True, "truth", False, False, True, "cardinal", "first"),
    "paper_text": Rules(True, "landmark", False, False, True, "cardinal", "first"),
    "paper_code": Rules(False, "inverted", True, True, False, "legacy", "first"),
}


def resolve(settings: Settings) -> Rules:
    """The preset's rules, with the settings that override them.

    Raises:
        ValueError: as `merge_rewards`.
    """
    rules = _RULES[settings.preset]
    return replace(
        rules,
        view_layout=settings.view_layout or rules.view_layout,
        penalty_mode=settings.penalty_mode or rules.penalty_mode,
        rewards=merge_rewards(REWARDS, settings.rewards, "VIRL.rewards"),
    )


def contradiction(settings: Settings) -> str | None:
    """The first pair of settings that cannot both hold, in one sentence; None when all can."""
    s = settings
    checks = {
        "verify_iter is 1, but trajectories='suboptimal' needs at least 2": (
            s.trajectories == "suboptimal" and s.verify_iter < 2
        ),
        "prompt_diversity is true, but prompt_style='brief' has one wording": (
            s.prompt_diversity and s.prompt_style == "brief"
        ),
        "split is 'train', but city='benchmark' is made of test streets: leave split out": (
            s.world == "procedural" and s.city == BENCHMARK and s.split == "train"
        ),
    }
    for name in ("city", "split", "max_legs"):
        value = getattr(s, name)
        sentence = f"{name} is {value!r}, but world={s.world!r} is a data set with its own routes"
        checks[f"{sentence}: leave {name} out"] = s.world != "procedural" and value is not None
    return next((sentence for sentence, holds in checks.items() if holds), None)
