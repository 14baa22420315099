"""What this machine must give a run: places to write to, and room in them."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from types import SimpleNamespace

import pytest

from cluster.failures import InUseError, PlacementError
from cluster.placement.memory import card_bytes, disk_bytes, machine_bytes, memory_bytes
from cluster.preflight import machine
from cluster.preflight.machine import (
    CACHES,
    check_gpus,
    check_open_files,
    check_places,
    check_room,
    plan_here,
)
from configs.load import ConfigError, load
from configs.model_folder import ModelSize

GIB = 2**30
STORE = {"cluster.object_store_gib": 1, "cluster.sync_bucket_mib": 256, "rollout.workers": 2}
MODEL = ModelSize({"layers": GIB // 4}, layers=1, hidden=8, vocabulary=9, positions=None)  # 1 GiB


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A machine where all is well: run(…) checks its places."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_TMPDIR", "TMPDIR", *CACHES):
        monkeypatch.delenv(name, raising=False)
    return lambda root=tmp_path: check_places(load("gp_l_debug", [f"cluster.root={root}"]))


def refused(call, *words):
    with pytest.raises(ConfigError) as error:
        call()
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_left_where_all_may_be_written(home, tmp_path):
    home()
    home(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["/proc/x", "/proc/x/y", "FILE/x"])
def test_a_root_that_cannot_be_written_is_named(home, tmp_path, root):
    (tmp_path / "file").write_text("")
    root = root.replace("FILE", str(tmp_path / "file"))
    refused(lambda: home(root), f"cluster.root={root}: cannot be written to: ", "this user may")


@pytest.mark.parametrize("name", ["HOME", "TMPDIR", "RAY_TMPDIR", *CACHES])
def test_a_variables_place_that_cannot_be_written_is_named(home, monkeypatch, name):
    monkeypatch.setenv(name, "/proc")
    refused(home, f"{name}=/proc: cannot be written to: ", "it must be a folder that this user")


def test_a_home_that_is_not_there_is_named(home, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    refused(home, f"HOME={tmp_path}/gone: there is no such folder")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(machine.Path, "home", lambda: tmp_path / "gone")
    refused(home, f"HOME is not set, and the user's is {tmp_path}/gone: there is no such folder")
    monkeypatch.setattr(machine.Path, "home", lambda: machine.Path("/proc"))
    refused(home, "HOME is not set, and the user's is /proc: cannot be written to")

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(machine.Path, "home", nobody)
    refused(home, "HOME is not set, and this user has no home folder; it must be")


def test_places_below_a_closed_folder_are_named(home, monkeypatch, tmp_path):
    """As it is for a user who may not enter it; the tests may run as root, who may."""
    closed = tmp_path / "closed"
    stat = machine.Path.stat

    def enter(path, **options):
        if closed in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(machine.Path, "stat", enter)
    monkeypatch.setattr(machine.os.path, "exists", lambda path: bool(enter(machine.Path(path))))
    because = "cannot be written to: Permission denied; it must be a folder that this user"
    refused(lambda: home(closed / "in"), f"cluster.root={closed}/in: {because}")
    monkeypatch.setenv("HOME", f"{closed}/home")
    refused(home, f"HOME={closed}/home: {because}")


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_ray_cannot_use_is_named(home, monkeypatch, tmp_path, name):
    short = tempfile.mkdtemp(prefix="ü", dir="/tmp")
    os.rmdir(short)  # its letters are what is wrong, before it is looked for
    for place in (short, tmp_path / ("a" * 60)):
        monkeypatch.setenv(name, str(place))
        refused(home, f"{name}={place}: Ray puts sockets there", "set RAY_TMPDIR to another")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    home()


@pytest.mark.parametrize("name", ["HOME", "TMPDIR", "RAY_TMPDIR", *CACHES])
def test_a_relative_place_is_another_for_each_process(home, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv(name, "here")
    refused(home, f"{name}=here: is a relative path; it must begin with /")


def test_the_length_of_a_temporary_folder_is_that_of_rays_sockets():
    """Ray's own names, at their longest."""
    session = "session_2026-11-26_00-45-17_590026_4194304"
    assert len(f"/ray/{session}/sockets/plasma_store") <= len(machine.SOCKET)


