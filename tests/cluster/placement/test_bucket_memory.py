"""What DeepSpeed holds of gradients and weights on their way: by hand, and by its sources."""

import pytest

from cluster.placement import bucket_memory as account
from cluster.placement.learner_memory import moments
from configs.model_folder import ModelSize
from tests.cluster.placement.clusters import N, rank

BF16, OFFLOAD, ADAPTERS = "model.dtype=bfloat16", "learner.offload=true", "model.lora_rank=4"
MILLION = 10**6
TABLE = 800 * MILLION  # of an output layer, which no bucket holds
FEW = ModelSize({"all": MILLION}, 2, 8, 100, None)
LAYER = {"model.layers.0.mlp.up_proj.weight": (6000, 10_000)}
WIDE = ModelSize({"all": 10 * N}, 2, 4000, 200_000, None, LAYER)


def test_zero_3_has_live_weights_and_those_that_arrive():
    wide, fine = rank(3, BF16, model=WIDE), rank(3, BF16)
    assert account.gathered(fine) == 2 * (150 * MILLION + 2 * 800)
    assert account.gathered(wide) == 2 * (150 * MILLION + 2 * TABLE)
    assert account.gathered(rank(3, model=WIDE)) == 2 * account.gathered(wide)
    assert account.gathered(rank(3, BF16, model=FEW)) == 2 * 2 * MILLION  # live, and arrived
    assert account.gathered(rank(2, BF16)) == account.gathered(rank(3, BF16, ranks=1)) == 0


@pytest.mark.parametrize(
    ("keys", "ranks", "held", "copied"),
    [  # bytes an element: of the bucket, and of copies of it
        ((1,), 2, 4, 4),
        ((2,), 2, 4, 4),
        ((2,), 1, 4, 0),  # the bucket is one part
        ((2, BF16), 2, 2, 2 + 4),
        ((2, BF16), 1, 2, 2 + 4),  # each tensor is a part
        ((1, BF16, OFFLOAD), 2, 4, 4),
        ((1, BF16, OFFLOAD), 1, 4, 4),
        ((3,), 2, 4, 4),
        ((3,), 1, 4, 4),
        ((3, BF16), 2, 4, 4),
    ],
)
def test_a_bucket_is_copied_before_it_is_reduced(keys, ranks, held, copied):
    run, few = (rank(*keys, ranks=ranks, **model) for model in ({}, {"model": FEW}))
    assert (account.bucket(run), account.copies(run)) == (held * 10**8, copied * 10**8)
    assert (account.bucket(few), account.copies(few)) == (held * MILLION, copied * MILLION)


def test_gradients_that_are_not_partitioned_are_reduced_in_larger_parts():
    for run in (rank(0), rank(1, BF16), rank(1, BF16, ranks=1)):
        assert (account.bucket(run), account.copies(run)) == (0, 4 * (500 * MILLION + 800))
    assert account.copies(rank(0, model=WIDE)) == 4 * (500 * MILLION + TABLE)
    assert account.copies(rank(0, model=FEW)) == 4 * MILLION
    assert account.copies(rank(0, ranks=1)) == account.copies(rank(0, BF16, ranks=1)) == 0


def test_the_output_layers_gradient_is_larger_than_a_bucket():
    others = 2 * (150 * MILLION + 2 * 60 * MILLION)  # gathered meanwhile
    key = "sft.batch_size=192"
    zero_3 = {
        n: account.largest_gradient(rank(3, BF16, key, model=WIDE, ranks=n)) for n in (1, 2, 3)
    }
    assert zero_3[1] == (2 + 4) * TABLE  # nothing is gathered
    assert zero_3[2] == (2 + 4) * TABLE + others
    assert zero_3[3] == (2 + 4 + 4) * TABLE + others  # three do not divide it
    assert account.largest_gradient(rank(3, model=WIDE)) == 4 * 3 * TABLE  # with its weight
    float32 = rank(3, key, model=WIDE, ranks=3)
    assert account.largest_gradient(float32) == 4 * 3 * TABLE  # it is float32 already
    part = 100 * MILLION + 10 * N // 32
    assert account.largest_gradient(rank(2, BF16, model=WIDE, ranks=32)) == 2 * TABLE + 6 * part
    assert account.largest_gradient(rank(2, BF16, model=WIDE)) == (2 + 6) * TABLE
    assert account.largest_gradient(rank(2, model=WIDE, ranks=1)) == 4 * 2 * TABLE


def test_it_is_counted_once_where_all_gradients_are_there():
    assert account.largest_gradient(rank(0, model=WIDE)) == 0
    assert account.largest_gradient(rank(1, model=WIDE)) == 0
    assert account.largest_gradient(rank(1, BF16, model=WIDE)) == 2 * 2 * TABLE  # beside float32
    assert account.largest_gradient(rank(3, BF16)) == 2 * 3 * 800
    assert account.largest_gradient(rank(2, BF16)) == 2 * 2 * 800
    assert account.largest_gradient(rank(3, BF16, ADAPTERS, model=WIDE)) == 0


def test_what_is_sent_counts_at_the_moment_when_a_rank_needs_most():
    parts = moments(rank(3, BF16, "learner.microbatch_tokens=64", model=WIDE, ranks=32))
    sums = {moment: sum(each.values()) for moment, each in parts.items()}
    assert max(sums, key=sums.get) == "output layer"


def test_the_constants_are_deepspeeds():
    from deepspeed.runtime.engine import MEMORY_OPT_ALLREDUCE_SIZE
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from torch import distributed

    from learner.deepspeed_config import deepspeed_config

    cfg = rank(3).cfg
    for stage in (2, 3):
        settings = deepspeed_config(cfg, cfg.sft.optimizer, stage)["zero_optimization"]
        zero = DeepSpeedZeroConfig(**settings)
        assert zero.reduce_bucket_size == zero.max_live_parameters == account.AT_ONCE
        assert zero.prefetch_bucket_size == account.PREFETCH
        assert zero.contiguous_gradients
        assert zero.reduce_scatter
        assert zero.overlap_comm is (stage == 3)  # else there are two buckets
    assert account.ALLREDUCE_AT_ONCE == MEMORY_OPT_ALLREDUCE_SIZE
    assert hasattr(distributed, "all_gather_into_tensor")  # without allgather_bucket_size
