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
    channel = open_channel(name, config(), ["worker"], None, 1)
    assert isinstance(channel, kind)
    assert channel._rank == 1
    assert getattr(channel, "_name", name) == name


def test_without_engines_nothing_is_sent():
    publishing = open_channel("nccl", config(), [], None, 0).publish(3, engine=None)
    published = publishing()
    assert (published.version, published.bytes, published.seconds) == (3, 0, 0.0)
