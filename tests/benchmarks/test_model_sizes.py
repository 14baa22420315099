"""The table of docs/cluster.md is what the estimate of `cardinal check` says."""

import pytest

from benchmarks import model_sizes
from tests.end_to_end.test_train import ROOT


def test_parameters_are_those_of_the_shape():
    small = model_sizes.size(model_sizes.SHAPES["0.5B"])
    assert sum(small.parameters.values()) == 494_147_456  # the published 494 M, vocabulary rounded
    assert (small.layers, small.hidden) == (24, 896)


def test_larger_models_want_more_and_larger_gpus_fewer():
    small, large = (model_sizes.size(model_sizes.SHAPES[name]) for name in ("0.5B", "7B"))
    assert model_sizes.least(small, 24.0) == (1, 1)
    assert model_sizes.least(large, 24.0) > model_sizes.least(large, 80.0)
    assert model_sizes.least(large, 1.0)[0] == 0  # not even on 64
    full = (
        "learner.zero_stage=0",
        "model.dtype=float32",
    )  # every rank holds everything: more ranks do not help
    assert model_sizes.least(large, 80.0, full)[0] == 0


@pytest.mark.slow
def test_the_table_in_the_docs_is_up_to_date():
    assert model_sizes.table(model_sizes.rows()) in (ROOT / "docs" / "cluster.md").read_text()
