"""The bare loop reads every token once, at positions of its own sequence; rounds are paired."""

import numpy as np
import pytest

from benchmarks.learner_throughput import fill_rows, median_ratio, rates
from learner.batch import Sequence


@pytest.mark.parametrize(("factor", "shape"), [(0, (3, 5)), (1, (2, 5)), (2, (1, 10))])
def test_rows_hold_each_sequence_whole(factor, shape):
    sequences = [
        Sequence(np.arange(n) + 10 * n, np.arange(n) >= n - answer)
        for n, answer in ((5, 2), (3, 1), (2, 1))
    ]
    rows = fill_rows(sequences, factor)
    assert rows.token_ids.shape == rows.position_ids.shape == shape
    tokens, positions = rows.token_ids.flatten(), rows.position_ids.flatten()
    for n in (5, 3, 2):
        begin = tokens.tolist().index(10 * n)
        assert tokens[begin : begin + n].tolist() == [10 * n + i for i in range(n)]
        assert positions[begin : begin + n].tolist() == list(range(n))
    assert tokens[rows.actions].tolist() == [53, 54, 32, 21]


def test_a_round_runs_all_works_and_its_figures_are_compared_with_each_other():
    calls = []
    works = {name: (100, lambda name=name: calls.append(name)) for name in "ab"}
    measured = rates(works, 0.0)
    assert calls == ["a", "b", "a", "b"]  # the first two warm up
    assert [len(values) for values in measured.values()] == [1, 1]
    measured = rates(works, 0.001)
    assert len(measured["a"]) == len(measured["b"]) > 1
    assert calls[6:10] == ["a", "b", "b", "a"]
    assert median_ratio([1.0, 20.0, 9.0], [2.0, 10.0, 9.0]) == 1.0
