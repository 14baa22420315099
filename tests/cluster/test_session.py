"""The Ray session: a run's helpers ask about their actors where the run is, and nowhere else."""

import pytest
import requests
from ray.util.state.exception import RayStateApiException, ServerUnavailable

from cluster.session import NOBODY, _own_cluster


def test_a_cluster_that_was_joined_is_asked_by_its_address():
    assert _own_cluster("10.0.0.1:6379") == {"RAY_ADDRESS": "10.0.0.1:6379"}


def test_beside_a_local_ray_no_other_one_is_asked():
    """Ray Train's cleaner takes this error for 'wait', and another Ray's no for 'dead'."""
    assert _own_cluster(None) == {"RAY_API_SERVER_ADDRESS": NOBODY}
    assert issubclass(ServerUnavailable, RayStateApiException)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(NOBODY, timeout=5)
