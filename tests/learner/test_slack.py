"""The slack of few tokens."""

import math

import pytest

from learner.slack import LEAST_TOKENS, slack


def test_the_slack_of_few_tokens_is_a_factor_of_two_that_many_do_not_have():
    assert slack(float(LEAST_TOKENS)) == 2
    assert slack(1e6) == pytest.approx(1.008)
    assert slack(math.inf) == 1
