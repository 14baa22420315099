"""The place of a run folder: free for a new run, and the same folder for every node."""

from __future__ import annotations

from pathlib import Path

from cluster.failures import PlacementError
from configs.load import ConfigError
from configs.schema import RunConfig


def run_folder(cfg: RunConfig) -> Path:
    """The run's folder, absolute.

    Raises:
        ConfigError: it holds something already, or is a file.
    """
    folder = (Path(cfg.cluster.root) / cfg.name).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"name={cfg.name}: the run folder {folder} is taken; choose another name, "
            f"or go on with `cardinal resume {folder}`"
        )
    return folder


def check_root(cfg: RunConfig, nodes: int) -> None:
    """Refuse a run folder that other nodes would look for in a folder of their own.

    Args:
        cfg: the run.
        nodes: number of nodes that it spans.

    Raises:
        PlacementError: it spans several and cluster.root is relative.
    """
    if nodes > 1 and not Path(cfg.cluster.root).is_absolute():
        raise PlacementError(
            f"cluster.root={cfg.cluster.root}: the run spans {nodes} nodes without shared "
            "storage, for a relative folder is each node's own; an absolute one that all nodes "
            "see would do"
        )
