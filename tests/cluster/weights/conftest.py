"""One local Ray for the tests of all channels."""

import pytest

from tests.support.local_ray import local_ray


@pytest.fixture(scope="package", autouse=True)
def cluster():
    with local_ray():
        yield
