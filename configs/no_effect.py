"""Keys that others leave without effect: a value of one's own is refused, the default is not.

Not where a shipped configuration sets the key, to be used once the other key is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from configs.schema import RunConfig

DEFAULTS = RunConfig()


def keys_without_effect(cfg: RunConfig) -> Iterator[str]:
    """A sentence for each."""
    ppo = cfg.ppo
    one_step = ppo.epochs == 1 and ppo.minibatch == ppo.episodes
    for key, used, where in (
        ("model.lora_alpha", cfg.model.lora_rank > 0, "a model.lora_rank above 0"),
        ("ppo.kl_estimator", ppo.kl_coef > 0, "a ppo.kl_coef above 0"),
        ("ppo.lam", ppo.gamma > 0, "a ppo.gamma above 0, by which it is multiplied"),
        (
            "ppo.value_clip",
            not one_step,
            "more than one step in an update, before which no value has moved",
        ),
    ):
        value = attrgetter(key)(cfg)
        if not used and value != attrgetter(key)(DEFAULTS):
            yield f"{key}={value} has no use without {where}"
