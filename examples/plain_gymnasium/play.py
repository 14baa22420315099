"""An environment without the rest of Cardinal: Gymnasium's `make`, `reset` and `step`.

`python -m examples.plain_gymnasium.play` plays hands of the 24 game with a policy that adds up
the cards; put any function from a message to an answer in its place. Ray, vLLM, DeepSpeed and
torch are not imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import gymnasium

import envs  # noqa: F401 - registers the environments


def add(message: str) -> str:
    """An answer to a brief prompt such as `A 5 10 K=10`: the sum of its cards."""
    cards = [card.rpartition("=")[2].replace("A", "1") for card in message.split()]
    return "+".join(cards)


def play(policy: Callable[[str], str], episodes: int) -> float:
    """Share of episodes that a policy solves."""
    env = gymnasium.make("cardinal/GeneralPoints-v0", prompt_style="brief", verify_iter=1)
    solved = 0.0
    for seed in range(episodes):
        observation, info = env.reset(seed=seed)
        ended = False
        while not ended:
            answer = policy(observation["message"])
            observation, _, terminated, truncated, info = env.step(answer)
            ended = terminated or truncated
        solved += info["metrics"]["success"]
    return solved / episodes


def main(arguments: list[str] | None = None) -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1000)
    options = parser.parse_args(arguments)
    print(f"solved {play(add, options.episodes):.1%} of {options.episodes} hands")


if __name__ == "__main__":
    main()
