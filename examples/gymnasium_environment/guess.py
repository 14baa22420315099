"""Guess a number: a plain Gymnasium environment of text, which imports nothing of Cardinal."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces


class Guess(gymnasium.Env[str, str]):
    """A number from 1 to `largest`; each wrong guess is answered by higher or lower."""

    def __init__(self, largest: int = 9, guesses: int = 4) -> None:
        self.largest, self.guesses = largest, guesses
        self.observation_space = spaces.Text(200)
        self.action_space = spaces.Text(200)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Think of a number."""
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(1, self.largest + 1))
        self.left = self.guesses
        return f"Guess a number from 1 to {self.largest}.", {"question": str(self.number)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Compare a guess."""
        self.left -= 1
        text = action.strip()
        guess = int(text) if text.isdecimal() and len(text) < 10 else None
        if guess == self.number:
            return "right", 1.0, True, False, {}
        hint = "no number" if guess is None else "higher" if guess < self.number else "lower"
        return hint, -1.0 if guess is None else -0.2, False, self.left == 0, {}


gymnasium.register("example/Guess-v0", Guess)
