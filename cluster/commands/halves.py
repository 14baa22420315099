"""Commands that run one half alone: rollout, replay; `train` with ppo.blocks is the learner's."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cluster.commands.command import Commands, argument
from cluster.commands.shared import (
    CONFIG,
    RUN_FOLDER,
    configuration,
    configuration_of,
    require_at_least,
    require_folder,
)
from configs.load import ConfigError
from configs.seeds import seed_contradictions

COMMANDS = Commands()


@COMMANDS.add(
    "rollout",
    *CONFIG,
    argument("--out", required=True, help="new folder of blocks"),
    argument("--updates", type=int, default=1, help="whose episodes are played; 1"),
)
def rollout_command(options: argparse.Namespace) -> int:
    """Play training episodes with the initial model, without a learner, and record them."""
    require_at_least(1, "--updates", options.updates)
    require_folder("--out", options.out)
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {options.out}: holds something already; choose a new folder")
    cfg = configuration(options)
    played = replace(cfg, ppo=replace(cfg.ppo, updates=options.updates))
    for sentence in seed_contradictions(played):
        raise ConfigError(f"--updates {options.updates}: {sentence}")
    from cluster.preflight.early import refuse_rollouts

    refuse_rollouts(cfg)
    from cluster.driver.rollout_only import record_rollouts

    record_rollouts(cfg, out.resolve(), options.updates)
    return 0


@COMMANDS.add(
    "replay",
    RUN_FOLDER,
    argument("overrides", nargs="*", default=[], metavar="key=value", help="that differ"),
)
def replay_command(options: argparse.Namespace) -> int:
    """Train again on what a run has recorded (ppo.record), without engines; compare the losses."""
    cfg, run = configuration_of(options.run), Path(options.run)
    from cluster.stream.replay import replayed

    again = replayed(cfg, run, options.overrides)
    from cluster.preflight.check import check

    check(again)
    from cluster.driver.train import train
    from report.comparison.losses import print_losses, update_pairs

    code = train(again)
    print_losses(update_pairs(run, Path(again.cluster.root) / again.name))
    return code
