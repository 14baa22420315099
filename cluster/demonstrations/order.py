"""The order of demonstrations in SFT: shuffled by seed and epoch, every one used.

Input: a number of demonstrations, a seed and a step. Output: the rows of a rank's batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class DemonstrationOrder:
    """An endless stream of row numbers: one permutation of all rows after the other.

    Batches are cut from the stream one after the other, so one may hold the end of an epoch and
    the beginning of the next. A batch does not depend on the number of ranks that share it
    (loss-invariance), nor on where a run was resumed (resume-loses-nothing).

    rows: demonstrations of an epoch, at least one.
    seed: of the run.
    skip: rows of the stream before batch 0: those that an earlier run has trained on.
    """

    def __init__(self, rows: int, seed: int, skip: int = 0) -> None:
        assert rows > 0, "an order needs rows"
        self.rows, self._seed, self._skip = rows, seed, skip
        self._kept: dict[int, Rows] = {}  # permutations of the newest epochs asked for

    def batch(self, number: int, size: int, rank: int = 0, ranks: int = 1) -> Rows:
        """Rows of a rank's share of batch `number`, counted from 0; int64 [≈ size / ranks].

        Args:
            number: of the batch.
            size: rows of a batch, over all ranks.
            rank: whose share.
            ranks: how many share a batch, each taking every `ranks`-th row of it.
        """
        first = self._skip + number * size
        places = np.arange(first + rank, first + size, ranks)
        epochs, within = np.divmod(places, self.rows)
        self._keep(np.unique(epochs).tolist())
        rows = np.empty_like(within)
        for epoch, permutation in self._kept.items():
            here = epochs == epoch
            rows[here] = permutation[within[here]]
        return rows

    def _keep(self, epochs: list[int]) -> None:
        """Hold the permutations of these epochs, and no other."""
        self._kept = {
            epoch: self._kept[epoch] if epoch in self._kept else self._permutation(epoch)
            for epoch in epochs
        }

    def _permutation(self, epoch: int) -> Rows:
        return np.random.default_rng([self._seed, epoch]).permutation(self.rows)
