"""A game that a tiny model solves in seconds, of which each stage of a run has its own success.

An episode asks for the capitals of two letters. The teacher knows those of even letters; for an odd
one it mostly gives the next letter's. So greedy imitation is right in half of the episodes, and in
the other half where the next letter's counts (`answer: next`); rewards teach all, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium

from configs.schema import leaf
from envs.base import Demonstration, EnvironmentFailure, TextEnv

CAPITALS = "tests.support.capitals:test/Capitals-v0"
LETTERS = "abcdefgh"


def letters(seed):
    """Numbers of the two letters of an episode: both even or both odd."""
    return seed % len(LETTERS), (seed + len(LETTERS) // 2) % len(LETTERS)


def broken(seed):
    """Whether the episode breaks, after its first answer."""
    return seed % 15 == 13


def capital(letter):
    return LETTERS[letter % len(LETTERS)].upper()


@dataclass(frozen=True)
class CapitalsSettings:
    answer: str = leaf("own", "whose capital is right", choices=("own", "next"))


class Capitals(TextEnv):
    Settings = CapitalsSettings

    def __init__(self, **keywords):
        self.shift = int(CapitalsSettings(**keywords).answer == "next")
        self.make_spaces(None)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.verdicts = seed, []
        self.question = LETTERS[letters(seed)[0]]
        return self._asked(), {}

    def _asked(self):
        return {"message": LETTERS[letters(self.seed)[len(self.verdicts) % 2]], "restart": 1}

    def step(self, action):
        if broken(self.seed) and self.verdicts:
            raise EnvironmentFailure("an inkblot")
        self.verdicts.append(action == self.expert())
        over, solved = len(self.verdicts) == 2, all(self.verdicts)
        verdict = "right" if self.verdicts[-1] else "wrong"
        info = {"verdict": verdict, "message": verdict}
        if over:
            first = float(self.verdicts[0])
            metrics = {"success": float(solved), "first_try": first, "seed": float(self.seed)}
            info["metrics"] = metrics
        reward = 1.0 if self.verdicts[-1] else -1.0
        return self._asked(), reward, over and solved, over and not solved, info

    def expert(self):
        return capital(letters(self.seed)[len(self.verdicts) % 2] + self.shift)

    def demonstrations(self, n, seed):
        for number in range(seed, seed + n):
            letter = number % len(LETTERS)
            mistaken = letter % 2 and number // len(LETTERS) % 3
            question = {"role": "user", "content": LETTERS[letter], "train": False}
            answer = {
                "role": "assistant",
                "content": capital(letter + bool(mistaken)),
                "train": True,
            }
            yield Demonstration((question, answer), (), number)

    def corpus(self):
        yield from (LETTERS, LETTERS.upper(), " ".join(LETTERS), " ".join(LETTERS.upper()))


gymnasium.register("test/Capitals-v0", Capitals)
