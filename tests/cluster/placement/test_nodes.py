"""Where nodes come from: addresses that do not answer, and another side's versions."""

import platform
import socket
import threading
import time
from dataclasses import replace

import pytest
import ray

from cluster.failures import ClusterBusyError, PlacementError
from cluster.placement import nodes
from cluster.placement.nodes import (
    address_of,
    live_nodes,
    local_node,
    plan_live,
    reachable,
    same_versions,
    visible_gpus,
    with_deadline,
)
from cluster.placement.types import Needs, Node
from configs.load import ConfigError
from tests.cluster.placement.clusters import debug, node


def refused(call, *arguments):
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unreachable_address():
    with socket.socket() as silent:  # which does not listen
        silent.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{silent.getsockname()[1]}"
        for address in (there, f"http://{there}"):
            assert refused(live_nodes, address).startswith(
                f"cluster.address={address}: nothing answers"
            )


def test_somebody_else_listens_there(monkeypatch):
    """A port that is open and says nothing: Ray's own client would wait for 40 s."""
    assert nodes.CONNECT_S + nodes.ANSWER_S <= 10
    monkeypatch.setattr(nodes, "ANSWER_S", 1.0)
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = refused(live_nodes, f"127.0.0.1:{server.getsockname()[1]}")
    assert time.monotonic() - begin < 35
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
    one = local_node(17.5, 2**30)
    assert one.total["CPU"] >= 18
    assert one.free["memory"] == 2**30


def test_the_gpus_of_this_machine_are_asked_for_their_memory(monkeypatch, gpus):
    monkeypatch.setattr(nodes, "smallest_card", lambda count: count * 2**30)
    gpus("1,3")
    assert local_node(1, 1).card == 2 * 2**30
    gpus("")
    assert local_node(1, 1).card is None


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """see(named): CUDA_VISIBLE_DEVICES on a machine with four GPUs."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(nodes, "DEVICES", tmp_path)

    def see(named):
        if named is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    return see


@pytest.mark.parametrize(
    ("named", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("2", 1), ("0, 3", 2), ("GPU-8a,GPU-8b", 2), ("MIG-1", 1)],
)
def test_only_the_gpus_that_the_user_leaves_visible_count(gpus, named, count):
    gpus(named)
    assert visible_gpus() == count
    assert local_node(1, 1).total["GPU"] == count


@pytest.mark.parametrize("named", ["4", "0,4", "1,1", "0,-1", "GPU-8a,GPU-8a"])
def test_gpus_that_are_not_there_are_refused(gpus, named):
    gpus(named)
    words = refused(visible_gpus)
    assert f"CUDA_VISIBLE_DEVICES={named}: must name GPUs of this machine, which has 4" in words


def test_without_gpus_the_variable_does_not_matter(monkeypatch, tmp_path, gpus):
    monkeypatch.setattr(nodes, "DEVICES", tmp_path / "none")
    gpus("0,7")
    assert visible_gpus() == 0


def test_a_call_that_hangs_is_given_up():
    release = threading.Event()
    assert "it hangs (nothing came within 0.2 s)" in refused(
        with_deadline, 0.2, release.wait, "it hangs"
    )
    release.set()
    assert with_deadline(120, lambda: 3, "never") == 3


def test_a_busy_cluster_is_asked_again_for_a_while(monkeypatch):
    """What ended a moment ago still counts there."""
    answers = [[node("a", 4, free={"CPU": 0.0})], [node("a", 4)]]
    asked = []

    def live(address):
        asked.append(address)
        return answers[min(len(asked), 2) - 1]

    monkeypatch.setattr(nodes, "live_nodes", live)
    monkeypatch.setattr(nodes, "SETTLE_S", 300.0)
    cfg = debug()
    assert plan_live(cfg, "head:1", lambda found: Needs()).hosts() == answers[1]
    assert asked == ["head:1"] * 2
    monkeypatch.setattr(nodes, "SETTLE_S", 0.0)
    answers[1] = answers[0]
    with pytest.raises(ClusterBusyError):
        plan_live(cfg, "head:1", lambda found: Needs())
    asked.clear()
    with pytest.raises(PlacementError, match=r"learner\.ranks"):
        plan_live(debug("learner.ranks=8"), "head:1", lambda found: Needs())
    assert len(asked) == 1


def test_a_plan_is_made_for_nodes_whose_gpus_were_asked(monkeypatch):
    monkeypatch.setattr(nodes, "live_nodes", lambda address: [node("a", 8, 2, "H100")])

    def needs(found):
        return Needs(rank_gpu=max(n.card or 0 for n in found))

    def measured(found):
        return [replace(n, card=2**34) for n in found]

    assert plan_live(debug(), "head:1", needs).nodes[0].card is None
    with pytest.raises(PlacementError, match=r"17\.8 GiB of GPU memory, .* a \(H100\), has 16\.0"):
        plan_live(debug(), "head:1", needs, measured=measured)


def test_nodes_of_one_address_are_told_apart():
    shared = [Node(f"{i}abcdef", "10.0.0.1", {}, {}) for i in range(2)]
    names = [n.name for n in nodes._distinct_names([*shared, Node("x", "10.0.0.2", {}, {})])]
    assert names == ["10.0.0.1/0abc", "10.0.0.1/1abc", "10.0.0.2"]


def test_the_type_of_a_nodes_gpus():
    assert nodes._accelerator({"GPU": 1.0, "accelerator_type:L4": 1.0}, {}) == "L4"
    assert nodes._accelerator({"GPU": 1.0}, {"ray.io/accelerator-type": "H100"}) == "H100"
    assert nodes._accelerator({"CPU": 1.0}, {}) is None
