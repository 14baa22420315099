"""What of a learner rank the host holds where it computes on a GPU, by hand."""

from __future__ import annotations

import pytest

from cluster.placement import learner_memory as account
from cluster.placement.host_memory import offloaded, on_host, pinned
from cluster.placement.learner_memory import moments
from cluster.placement.rank import Rank
from configs.model_folder import ModelSize
from tests.cluster.placement.clusters import N, rank

BF16, OFFLOAD = "model.dtype=bfloat16", "learner.offload=true"


def test_what_is_offloaded_is_on_the_host():
    run, kept = rank(2, BF16, OFFLOAD), rank(2, BF16)
    assert offloaded(kept) == 0
    # Moments; master weights and gradients, the weights as they return, a gradient on its way.
    assert offloaded(run) == 4 * N + 2 * 2**31 + 2**30 + 2**11
    assert offloaded(rank(1, BF16, OFFLOAD)) == offloaded(run)
    assert offloaded(rank(1, OFFLOAD)) == 4 * N + 3 * 2**31 + 2**12
    added_up = rank(2, OFFLOAD)
    assert offloaded(added_up) == 4 * N + 4 * 2**31 + 2**12
    assert "learner gradients" not in account.on_gpu(added_up)["learn"]
    assert "learner gradients" in account.on_gpu(rank(1, OFFLOAD))["learn"]
    # They are added up in float32 where they come, as test_master_weights shows.
    assert account.gradients(run) == account.gradients(kept) == 2 * N
    assert account.on_gpu(kept) == moments(kept)
    step = account.on_gpu(run)["step"]
    assert "learner optimizer" not in step
    assert "step gradients" not in step
    assert step["learner gradients"] == 2 * N
    assert on_host(run) == offloaded(run) + account.state_copy(run)
    none = rank(3, BF16, "learner.checkpoint_minutes=0")
    assert on_host(none) == account.sync(none) > account.exported(none)
    large = Rank(none.cfg, ModelSize({"all": 32 * N}, 2, 8, 100, None))
    assert on_host(large) == account.exported(large) > 4 * N
    whole = rank(2, BF16, "learner.checkpoint_minutes=0")
    assert on_host(whole) == account.loaded(whole) == 2 * N


def test_zero_3_offloads_its_gradients_too_and_keeps_them_twice():
    run = rank(3, BF16, OFFLOAD, "learner.checkpoint_minutes=0")
    # Two moments, master weights, the flat buffer; and the gradients of each 10^8 parameters.
    assert offloaded(run) == (8 + 4) * N // 2 + 2**31 + 5 * 2**29
    few = Rank(run.cfg, ModelSize({"all": 3 * 10**8}, 2, 8, 100, None))
    assert offloaded(few) == 12 * 15 * 10**7 + 2**30 + 2**29 + 2**28
    assert on_host(run) == offloaded(run) + account.sync(run)
    for parts in account.on_gpu(run).values():
        assert not parts.keys() & {"learner optimizer", "learner gradients", "step gradients"}
    assert account.on_gpu(run)["rest"] == {
        "learner weights": N,
        "reference policy": 0,
        "learner buckets": 4 * 10**8,
        "offload buffer": 0,
    }
    on_a_cpu = moments(run)
    assert on_a_cpu["load"]["step gradients"] == on_a_cpu["rest"]["step gradients"] == 2 * N
    assert sum(on_a_cpu["rest"].values()) == (2 + 8 + 4 + 4 + 4) * N // 2 + 4 * 10**8
    assert on_a_cpu["load"] == on_a_cpu["step"] == on_a_cpu["rest"]


@pytest.mark.parametrize(
    ("size", "taken"), [(0, 0), (1, 1), (2**20, 2**20), (2**20 + 1, 2**21), (4 * 10**8, 2**29)]
)
def test_pinned_memory_comes_in_powers_of_two(size, taken):
    assert pinned(size) == taken
