"""What an update takes, by hand."""

import pytest

from benchmarks.simulation.costs import LearnerCosts, PassCosts
from configs.schema import LearnerConfig, PPOConfig, RunConfig


def test_a_pass_is_cut_into_equal_microbatches_and_hides_what_ranks_exchange():
    costs = PassCosts(token_s=0.001, microbatch_s=0.5)
    assert costs.seconds(1000, 2000) == pytest.approx(1.5)
    assert costs.seconds(5000, 2000) == pytest.approx(3 * 0.5 + 5)
    slow = PassCosts(token_s=0.001, microbatch_s=0.5, exchange_s=3.0)
    assert slow.seconds(5000, 2000) == pytest.approx(3 * 3.0)  # longer than 0.5 + 1.67 s
    assert slow.seconds(1, 2000) == pytest.approx(3.0)


def config(**ppo):
    known = {"updates": 9, "episodes": 10, "minibatch": 4, "epochs": 2} | ppo
    return RunConfig(ppo=PPOConfig(**known), learner=LearnerConfig(ranks=2, microbatch_tokens=100))


COSTS = LearnerCosts(
    step=PassCosts(0.01, 0.1),
    score=PassCosts(0.002, 0.05),
    optimizer_s=0.3,
    trajectory_s=0.001,
    own_trajectory_s=0.02,
    fetch_s=0.04,
)


def test_an_update():
    # 1200 tokens on 2 ranks; 3 steps of 200 tokens on a rank, so of 2 microbatches, in 2 epochs
    step = 2 * 0.1 + 200 * 0.01 + 0.3
    score = 6 * 0.05 + 600 * 0.002
    host = 10 * 0.001 + 5 * 0.02
    assert COSTS.update_s(config(), 1200) == pytest.approx(score + 2 * 3 * step + host)
    assert COSTS.before_s(config()) == pytest.approx(5 * 0.04)


def test_an_update_of_one_step_needs_no_scoring():
    cfg = config(minibatch=10, epochs=1, estimator="grpo", group_size=2)
    step = 6 * 0.1 + 600 * 0.01 + 0.3
    assert COSTS.update_s(cfg, 1200) == pytest.approx(step + 0.11)
