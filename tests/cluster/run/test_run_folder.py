"""The run folder: when it may be opened, and what processes tell one another in it."""

import os
from dataclasses import replace

import pytest

from cluster.failures import PlacementError
from cluster.preflight.resume import was_begun
from cluster.run.lease import Lease, LeaseLost
from cluster.run.run_folder import (
    check_root,
    clear_failure,
    open_folder,
    read_failure,
    run_folder,
    take_loss,
    write_config,
    write_failure,
    write_losses,
    write_status,
)
from configs.load import ConfigError, load
from report.summary import ended
from tests.cluster.fakes import FakeToken


@pytest.fixture
def cfg(tmp_path):
    return load("gp_l_debug", ["name=one", f"cluster.root={tmp_path}"])


def test_a_new_folder_gets_the_configuration_and_is_then_taken(cfg, tmp_path):
    assert open_folder(cfg, resume=False) == tmp_path / "one"
    write_config(cfg, tmp_path / "one")
    assert load(tmp_path / "one" / "config.yaml") == cfg
    with pytest.raises(ConfigError, match="is taken"):
        open_folder(cfg, resume=False)


def test_only_a_run_folder_is_resumed_and_may_go_on_with_other_machines(cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.yaml, so it is no run folder"):
        open_folder(cfg, resume=True)
    assert not (tmp_path / "one").exists()
    write_config(cfg, open_folder(cfg, resume=False))
    other = replace(cfg, rollout=replace(cfg.rollout, workers=3))
    assert was_begun(other)
    assert open_folder(other, resume=True) == tmp_path / "one"
    write_config(other, tmp_path / "one")
    assert load(tmp_path / "one" / "config.yaml") == other
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["config.yaml"]


def test_what_tells_how_a_run_stands_is_on_the_disk_with_its_folder(cfg, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    token = FakeToken(tmp_path)
    for write, file in (
        (lambda: write_status(tmp_path, "finished"), "status.json"),
        (lambda: write_config(cfg, tmp_path), "config.yaml"),
        (lambda: write_failure(token, "an engine was lost"), "failure.json"),
        (lambda: write_losses(token, "PPO update 3", ["a rank died"]), "losses.json"),
        (lambda: take_loss(tmp_path), "losses.json"),
    ):
        synced.clear()
        write()
        draft, folder = synced
        assert draft.startswith(f"{tmp_path}/{file}.")
        assert folder == str(tmp_path)


def test_a_failure_is_read_until_it_is_cleared(tmp_path):
    assert read_failure(tmp_path) is None
    clear_failure(tmp_path)
    write_failure(FakeToken(tmp_path), "an engine was lost")
    assert read_failure(tmp_path) == "an engine was lost"
    assert [file.name for file in tmp_path.iterdir()] == ["failure.json"]
    clear_failure(tmp_path)
    assert read_failure(tmp_path) is None


def test_reports_read_how_a_run_ended(tmp_path):
    write_status(tmp_path, "failed", "an engine was lost")
    assert ended(tmp_path) == {"status": "failed", "cause": "an engine was lost"}
    write_status(tmp_path, "finished")
    assert ended(tmp_path) == {"status": "finished", "cause": ""}


def test_a_folder_that_holds_something_is_taken(tmp_path):
    cfg = load("gp_l_debug", ["name=mine", f"cluster.root={tmp_path}"])
    assert run_folder(cfg) == tmp_path / "mine"
    (tmp_path / "mine").mkdir()
    assert run_folder(cfg) == tmp_path / "mine"
    (tmp_path / "mine" / "a").write_text("")
    with pytest.raises(ConfigError, match=r"name=mine: the run folder .*/mine is taken"):
        run_folder(cfg)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cardinal resume"):
        run_folder(load("gp_l_debug", ["name=file", f"cluster.root={tmp_path}"]))


def test_a_folder_that_this_user_may_not_enter_is_named(tmp_path, monkeypatch):
    cfg = load("gp_l_debug", ["name=mine", f"cluster.root={tmp_path}/closed"])

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cluster.run.lease.os.listdir", refuse)  # the tests may run as root
    monkeypatch.setattr("pathlib.Path.stat", refuse)
    words = (
        rf"^cluster\.root={tmp_path}/closed: the run folder {tmp_path}/closed/mine cannot be read: "
    )
    assert not was_begun(cfg)
    with pytest.raises(ConfigError, match=words + "Permission denied; it must be a folder"):
        run_folder(cfg)


def test_several_nodes_need_a_folder_that_all_of_them_see():
    relative = load("gp_l_debug", ["cluster.root=runs"])
    with pytest.raises(PlacementError, match=r"cluster\.root=runs: the run spans 3 nodes without"):
        check_root(relative, 3)
    check_root(relative, 1)
    check_root(load("gp_l_debug", ["cluster.root=/shared"]), 3)


def test_a_failure_of_a_run_that_lost_its_folder_is_not_the_next_ones(tmp_path):
    with pytest.raises(LeaseLost, match="taken"):
        write_failure(FakeToken(tmp_path, LeaseLost("taken")), "an engine was lost")
    assert read_failure(tmp_path) is None


def test_a_folder_that_a_run_writes_is_refused_with_its_owner(cfg, tmp_path):
    folder = open_folder(cfg, resume=False)
    in_use = r"/one: the run folder is in use by process \d+ on"
    with Lease(folder), pytest.raises(ConfigError, match=in_use):
        run_folder(cfg)
    assert run_folder(cfg) == folder  # the lease alone does not make it a run's
