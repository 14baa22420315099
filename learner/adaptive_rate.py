"""The policy's learning rate follows the KL of its updates (`ppo.desired_kl`).

After each update it is divided by 1.5 where the KL was above twice the desired one, multiplied by
1.5 where it was below half of it: as in rl_games, skrl and rsl_rl. The schedule goes on underneath,
the rate stays within 1.5^12 = 130 of it; an update without advantages has a KL that says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

FACTOR, BAND, MOST = 1.5, 2.0, 12
EXPONENT = "rate_exponent"  # of FACTOR, among an engine's counters, which its state keeps


def rate_factor(counters: Mapping[str, int]) -> float:
    """What the schedule's learning rate is multiplied by."""
    return FACTOR ** counters.get(EXPONENT, 0)


def adapt_rate(counters: dict[str, int], kl: float, desired: float) -> None:
    """Choose the factor of the next update by the KL(proximal ‖ current) of this one."""
    exponent = counters.get(EXPONENT, 0) - (kl > BAND * desired) + (kl < desired / BAND)
    counters[EXPONENT] = max(-MOST, min(MOST, exponent))
