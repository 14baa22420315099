"""How far log-probabilities of the same weights may differ between engines and the learner."""

from __future__ import annotations

import math

from configs.schema import RunConfig
from learner.slack import slack

PARITY_MEAN_ABS = 1e-4  # in float32; bfloat16 differs by rounding
PARITY_MEAN_ABS_BF16 = 5e-2


def parity_limit(cfg: RunConfig, tokens: float = math.inf) -> float:
    """The largest mean absolute difference, nats.

    tokens: of the one engine that is looked at; few may pass the limit by `slack`.
    """
    limit = PARITY_MEAN_ABS if cfg.model.dtype == "float32" else PARITY_MEAN_ABS_BF16
    return limit * slack(tokens)
