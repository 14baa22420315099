"""Sums: add two numbers, a few tries."""

from dataclasses import dataclass

import gymnasium

from configs.leaf import leaf
from envs.base import Demonstration, Message, TextEnv


@dataclass(frozen=True)
class SumsSettings:
    largest: int = leaf(99, "largest number", low=1)
    tries: int = leaf(3, "graded answers per episode", low=1)


class Sums(TextEnv):
    Settings = SumsSettings

    def __init__(self, **keywords):
        self.settings = SumsSettings(**keywords)
        self.make_spaces(None)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.numbers = self.np_random.integers(0, self.settings.largest + 1, 2).tolist()
        self.answers = 0
        return {"message": "{}+{}".format(*self.numbers), "restart": 1}, {}

    def step(self, action):
        self.answers += 1
        solved = action.strip() == str(sum(self.numbers))
        truncated = not solved and self.answers == self.settings.tries
        verdict = "right" if solved else "wrong"
        info = {"verdict": verdict, "message": verdict}
        if solved or truncated:
            first = solved and self.answers == 1
            info["metrics"] = {"success": float(solved), "first_try": float(first)}
        return {"message": verdict, "restart": 0}, 1.0 if solved else -1.0, solved, truncated, info

    def expert(self):
        return str(sum(self.numbers))

    def demonstrations(self, n, seed):
        env = Sums(largest=self.settings.largest)
        for i in range(n):
            message = env.reset(seed=seed + i)[0]["message"]
            question = Message(role="user", content=message, train=False)
            answer = Message(role="assistant", content=env.expert(), train=True)
            yield Demonstration((question, answer), (), seed + i)

    def corpus(self):
        yield from ("0123456789+", "right", "wrong")


gymnasium.register("example/Sums-v0", Sums)
