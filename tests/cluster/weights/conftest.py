"""One local Ray for the tests of all channels."""

import os

import pytest
import ray


@pytest.fixture(scope="package", autouse=True)
def cluster():
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=2**27,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}},
    )
    yield
    ray.shutdown()
