"""A learner rank without a learner, which reads demonstrations."""

from __future__ import annotations

import ray

from cluster.demonstrations.sft_data import batches, check_object_store


@ray.remote(num_cpus=0)
class Consumer:
    """Reads in one thread: Ray 2.60 never resolves a reference that is dropped in one thread of a
    process while it arrives anew in another, as it would here after a first call's Prefetched.
    """

    def batches(self, rendered, cfg, rank, skip, n):
        check_object_store(rendered)
        stream = batches(rendered, cfg, rank, skip)
        return [[s.token_ids.tolist() for s in next(stream)] for _ in range(n)]
