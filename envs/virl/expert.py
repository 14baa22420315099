"""The expert: the rail's own actions as answers, demonstrations and a tokenizer's corpus.

In: a VIRL environment. Out: texts and Demonstrations; equal seeds give equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from configs.schema import PRESETS
from envs.base import Demonstration, Message
from envs.virl import prompts
from envs.virl.directions import observation
from envs.virl.geometry import COMPASS, RELATIVE, SIDES
from envs.virl.names import CITY_WORDS, KINDS, WORDS
from envs.virl.settings import ACTION_SPACES
from envs.virl.verifier import ACTIONS, Verdict

if TYPE_CHECKING:
    from envs.virl.env import VIRL

FAULTS = (
    "your action is incorrect", "your answer holds no action of the action space",
    "you are not at any intersection", "you are at an intersection",
    "you missed the landmark here", "there is no such landmark here",
    "your action is incorrect and you are at an intersection",
)  # fmt: skip


def answer(env: VIRL, action: str | None = None) -> str:
    """The answer that earns full marks where the environment stands, or one with another action."""
    point = env.point
    action = action or point.action(env.turn_space)
    if env.settings.prompt_style == "brief":
        return prompts.brief_answer(point, env.vision, action)
    observed = observation(point, env.rules.tidy_rail).strip().removesuffix(";")
    return prompts.full_answer(observed, env.sentences[point.instruction], action)


def demonstrations(env: VIRL, n: int, seed: int) -> Iterator[Demonstration]:
    """Walk the routes of seed, seed + 1, ... and yield each step as one demonstration.

    With trajectories=suboptimal, up to verify_iter - 1 wrong answers and what the verifier says
    of them come before the right one.
    """
    player = type(env)(**vars(env.settings))
    settings, rng = player.settings, np.random.default_rng(seed)
    given = 0
    while given < n:
        wording = int(rng.integers(len(prompts.OPENINGS))) if settings.prompt_diversity else 0
        shown, _ = player.reset(seed=seed, options={"wording": wording})
        for _ in range(min(len(player.rail), n - given)):
            messages = [Message(role="user", content=shown["message"], train=False)]
            images = (shown["image"],) if "image" in shown else ()
            if settings.trajectories == "suboptimal":
                for _ in range(int(rng.integers(settings.verify_iter))):
                    messages += _failure(player, rng)
            text = player.expert()
            messages.append(Message(role="assistant", content=text, train=True))
            yield Demonstration(tuple(messages), images, seed)
            given += 1
            shown, *_ = player.step(text)
        seed += 1


def _failure(player: VIRL, rng: np.random.Generator) -> list[Message]:
    """Give a wrong answer and hear the feedback."""
    space = player.turn_space
    actions = [action for action in ACTIONS[space] if action != player.point.action(space)]
    wrong = answer(player, actions[int(rng.integers(len(actions)))])
    shown, *_ = player.step(wrong)
    return [
        Message(role="assistant", content=wrong, train=True),
        Message(role="user", content=shown["message"], train=False),
    ]


def corpus(env: VIRL) -> Iterator[str]:
    """Yield names, retries, prompts and answers of the environment's prompt style.

    Both action spaces, both modalities, all cities and all presets are covered; no picture is
    drawn.
    """
    style = env.settings.prompt_style
    yield " ".join([*COMPASS, *RELATIVE, *SIDES, "none", "nothing"])
    yield " ".join(action for actions in ACTIONS.values() for action in actions)
    yield " ".join(str(number) for number in range(100))
    words = dict.fromkeys([*WORDS, *(word for extra in CITY_WORDS.values() for word in extra)])
    for kind in KINDS:
        yield " ".join(f"{word} {kind}" for word in words)
    yield from dict.fromkeys(env.world.landmark_names())
    if style == "full":
        yield from prompts.OPENINGS
    for feedback in ("none", "binary", "verifier"):
        for fault in FAULTS:
            yield prompts.retry(Verdict("wrong_action", -1.0, fault), feedback, style)
    for action_space in ACTION_SPACES:
        for preset in PRESETS:
            changed = {"action_space": action_space, "preset": preset, "modality": "language"}
            yield from _texts(type(env)(**(vars(env.settings) | changed)), episodes=6)


def _texts(player: VIRL, episodes: int) -> Iterator[str]:
    """What a player of either modality reads and writes along some expert episodes."""
    for seed in range(episodes):
        player.reset(seed=seed)
        for _ in range(len(player.rail)):
            for vision in (False, True):
                yield player.prompt(vision)
            if player.settings.prompt_style == "brief":
                action = player.point.action(player.turn_space)
                yield prompts.brief_answer(player.point, True, action)
            text = player.expert()
            yield text
            player.step(text)
    yield "Correct action."