def room(monkeypatch, disk=1000, shared=1000, total=1000, local=True, **changed):
    def usage(place):
        shm = place == machine.SHARED_MEMORY
        return SimpleNamespace(free=(shared if shm else disk) * GIB, total=total * GIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    keys = {"model.path": "x", "sft.steps": 40, "ppo.updates": 0, "ppo.kl_coef": 0}
    keys |= {"learner.checkpoint_minutes": 0} | changed
    cfg = load("gp_l_debug", [f"{key}={value}" for key, value in keys.items()])
    check_room(cfg, MODEL, local)


def test_checkpoints_need_their_room_on_disk(monkeypatch):
    room(monkeypatch, disk=1, **{"learner.checkpoint_every": 0})
    states = {"learner.checkpoint_every": 10, "learner.keep_checkpoints": 2}
    words = "13.00", "10.00 GiB", "3 resumable states 9.00", "1 models 1.00", "8.0 GiB free"
    with pytest.raises(ConfigError) as error:
        room(monkeypatch, disk=8, **states)
    assert all(word in str(error.value) for word in words[1:]), error.value
    assert "lower learner.keep_checkpoints or sft.keep" in str(error.value)
    room(monkeypatch, disk=10, **states)


@pytest.mark.parametrize(
    ("changed", "states", "models"),
    [
        ({"learner.checkpoint_every": 0}, 0, 1),
        ({"learner.checkpoint_every": 41}, 0, 1),
        ({"learner.checkpoint_every": 40, "learner.keep_checkpoints": 9}, 1, 1),
        ({"ppo.updates": 8, "sft.keep": "[1,2]"}, 0, 4),
        ({"model.path": "null"}, 0, 2),
        ({"learner.checkpoint_every": 1, "model.dtype": "bfloat16"}, 3 * 14 / 12, 0.5),
        ({"learner.checkpoint_minutes": 1}, 3, 1),
        ({"learner.checkpoint_minutes": 1, "sft.steps": 2}, 2, 1),
        ({"learner.checkpoint_minutes": 1, "learner.checkpoint_root": "/away"}, 0, 1),
        ({"learner.keep_best": "train/success"}, 0, 3),
    ],
)
def test_what_a_run_writes(changed, states, models):
    keys = {"model.path": "x", "sft.steps": 40, "ppo.updates": 0, "learner.checkpoint_minutes": 0}
    cfg = load("gp_l_debug", [f"{key}={value}" for key, value in (keys | changed).items()])
    written = list(disk_bytes(cfg, MODEL).values())
    assert written == pytest.approx([states * 3 * GIB, models * GIB])


def test_docker_shared_memory_is_refused_with_its_option(monkeypatch):
    monkeypatch.delenv(machine.SLOW_STORE, raising=False)
    words = (
        "/dev/shm has 0.06 GiB free, and the run needs 1.25 GiB (weight bucket 0.25, object "
        "store 1.00); in Docker give `--shm-size=2g`"
    )
    refused(lambda: room(monkeypatch, shared=1 / 16, **STORE), words)
    refused(lambda: room(monkeypatch, shared=1.24, **STORE), "object store 1.00")
    room(monkeypatch, shared=1.25, **STORE)
    room(monkeypatch, shared=1 / 16, local=False, **STORE)  # the cluster's own is not here
    monkeypatch.setenv(machine.SLOW_STORE, "1")
    room(monkeypatch, shared=0.25, **STORE)
    refused(lambda: room(monkeypatch, shared=0.24, **STORE), "the run needs 0.25 GiB")


def test_a_small_model_needs_no_more_than_itself(monkeypatch):
    monkeypatch.setenv(machine.SLOW_STORE, "1")
    room(monkeypatch, shared=1, **{"cluster.sync_bucket_mib": 4096, "rollout.workers": 1})


def test_a_machine_without_shared_memory_is_not_asked_for_any(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    room(monkeypatch, shared=0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["TMPDIR", "TORCHINDUCTOR_CACHE_DIR"])
def test_a_blank_in_a_path_of_the_compiler_is_named(home, tmp_path, monkeypatch, name):
    """g++ says `input file '/tmp/my' is the same as output file` after two minutes."""
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # whose sockets need a short path
    for place in (tmp_path / "my folder", tmp_path / "my"):
        place.mkdir()
        monkeypatch.setenv(name, str(place))
        if " " in place.name:
            refused(home, f"{name}={place}: holds a blank")
        else:
            home()


@pytest.mark.parametrize(
    ("limit", "processes", "need"),
    [(287, (1, 1), 288), (288, (1, 1), None), (400, (2, 8), 416), (-1, (64, 8), None)],
)
def test_a_limit_on_open_files_that_ray_would_die_of(monkeypatch, limit, processes, need):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (16, limit))  # Ray raises the first
    keys = [f"rollout.workers={processes[0]}", f"learner.ranks={processes[1]}"]
    cfg = load("gp_l_debug", keys)
    if need is None:
        check_open_files(cfg)
    else:
        words = f"ulimit -Hn is {limit}: a process may open no more files, and a run of {keys[0]}"
        refused(lambda: check_open_files(cfg), words, f"{keys[1]} needs {need}; raise it")


def test_gpus_that_are_needed_are_there(monkeypatch):
    colocated = load("gp_l_debug", ["cluster.layout=colocated"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    refused(lambda: check_gpus(colocated), "cluster.layout=colocated needs GPUs")
    check_gpus(load("gp_l_debug"))
    monkeypatch.setattr(machine, "visible_gpus", lambda: 1)
    check_gpus(colocated)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    check_gpus(colocated)  # engines get the ranks' own


def test_a_plan_for_this_machine_fits_its_memory(monkeypatch):
    monkeypatch.setattr("cluster.placement.nodes.visible_gpus", lambda: 0)
    cfg = load("gp_l_debug")
    need = sum(memory_bytes(cfg, MODEL).values())
    assert len(plan_here(cfg, MODEL, need).places) == 3
    words = f"too little memory: the run needs {need / GIB:.1f} GiB (learner weights 1.0, "
    refused(lambda: plan_here(cfg, MODEL, need - 1), words, "rollout.kv_cache_gib, learner.microb")
    assert [place.role for place in plan_here(cfg, MODEL, need - 1, learn=False).places] == [
        "rollout worker"
    ]
    with pytest.raises(PlacementError):
        plan_here(cfg, MODEL, GIB // 4, learn=False)


def test_what_others_hold_may_be_free_later_and_what_nobody_has_may_not(monkeypatch):
    """Exit code 75 tells a scheduler to come again, 2 that it would be in vain."""
    monkeypatch.setattr("cluster.placement.nodes.visible_gpus", lambda: 0)
    cfg = load("gp_l_debug")
    need = sum(memory_bytes(cfg, MODEL).values())
    for total, kind in ((need, InUseError), (need - 1, ConfigError)):
        monkeypatch.setattr(machine, "total_bytes", lambda total=total: total)
        with pytest.raises(ConfigError, match="too little memory") as error:
            plan_here(cfg, MODEL, need - 1)
        assert type(error.value) is kind
        assert ("others hold the rest of its" in str(error.value)) is (kind is InUseError)
    monkeypatch.delenv(machine.SLOW_STORE, raising=False)
    for total, kind in ((1.25, InUseError), (1.24, ConfigError)):
        with pytest.raises(ConfigError, match="/dev/shm has") as error:
            room(monkeypatch, shared=1, total=total, **STORE)
        assert type(error.value) is kind


def test_what_is_on_gpus_is_not_counted_against_the_host(monkeypatch):
    """A policy of 7 billion parameters takes 285 GiB in all, most of it on its five GPUs."""
    monkeypatch.setattr("cluster.placement.nodes.visible_gpus", lambda: 5)
    large = ModelSize({"layers": 7 * 10**9}, layers=28, hidden=8, vocabulary=9, positions=None)
    keys = ["learner.ranks=4", "learner.zero_stage=3", "model.dtype=bfloat16"]
    cfg = load("gp_l_debug", [*keys, "sft.batch_size=8"])
    host = machine_bytes(cfg, large, gpu=True)
    need = sum(host.values())
    state = 14 * 7 * 10**9  # of which the ranks' checkpoints are copied
    assert state < need < state + 8 * GIB < sum(memory_bytes(cfg, large).values())
    assert plan_here(cfg, large, need).gpu
    words = f"too little memory: the run needs {need / GIB:.1f} GiB (weights and states on their "
    lower = "GiB free; lower rollout.env_processes, cluster.object_store_gib or the model"
    refused(lambda: plan_here(cfg, large, need - 1), words, lower)
    offload = load("gp_l_debug", [*keys, "sft.batch_size=8", "learner.offload=true"])
    more = machine_bytes(offload, large, gpu=True)
    assert more["offloaded"] == sum(more.values()) - need > 12 * 7 * 10**9
    words = f"(offloaded {more['offloaded'] / GIB:.1f}, "
    lower = "cluster.object_store_gib, learner.offload or the model"
    refused(lambda: plan_here(offload, large, need), words, lower)
    monkeypatch.setattr("cluster.placement.nodes.visible_gpus", lambda: 0)
    refused(lambda: plan_here(cfg, large, need), "learner optimizer")


def test_the_gpus_of_this_machine_must_hold_what_a_rank_has(monkeypatch):
    monkeypatch.setattr("cluster.placement.nodes.visible_gpus", lambda: 2)
    cfg = load("gp_l_debug")
    rank = max(card_bytes(cfg, MODEL).values())
    for card, fits in ((2 * rank, True), (rank // 2, False), (None, True)):
        monkeypatch.setattr("cluster.placement.nodes.smallest_card", lambda count, card=card: card)
        if fits:
            assert plan_here(cfg, MODEL, 2**50).gpu
        else:
            with pytest.raises(
                PlacementError, match=r"needs .* of GPU memory.*, and the largest node"
            ):
                plan_here(cfg, MODEL, 2**50)
