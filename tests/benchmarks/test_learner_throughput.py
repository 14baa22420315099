"""The bare loop reads every token once, each sequence with positions of its own."""

import numpy as np
import pytest

from benchmarks.learner_throughput import fill_rows
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
