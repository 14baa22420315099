"""Which worker gets the next episode: the one with fewest, of those with room and fit weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace

Versions = Sequence[int | None]  # policy version of each worker's engine; None: it does not serve


class Places:
    """Room for episodes at the workers that serve, while episodes are given out and none ends.

    Args:
        versions: of all workers.
        capacity: most episodes of a worker.
        most: training episodes at once, of all workers together.
        load: episodes by worker; whoever gives them out counts them there.
    """

    def __init__(
        self, versions: Versions, capacity: int, most: int, load: Mapping[int, int]
    ) -> None:
        self._serving = {worker: v for worker, v in enumerate(versions) if v is not None}
        self.newest = max(self._serving.values(), default=-1)
        self._oldest = min(self._serving.values(), default=-1)
        self._capacity, self._load = capacity, load
        # Weights travel: the first engine that has them leaves the others their part.
        self._part = min(capacity, -(-most // max(1, len(self._serving))))
        self._by_load: dict[int | None, list[tuple[int, int]]] = {}  # heaps, by oldest version

    def least_loaded(self, oldest: int | None) -> int | None:
        """The worker with fewest episodes, of those with room and weights of that version or newer.

        None: there is no such worker.
        """
        heap = self._by_load.get(oldest)
        if heap is None:
            versions = self._serving.items()
            heap = [(self._load[w], w) for w, v in versions if oldest is None or v >= oldest]
            heapify(heap)
            self._by_load[oldest] = heap
        while heap and heap[0][0] < self._load[heap[0][1]]:  # it was given some since
            heapreplace(heap, (self._load[heap[0][1]], heap[0][1]))
        waiting = oldest is not None and self._oldest < oldest
        capacity = self._part if waiting else self._capacity
        return heap[0][1] if heap and heap[0][0] < capacity else None
