"""The expert: the rail's own actions as answers, demonstrations and a tokenizer's corpus.

Input: a player, as VIRL is one. Output: texts and Demonstrations; equal seeds give equal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from string import Template
from typing import Protocol, TypeAlias

import numpy as np

from configs.schema import PRESETS
from envs.base import Demonstration, Message, Observation
from envs.virl import prompts
from envs.virl.directions import observation
from envs.virl.geometry import COMPASS, RELATIVE, SIDES
from envs.virl.names import CITY_WORDS, KINDS, WORDS
from envs.virl.rail import Point
from envs.virl.settings import ACTION_SPACES, Rules, Settings, message_templates
from envs.virl.verifier import ACTIONS, FAULTS, INCORRECT, THERE, Verdict
from envs.virl.world import World


class Player(Protocol):
    """An environment in the middle of an episode, with the truth about it."""

    settings: Settings
    rules: Rules
    vision: bool
    world: World
    turn_space: str
    templates: dict[str, Template]
    rail: list[Point]
    sentences: list[str]

    @property
    def point(self) -> Point:
        """Where the player stands."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, int] | None = None
    ) -> tuple[Observation, object]:
        """Begin an episode."""

    def step(self, action: str) -> tuple[Observation, float, bool, bool, object]:
        """Give one answer."""

    def prompt(self, vision: bool) -> str:
        """The prompt of the current point, in either modality."""


MakePlayer: TypeAlias = Callable[[Settings], Player]


def answer(player: Player, action: str | None = None) -> str:
    """The answer that earns full marks where the player stands, or one with another action."""
    point = player.point
    action = action or point.action(player.turn_space)
    if "answer" in player.templates:
        return player.templates["answer"].substitute(
            observation=observation(point, player.rules.tidy_rail).strip().removesuffix(";"),
            instruction=player.sentences[point.instruction],
            action=action,
        )
    if player.settings.prompt_style == "brief":
        return prompts.brief_answer(point, player.vision, action)
    observed = observation(point, player.rules.tidy_rail).strip().removesuffix(";")
    return prompts.full_answer(observed, player.sentences[point.instruction], action)


def demonstrations(
    make: MakePlayer, settings: Settings, n: int, seed: int
) -> Iterator[Demonstration]:
    """Walk the routes of seed, seed + 1, ... and yield each step as one demonstration.

    With trajectories=suboptimal, up to verify_iter - 1 wrong answers and what the verifier says
    of them come before the right one.
    """
    player, rng = make(settings), np.random.default_rng(seed)
    count = 0
    while count < n:
        wording = int(rng.integers(len(prompts.OPENINGS))) if settings.prompt_diversity else 0
        shown, _ = player.reset(seed=seed, options={"wording": wording})
        for _ in range(min(len(player.rail), n - count)):
            messages = [Message(role="user", content=shown["message"], train=False)]
            images = (shown["image"],) if "image" in shown else ()
            if settings.trajectories == "suboptimal":
                for _ in range(int(rng.integers(settings.verify_iter))):
                    messages += _failure(player, rng)
            text = answer(player)
            messages.append(Message(role="assistant", content=text, train=True))
            yield Demonstration(tuple(messages), images, seed)
            count += 1
            shown, *_ = player.step(text)
        seed += 1


def _failure(player: Player, rng: np.random.Generator) -> list[Message]:
    """Give a wrong answer; the answer and the feedback."""
    space = player.turn_space
    actions = [action for action in ACTIONS[space] if action != player.point.action(space)]
    wrong = answer(player, actions[int(rng.integers(len(actions)))])
    shown, *_ = player.step(wrong)
    return [
        Message(role="assistant", content=wrong, train=True),
        Message(role="user", content=shown["message"], train=False),
    ]


def corpus(make: MakePlayer, settings: Settings) -> Iterator[str]:
    """Yield names, retries, prompts and answers of the settings' prompt style.

    Both action spaces, both modalities, all cities and all presets are covered; no picture is
    drawn.
    """
    style = settings.prompt_style
    yield " ".join([*COMPASS, *RELATIVE, *SIDES, "none", "nothing"])
    yield " ".join(action for actions in ACTIONS.values() for action in actions)
    yield " ".join(str(number) for number in range(100))
    words = dict.fromkeys([*WORDS, *(word for extra in CITY_WORDS.values() for word in extra)])
    for kind in KINDS:
        yield " ".join(f"{word} {kind}" for word in words)
    yield from dict.fromkeys(make(settings).world.landmark_names())
    if style == "full":
        yield from prompts.OPENINGS
    yield from (template.template for template in message_templates(settings).values())
    for feedback in ("none", "binary", "verifier"):
        for fault in (*FAULTS, f"{INCORRECT} and {THERE}"):
            yield prompts.retry(Verdict("wrong_action", -1.0, fault), feedback, style)
    for action_space in ACTION_SPACES:
        for preset in PRESETS:
            changed = replace(
                settings, action_space=action_space, preset=preset, modality="language"
            )
            yield from _texts(make(changed), episodes=6)


def _texts(player: Player, episodes: int) -> Iterator[str]:
    """What a player of either modality reads and writes along some expert episodes."""
    for seed in range(episodes):
        player.reset(seed=seed)
        for _ in range(len(player.rail)):
            for vision in (False, True):
                yield player.prompt(vision)
            if player.settings.prompt_style == "brief":
                action = player.point.action(player.turn_space)
                yield prompts.brief_answer(player.point, True, action)
            text = answer(player)
            yield text
            player.step(text)
    yield "Correct action."
