"""A run on recorded blocks: what it lacks or would ignore is refused, and can be turned off."""

import pytest

from configs.contradictions import contradictions
from configs.recorded import OFF, turned_off
from tests.configs.test_contradictions import config

BLOCKS = ["ppo.blocks=x", "model.path=y"]
IGNORED = {
    "sft.steps": ["sft.steps=9"],
    "eval.every": ["eval.every=2"],
    "eval.start": ["eval.start=runs/a"],
    "learner.keep_best": ["learner.keep_best=train/success"],
    "ppo.dynamic_sampling": ["ppo.dynamic_sampling=2", "ppo.estimator=rloo", "ppo.group_size=2"],
    "ppo.max_staleness": ["ppo.max_staleness=1"],
    "ppo.record": ["ppo.record=true"],
    "cluster.lora_sync": ["cluster.lora_sync=adapters", "model.lora_rank=4"],
}


@pytest.mark.parametrize("key", IGNORED)
def test_a_key_that_blocks_would_ignore_is_refused_with_the_value_that_it_must_have(key):
    cfg = config(*BLOCKS, *IGNORED[key])
    (sentence,) = contradictions(cfg)
    off, why = OFF[key]
    given = IGNORED[key][0]
    assert sentence == f"{given} has no use for ppo.blocks=x, which {why}; it must be {off}"
    assert turned_off(cfg) == [f"{key}={off}"]
    assert contradictions(config(*BLOCKS, *IGNORED[key], *turned_off(cfg))) == []
    assert contradictions(config(*IGNORED[key])) == [], "engines have a use for it"


def test_each_of_them_is_off_by_default():
    assert turned_off(config()) == []
    assert contradictions(config(*BLOCKS, *(f"{key}={off}" for key, (off, _) in OFF.items()))) == []
    assert {*IGNORED, "sft.keep"} == {*OFF}


def test_models_that_sft_keeps_are_turned_off_with_it():
    cfg = config("sft.steps=9", "sft.keep=[3]")
    assert turned_off(cfg) == ["sft.steps=0", "sft.keep=[]"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ppo.blocks=x"], "ppo.blocks=x needs model.path: the folder of the model"),
        (
            [*BLOCKS, "ppo.updates=0"],
            "ppo.blocks=x is what PPO trains on; ppo.updates=0 has no PPO",
        ),
    ],
)
def test_blocks_need_a_model_and_updates(overrides, words):
    (sentence,) = contradictions(config(*overrides))
    assert sentence.startswith(words)
