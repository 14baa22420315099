"""Where Ray keeps a small result: in the heap of a caller that others borrow from it would stay."""

import pytest
import ray

from cluster.placement.ray_options import IN_OBJECT_STORE
from tests.support.ray_actors import Small

pytestmark = pytest.mark.usefixtures("local_ray")


def nodes_of_a_result(**options):
    ref = Small.options(**options).remote().block.remote()
    ray.wait([ref], timeout=300)
    return ray.experimental.get_object_locations([ref])[ref]["node_ids"]


def test_blocks_are_in_the_object_store_however_small():
    assert nodes_of_a_result(runtime_env=IN_OBJECT_STORE)
    assert not nodes_of_a_result(), "Ray's own way, against which the option is"
