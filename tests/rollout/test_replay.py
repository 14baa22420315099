"""Two plays of the same episodes: what counts of them, and how far apart they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout.replay import difference
from tests.support.trajectories import segment, trajectory


def played(shift=0.0, tokens=None, version=0, length=10):
    made = segment([(2, 5), (7, 9)], length)
    if tokens is not None:
        made.token_ids[:] = tokens
    made.behavior_logprobs[made.action_mask] += np.float32(shift)
    made.policy_versions[made.action_mask] = version
    return made


def of(*segments):
    return trajectory("x", segments)


def test_equal_plays_are_equal_in_all_action_tokens():
    assert difference([(of(played()), of(played()))]) == (0.0, 5)


def test_the_difference_is_the_mean_of_all_tokens_of_all_pairs():
    pairs = [(of(played(0.5)), of(played())), (of(played()), of(played(), played(9.0)))]
    assert difference(pairs) == (pytest.approx(0.25), 10)


def test_what_comes_after_the_first_other_token_is_not_compared():
    tokens = played().token_ids.copy()
    tokens[4] += 1
    other = played(3.0, tokens)
    assert difference([(of(played(), played(1.0)), of(other, played()))]) == (pytest.approx(3.0), 2)


def test_tokens_of_another_version_are_not_compared():
    mixed = played(1.0, version=0)
    mixed.policy_versions[7:9] = 1
    assert difference([(of(played()), of(mixed))]) == (pytest.approx(1.0), 3)


def test_a_longer_play_is_compared_as_far_as_the_shorter_one_goes():
    short = played()
    cut = replace(
        short,
        **{
            name: getattr(short, name)[:6]
            for name in ("token_ids", "action_mask", "behavior_logprobs", "policy_versions")
        },
        turns=short.turns[:1],
    )
    assert difference([(of(cut, played(5.0)), of(played(1.0), played()))]) == (1.0, 3)


def test_where_nothing_is_in_common_no_token_is_compared():
    other = played(1.0, played().token_ids + 1)
    assert difference([(of(played()), of(other))]) == (0.0, 0)
    assert difference([(of(played()), of(played(version=1)))]) == (0.0, 0)


@pytest.mark.parametrize("failed", [0, 1])
def test_one_that_failed_is_not_compared(failed):
    pair = [of(played(9.0)), of(played())]
    pair[failed] = replace(pair[failed], end="failed")
    assert difference([tuple(pair)]) is None
    assert difference([tuple(pair), (of(played(0.5)), of(played()))]) == (pytest.approx(0.5), 5)
    assert difference([]) is None
