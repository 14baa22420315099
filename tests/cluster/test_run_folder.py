"""The place of a run folder: which is taken, and which a run over several nodes may have."""

import pytest

from cluster.failures import PlacementError
from cluster.run_folder import check_root, run_folder
from configs.load import ConfigError, load


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


def test_several_nodes_need_a_folder_that_all_of_them_see():
    relative = load("gp_l_debug", ["cluster.root=runs"])
    with pytest.raises(PlacementError, match=r"cluster\.root=runs: the run spans 3 nodes without"):
        check_root(relative, 3)
    check_root(relative, 1)
    check_root(load("gp_l_debug", ["cluster.root=/shared"]), 3)
