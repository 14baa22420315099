"""Where nodes come from: addresses that do not answer, and another side's versions."""

import platform
import socket
import threading
import time

import pytest
import ray

from cluster.placement.nodes import address_of, live, machine, reachable, same_versions, within
from configs.load import ConfigError


def refused(call, *arguments):
    begin = time.monotonic()
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    assert time.monotonic() - begin < 10
    assert "\n" not in str(error.value)
    return str(error.value)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_an_unreachable_address():
    for address in (f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"):
        assert refused(live, address).startswith(f"cluster.address={address}: nothing answers")


def test_somebody_else_listens_there():
    """A port that is open and says nothing: Ray's own client would wait for 40 s."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = refused(live, f"127.0.0.1:{server.getsockname()[1]}")
    assert "no Ray answers" in said


def test_what_is_no_address():
    assert "Ray Client cannot carry a run" in refused(reachable, "ray://head:10001")
    assert "must be host:port" in refused(reachable, "head")
    assert "cluster.address=head:x" in refused(reachable, "head:x")


def test_another_ray_or_python():
    mine = (ray.__version__, platform.python_version())
    same_versions("head:6379", *mine)
    said = refused(same_versions, "head:6379", "2.9.3", mine[1])
    assert said == (
        f"cluster.address=head:6379: the cluster runs Ray 2.9.3 and this side Ray {mine[0]}; "
        "they must be equal"
    )
    said = refused(same_versions, "head:6379", mine[0], "3.10.2")
    assert f"the cluster runs Python 3.10.2 and this side Python {mine[1]}" in said
    patched = f"{mine[1].rpartition('.')[0]}.99"  # a job runs in the cluster's own Python
    same_versions("http://head:8265", mine[0], patched)
    assert f"runs Python {patched}" in refused(same_versions, "head:6379", mine[0], patched)


def test_the_address_comes_from_the_key_or_the_job(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of(None) is None
    assert address_of("a:1") == "a:1"
    assert address_of("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "b:2")
    assert address_of(None) == "b:2"
    assert address_of("a:1") == "a:1"


def test_this_machine_offers_what_the_run_asks_for():
    one = machine(17.5, 2**30)
    assert one.total["CPU"] >= 18
    assert one.free["memory"] == 2**30


def test_a_call_that_hangs_is_given_up():
    release = threading.Event()
    begin = time.monotonic()
    assert "it hangs (nothing came within 0.2 s)" in refused(within, 0.2, release.wait, "it hangs")
    assert time.monotonic() - begin < 5
    release.set()
    assert within(5, lambda: 3, "never") == 3
