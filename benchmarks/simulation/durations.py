"""How long things take in a simulated cluster: seeded, with a heavy tail of long answers.

An answer's length is log-normal, as of models that reason: most are short, one in 400 is ten times
the mean and ends at the cap.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from configs.schema import RunConfig

SIGMA = 1.0  # of the logarithm of an answer's length
MEAN_ANSWER = 96.0  # tokens, before the cap
ANSWER_CAP = 960
PROMPT = 16  # tokens before an answer
MOST_TURNS = 3
SKEW = 0.98  # learner's time for a batch, as a share of the engines'
SAMPLED = 20_000  # seeds, for the mean length of an episode


def turns(seed: int) -> int:
    """Answers of the episode of a seed: 1 to MOST_TURNS."""
    return 1 + seed % MOST_TURNS


def answer_tokens(seed: int) -> int:
    """Length of the answer that is sampled with a seed, before the cap."""
    drawn = random.Random(seed).lognormvariate(0.0, SIGMA)
    return max(1, round(drawn * MEAN_ANSWER / 2.718281828 ** (SIGMA**2 / 2)))


def episode_tokens(seed: int) -> int:
    """Action tokens of the episode of a seed."""
    return sum(min(ANSWER_CAP, answer_tokens(seed * MOST_TURNS + i)) for i in range(turns(seed)))


@dataclass(frozen=True)
class Speeds:
    """How fast a simulated cluster is.

    token_s: seconds a token of a sequence; sequences do not slow each other.
    learner_token_s: seconds an action token of the whole batch, on all ranks together.
    load_s: for which an engine is paused to load weights.
    """

    token_s: float
    learner_token_s: float
    load_s: float


@cache
def _mean_tokens() -> float:
    return sum(map(episode_tokens, range(SAMPLED))) / SAMPLED


def matched(cfg: RunConfig, episodes_per_s: float, load_s: float = 0.05) -> Speeds:
    """Speeds at which full engines finish so many episodes a second, and the learner a few more."""
    mean = _mean_tokens()
    slots = cfg.rollout.workers * cfg.rollout.in_flight
    return Speeds(
        token_s=slots / (episodes_per_s * mean),
        learner_token_s=SKEW / (episodes_per_s * mean),
        load_s=load_s,
    )
