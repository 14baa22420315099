"""A study's primary comparisons are checked against its arms, variants and the measures."""

from __future__ import annotations

from typing import Any

import pytest

from configs.load import ConfigError
from configs.primary import START, Primary, differing, parse_primary
from configs.study import FOLDER, load_study

ARMS, VARIANTS = ["sft", "rl"], ["train", "rule_11_12_13"]
GOOD = {"arm": "rl", "against": "sft", "variant": "rule_11_12_13", "measure": "first_try"}


def test_comparisons_are_typed_and_success_is_the_measure_unless_another_is_named() -> None:
    short = {"arm": "rl", "against": START, "variant": "train"}
    assert parse_primary([GOOD, short], ARMS, VARIANTS) == (
        Primary("rl", "sft", "rule_11_12_13", "first_try"),
        Primary("rl", "start", "train", "success"),
    )
    assert parse_primary(None, ARMS, VARIANTS) == ()
    assert parse_primary([Primary(**GOOD).plain()], ARMS, VARIANTS) == (Primary(**GOOD),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([GOOD | {"arm": "rll"}], "[0].arm=rll: there is no such arm; there are sft, rl (did"),
        ([GOOD | {"arm": "start"}], "[0].arm=start: there is no such arm; there are sft, rl"),
        ([GOOD | {"against": "x"}], "against=x: there is no such arm; there are sft, rl, start"),
        (
            [GOOD, GOOD | {"variant": "rule_11"}],
            "primary[1].variant=rule_11: there is no such variant; there are train, rule_11_12_13",
        ),
        (
            [GOOD | {"measure": "reward"}],
            "measure=reward: there is no such measure; there are success, first_try, recognition, "
            "per_step_accuracy",
        ),
        ([GOOD | {"seed": 1}], "primary[0]: there is no key seed; there are arm, against, variant"),
        ([{"arm": "rl", "against": "sft"}], "must name arm, against and variant"),
        (["rl"], "must name arm, against and variant"),
        ([GOOD | {"against": "rl"}], "primary[0]: compares rl with itself"),
        ([GOOD, GOOD], "primary[1]: is named twice"),
        ([GOOD, GOOD | {"arm": "sft", "against": "rl"}], "primary[1]: is named twice; the other"),
        ({"arm": "rl"}, "must be a list of at most 4 comparisons"),
        ([GOOD] * 5, "must be a list of at most 4 comparisons"),
    ],
)
def test_what_cannot_be_is_one_sentence(given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_primary(given, ARMS, VARIANTS)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_other_demonstrations_are_not_another_task() -> None:
    corrected = {"trajectories": "corrected", "corrected_share": 0.3, "formulas": "any"}
    assert differing({"verify_iter": 3} | corrected, {"verify_iter": 3}, "success") == []
    assert differing({"verify_iter": 3} | corrected, {}, "success") == ["verify_iter"]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_studies_name_three_or_four(file: Any) -> None:
    study = load_study(file)
    assert 3 <= len(study.primary) <= 4
    runs = [study.run(arm, study.seeds[0]) for arm in study.arms]
    tries = max(int(run.env.settings.get("verify_iter", 1)) for run in runs)
    for primary in study.primary:  # tries are compared by their first, or where all have three
        several = tries > 1 and primary.variant != "three_tries"
        assert primary.measure == ("first_try" if several else "success"), primary
