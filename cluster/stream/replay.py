"""`cardinal replay`: the learner of a run again, on the blocks that the run has recorded.

Input: a run folder. Output: a run folder of its own, and both runs' losses side by side.
"""

from __future__ import annotations

from pathlib import Path

from cluster.environments import load_run
from cluster.run.run_folder import ppo_start
from cluster.stream.recorded_blocks import FOLDER, recorded_updates
from configs.load import ConfigError
from configs.recorded import turned_off
from configs.schema import RunConfig


def replayed(cfg: RunConfig, run: Path, overrides: list[str]) -> RunConfig:
    """The configuration that trains on a run's blocks as the run has.

    Args:
        cfg: the run's.
        run: its folder.
        overrides: key=value pairs that are to differ.

    Raises:
        ConfigError: the run has recorded nothing, or as `load_run`.
    """
    if not recorded_updates(run / FOLDER):
        raise ConfigError(f"{run}: has recorded no blocks; a run does with ppo.record=true")
    folder = run.resolve()
    start = ppo_start(folder / "checkpoints", cfg.model.path or str(folder / "model"))
    settings = {
        "name": f"{folder.name}-replay",
        "cluster.root": folder.parent,
        "model.path": start,
        "ppo.blocks": folder / FOLDER,
    }
    pairs = [*turned_off(cfg), *(f"{key}={value}" for key, value in settings.items())]
    return load_run(folder / "config.yaml", [*pairs, *overrides])
