"""The order of demonstrations: a permutation an epoch, the same however it is read."""

from itertools import islice

import numpy as np
import pytest

from cluster.demonstrations.order import DemonstrationOrder


def stream(order, size, batches, first=0, ranks=1):
    """Rows of some batches, put together from the ranks' shares."""
    rows = []
    for number in range(first, first + batches):
        batch = np.full(size, -1)
        for rank in range(ranks):
            batch[rank::ranks] = order.batch(number, size, rank, ranks)
        rows += batch.tolist()
    return rows


def epochs(rows, n):
    full = iter(rows)
    return [list(islice(full, n)) for _ in range(len(rows) // n)]


@pytest.mark.parametrize(("n", "size"), [(10, 4), (10, 10), (7, 1), (3, 8), (1, 5), (100, 32)])
def test_every_epoch_has_every_row_once(n, size):
    rows = stream(DemonstrationOrder(n, 5), size, -(-6 * n // size))
    passes = epochs(rows, n)
    assert len(passes) >= 6
    for epoch in passes:
        assert sorted(epoch) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        tuple(epoch)
        for seed in range(5)
        for epoch in epochs(stream(DemonstrationOrder(30, seed), 30, 5), 30)
    ]
    assert len(set(orders)) == 25
    assert tuple(range(30)) not in orders


def test_the_order_is_that_of_the_published_runs():
    """Resuming with another order would train on some demonstrations twice."""
    assert stream(DemonstrationOrder(6, 3), 6, 2) == [
        *np.random.default_rng([3, 0]).permutation(6),
        *np.random.default_rng([3, 1]).permutation(6),
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4, 12])
def test_a_batch_does_not_depend_on_the_number_of_ranks(ranks):
    alone, shared = DemonstrationOrder(17, 1), DemonstrationOrder(17, 1)
    assert stream(shared, 12, 9, ranks=ranks) == stream(alone, 12, 9)


@pytest.mark.parametrize("skip", [1, 2, 7, 40])
def test_a_resumed_order_goes_on_where_it_was(skip):
    whole = stream(DemonstrationOrder(11, 1), 6, skip + 8)
    assert stream(DemonstrationOrder(11, 1), 6, 8, first=skip) == whole[6 * skip :]


def test_an_epoch_is_drawn_once_and_not_kept_for_ever(monkeypatch):
    order, drawn = DemonstrationOrder(10, 0), []
    draw = DemonstrationOrder._permutation
    monkeypatch.setattr(
        DemonstrationOrder, "_permutation", lambda self, e: drawn.append(e) or draw(self, e)
    )
    stream(order, 4, 25)
    assert drawn == list(range(10))
    assert list(order._kept) == [9]


def test_without_rows_there_is_no_order():
    with pytest.raises(AssertionError, match="needs rows"):
        DemonstrationOrder(0, 1)
