"""How far log-probabilities of the same weights may differ between engines and the learner."""

from __future__ import annotations

from configs.schema import RunConfig

PARITY_MEAN_ABS = 1e-4  # in float32; bfloat16 differs by rounding
PARITY_MEAN_ABS_BF16 = 5e-2


def parity_limit(cfg: RunConfig) -> float:
    """The largest mean absolute difference, nats."""
    return PARITY_MEAN_ABS if cfg.model.dtype == "float32" else PARITY_MEAN_ABS_BF16
