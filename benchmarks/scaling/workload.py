"""The episodes of the prediction: seeded lengths of a reasoning task in a few turns."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from benchmarks.simulation.costs import TurnTokens

SAMPLED = 2048  # seeds, for means and for the longest of a batch


@dataclass(frozen=True)
class Workload:
    """1 to `most_turns` turns; answers are log-normal, most of them short.

    prompt, follow_up: tokens of the first message and of each later one.
    answer, sigma, cap: mean of an answer before the cap, deviation of its logarithm, and the cap.
    """

    prompt: int = 300
    follow_up: int = 40
    most_turns: int = 3
    answer: float = 400.0
    sigma: float = 0.8
    cap: int = 2048

    def __call__(self, seed: int) -> list[TurnTokens]:
        """The turns of the episode of a seed."""
        draw = random.Random(seed)
        scale = self.answer / math.exp(self.sigma**2 / 2)
        prompts = [self.prompt] + [self.follow_up] * (draw.randint(1, self.most_turns) - 1)
        return [
            TurnTokens(prompt, self._length(draw.lognormvariate(0, self.sigma) * scale))
            for prompt in prompts
        ]

    def _length(self, drawn: float) -> int:
        return max(1, min(self.cap, round(drawn)))

    def tokens(self) -> float:
        """Mean tokens of an episode, prompts too."""
        return fmean(sum(map(sum, turns)) for turns in _sampled(self))

    def answers(self) -> list[int]:
        """Sampled tokens of each of many episodes."""
        return [sum(turn.answer for turn in turns) for turns in _sampled(self)]


@cache
def _sampled(workload: Workload) -> list[list[TurnTokens]]:
    return [workload(seed) for seed in range(SAMPLED)]
