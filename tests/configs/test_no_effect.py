"""Keys without effect: refused with the key that they need, and not once it is there."""

import pytest

from configs.contradictions import contradictions
from tests.configs.test_contradictions import config

ONE_STEP = ["ppo.epochs=1", "ppo.episodes=64"]


@pytest.mark.parametrize(
    ("given", "others", "mended", "needs"),
    [
        ("model.lora_alpha=16", [], "model.lora_rank=1", "a model.lora_rank above 0"),
        ("ppo.kl_estimator=k2", [], "ppo.kl_coef=0.1", "a ppo.kl_coef above 0"),
        ("ppo.lam=0.5", ["ppo.gamma=0"], "ppo.gamma=0.1", "a ppo.gamma above 0, by which"),
        ("ppo.value_clip=0.2", ONE_STEP, "ppo.epochs=2", "more than one step in an update"),
        ("ppo.value_clip=0.2", ONE_STEP, "ppo.minibatch=32", "more than one step in an update"),
    ],
)
def test_a_key_without_effect_is_refused_with_what_it_needs(given, others, mended, needs):
    (sentence,) = contradictions(config(given, *others))
    assert sentence.startswith(f"{given} has no use without {needs}")
    assert contradictions(config(given, *others, mended)) == []
    assert contradictions(config(*others)) == [], "the default"
