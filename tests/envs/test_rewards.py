"""Rewards by name: what settings may change, and how."""

import math

import pytest

from envs.rewards import merge_rewards

OWN = {"solved": 5.0, "wrong": -1.0}


def test_what_is_changed_counts_and_the_others_stay():
    merged = merge_rewards(OWN, {"solved": 10}, "Toy.rewards")
    assert merged == {"solved": 10.0, "wrong": -1.0}
    assert type(merged["solved"]) is float
    assert OWN["solved"] == 5.0
    assert merge_rewards(OWN, {}, "Toy.rewards") == OWN


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"solve": 1}, r"Toy\.rewards\.solve: there is no such reward; the nearest is solved"),
        ({"xyz": 1}, r"Toy\.rewards\.xyz: there is no such reward; there are solved, wrong"),
        ({"solved": math.inf}, r"Toy\.rewards\.solved=inf: must be a finite number"),
        ({"wrong": math.nan}, r"Toy\.rewards\.wrong=nan: must be a finite number"),
        ({"wrong": "-1"}, r"Toy\.rewards\.wrong='-1': must be a finite number"),
        ({"wrong": True}, r"Toy\.rewards\.wrong=True: must be a finite number"),
        ({"wrong": None}, r"Toy\.rewards\.wrong=None: must be a finite number"),
    ],
)
def test_what_is_no_reward_is_refused(changed, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        merge_rewards(OWN, changed, "Toy.rewards")
