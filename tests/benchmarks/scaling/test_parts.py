"""Fits find the coefficients that made the data, and parts become the costs of a run."""

import dataclasses

import pytest

from benchmarks.scaling.measure_engine import WAVES, Wave, fit
from benchmarks.scaling.measure_host import split
from benchmarks.scaling.parts import HostCosts, Parts, non_negative_fit
from benchmarks.simulation.costs import EngineCosts, PassCosts
from configs.load import load

PARTS = Parts(
    engine=EngineCosts(step_s=0.001, sequence_s=1e-4, request_s=2e-4, threads=1.5),
    step=PassCosts(1e-5, 0.002),
    score=PassCosts(3e-6, 0.001),
    optimizer_s=0.004,
    load_s=0.04,
    weights_bytes=4_000_000,
    host=HostCosts(1e-6, 2e-5, 3e-5, 1e-3, 2e-4, 5e-4, 1e-9),
)

ROWS = [
    {
        "name": "engine",
        "engine": dataclasses.asdict(PARTS.engine),
        "load_s": 0.04,
        "weights_bytes": 4_000_000,
        "put_byte_s": 1e-9,
        "lengths": [[7, 16]],
    },
    {
        "name": "learner",
        "step": dataclasses.asdict(PARTS.step),
        "score": dataclasses.asdict(PARTS.score),
        "optimizer_s": 0.004,
        "trajectory_s": 1e-6,
        "own_trajectory_s": 2e-5,
        "fetch_s": 3e-5,
    },
    {"name": "buffer", "block_s": 1e-3, "buffered_s": 2e-4, "call_s": 5e-4},
]


def test_a_fit_finds_what_made_the_data():
    columns = [[1, 1, 1, 1], [1, 2, 4, 8], [10, 3, 700, 20]]
    measured = [0.5 + 0.25 * b + 0.001 * c for _, b, c in zip(*columns, strict=True)]
    assert non_negative_fit(columns, measured) == pytest.approx([0.5, 0.25, 0.001])


def test_what_would_be_negative_is_left_out():
    columns = [[1, 1, 1], [1, 2, 3]]
    constant, slope = non_negative_fit(columns, [3.0, 2.0, 1.5])
    assert slope == 0.0
    assert constant == pytest.approx(2.0, rel=0.1)  # relative errors count alike: below the mean
    assert constant < (3.0 + 2.0 + 1.5) / 3


def test_waves_of_known_costs_give_these_costs():
    waves = [
        Wave(2 * n, n, answer, 99.0, 1.5 * (2 * n * 2e-4 + 2 * answer * (1e-3 + n * 1e-4)))
        for n, answer in WAVES
    ]
    costs = fit(waves, 1.5)
    assert (costs.request_s, costs.step_s, costs.sequence_s) == pytest.approx((2e-4, 1e-3, 1e-4))
    assert costs.threads == 1.5


def test_a_block_and_a_trajectory_are_told_apart_by_two_sizes_of_block():
    costs = [0.0003 + 0.002 / size for size in (2, 16)]
    assert split(costs, (2, 16)) == pytest.approx((0.002, 0.0003))
    assert split([0.0001, 0.0003], (2, 16)) == (0.0, 0.0003)


def test_parts_are_put_together_from_what_each_measurement_gave():
    assert Parts.of(ROWS) == PARTS
    with pytest.raises(ValueError, match="not enough values"):
        Parts.of(ROWS[:2])


def test_a_run_of_these_parts():
    cfg = load("gp_l", ["rollout.workers=2", "learner.ranks=2"])
    costs = PARTS.costs(cfg, 7.25, 15.0, 1.7)
    turns = [costs.workload(seed)[0] for seed in range(4000)]
    assert sum(turn.prompt for turn in turns) / 4000 == pytest.approx(7.25, abs=0.01)
    assert {turn.answer for turn in turns} == {15}
    assert (costs.cores, costs.engines_of_a_node, costs.learner.threads) == (1.7, 2, 2)
    assert costs.sync.sent_s == pytest.approx(0.004)
    assert costs.sync.load_s == 0.04
    assert costs.learner.own_trajectory_s == pytest.approx(5e-5)  # it packs in its update
    assert costs.learner.fetch_s == 0.0
    ahead = dataclasses.replace(cfg, ppo=dataclasses.replace(cfg.ppo, max_staleness=1))
    learner = PARTS.costs(ahead, 7.25, 15.0, 1.7).learner
    assert (learner.own_trajectory_s, learner.fetch_s) == (2e-5, 3e-5)
