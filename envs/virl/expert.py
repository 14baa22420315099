"""The expert: the rail's own actions as answers, demonstrations and a tokenizer's corpus.

In: a VIRL environment. Out: texts and Demonstrations; equal seeds give equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from envs.base import Demonstration, Message
from envs.virl import prompts
from envs.virl.directions import observation
from envs.virl.geometry import COMPASS, RELATIVE, SIDES
from envs.virl.names import CITY_WORDS, KINDS, WORDS
from envs.virl.verifier import ACTIONS, Verdict

if TYPE_CHECKING:
    from envs.virl.env import VIRL

FAULTS = (
    "your action is incorrect", "your answer holds no action of the action space",
    "you are not at any intersection", "you are at an intersection",
    "you missed the landmark here", "there is no such landmark here",
    "your action is incorrect and you are at an intersection",
)  # fmt: skip


def answer(env: VIRL) -> str:
    """The answer that earns full marks where the environment stands."""
    point = env.point
    action = point.action(env.settings.action_space)
    if env.settings.prompt_style == "brief":
        return prompts.brief_answer(point, env.vision, action)
    observed = observation(point, env.rules.tidy_rail).strip().removesuffix(";")
    return prompts.full_answer(observed, env.sentences[point.instruction], action)


def demonstrations(env: VIRL, n: int, seed: int) -> Iterator[Demonstration]:
    """Play the expert from seed, seed + 1, ... and yield each step as one demonstration."""
    player = type(env)(**vars(env.settings))
    given = 0
    while given < n:
        shown, _ = player.reset(seed=seed)
        done = False
        while not done and given < n:
            text = player.expert()
            messages: tuple[Message, ...] = (
                {"role": "user", "content": shown["message"], "train": False},
                {"role": "assistant", "content": text, "train": True},
            )
            images = (shown["image"],) if "image" in shown else ()
            yield Demonstration(messages, images, seed)
            given += 1
            shown, _, terminated, truncated, _ = player.step(text)
            done = terminated or truncated
        seed += 1


def corpus(env: VIRL) -> Iterator[str]:
    """Yield prompts, answers and retries of both action spaces and styles, and all names."""
    yield " ".join([*COMPASS, *RELATIVE, *SIDES, "none", "nothing"])
    yield " ".join(action for actions in ACTIONS.values() for action in actions)
    yield " ".join(str(number) for number in range(100))
    words = [word for extra in CITY_WORDS.values() for word in (*WORDS, *extra)]
    for kind in KINDS:
        yield " ".join(f"{word} {kind}" for word in dict.fromkeys(words))
    yield from dict.fromkeys(env.world.landmark_names())
    for feedback in ("none", "binary", "verifier"):
        for style in ("full", "brief"):
            for fault in FAULTS:
                yield prompts.retry(Verdict("wrong_action", -1.0, fault), feedback, style)
    for action_space in ("absolute", "relative"):
        settings = vars(replace(env.settings, action_space=action_space))
        player = type(env)(**settings)
        for demonstration in demonstrations(player, 64, 0):
            for message in demonstration.messages:
                yield message["content"]
