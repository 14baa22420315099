"""How far two computations of the same weights may be apart."""

import pytest

from cluster.workers.parity_limit import parity_limit
from configs.schema import ModelConfig, RunConfig


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_bfloat16_rounds_more(dtype, limit):
    assert parity_limit(RunConfig(model=ModelConfig(dtype=dtype))) == limit
