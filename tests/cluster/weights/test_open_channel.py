"""The channel by its name."""

import pytest

from cluster.weights.device import DeviceChannel
from cluster.weights.object_store import ObjectStoreChannel
from cluster.weights.open_channel import open_channel
from tests.support.learner import config


@pytest.mark.parametrize(
    ("name", "kind"),
    [("object_store", ObjectStoreChannel), ("nccl", DeviceChannel), ("ipc", DeviceChannel)],
)
def test_the_channel_by_its_name(name, kind):
    channel = open_channel(name, config(), [], None, 1)
    assert isinstance(channel, kind)
    assert channel._rank == 1
    assert getattr(channel, "_name", name) == name
