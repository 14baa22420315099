"""Leaves: a default of their own for every instance, and the metadata that refusals need."""

import dataclasses

from configs.leaf import leaf
from configs.schema import EvalConfig, ModelConfig


def test_mutable_defaults_are_copied():
    first, second = EvalConfig(), EvalConfig()
    first.variants["x"] = {}
    assert second.variants == {"train": {}}
    ModelConfig().lora_targets.append("q_proj")
    assert ModelConfig().lora_targets == []


def test_a_type_makes_the_default_and_rules_are_kept():
    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: EvalConfig = leaf(EvalConfig)
        n: int = leaf(3, "a number", choices=(3, 4), low=1, high=9)

    assert Outer() == Outer(EvalConfig(), 3)
    (_, n) = dataclasses.fields(Outer)
    assert n.metadata == {"doc": "a number", "choices": (3, 4), "low": 1, "high": 9}
