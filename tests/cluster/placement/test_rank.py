"""What the account asks of a run: its stage, and its largest tensors."""

import pytest

from configs.model_folder import ModelSize
from tests.cluster.placement.clusters import rank


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_is_the_learners(stage, dtype):
    from learner.deepspeed_config import zero_stage

    run = rank(stage, f"model.dtype={dtype}")
    assert run.stage == zero_stage(run.cfg)


def test_the_largest_tensor_is_a_table_or_a_matrix():
    layer = {"model.layers.0.mlp.up.weight": (30, 20), "model.layers.0.mlp.down.weight": (20, 30)}
    found = [
        rank(3, model=ModelSize({"all": 10**6}, 1, 20, vocabulary, None, layer))
        for vocabulary in (10, 50)
    ]
    assert [run.largest for run in found] == [600, 1000]
    assert [run.widest for run in found] == [600, 600]
    assert rank(3, model=ModelSize({"all": 10**6}, 1, 20, 10, None)).widest == 0
