"""Commands on one run: check, train, resume, init-model.

What refuses a run comes before the imports of what runs it: those take seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from cluster.commands.command import Commands, argument
from cluster.commands.shared import (
    CONFIG,
    RUN_FOLDER,
    configuration,
    configuration_of,
    require_folder,
)
from cluster.preflight.early import refuse_resume
from cluster.preflight.resume import was_begun
from configs.load import ConfigError
from configs.schema import RunConfig
from report.summary import ended

COMMANDS = Commands()


@COMMANDS.add(
    "check", *CONFIG, argument("--address", help="of a live cluster: host:port or http://…")
)
def check_command(options: argparse.Namespace) -> int:
    """Show the resolved run, or with --address where a cluster would put it; nothing is started."""
    cfg = configuration(options)
    from cluster.preflight.check import check
    from cluster.preflight.show import show, show_plan

    if options.address:
        cluster = dataclasses.replace(cfg.cluster, address=options.address)
        show_plan(check(dataclasses.replace(cfg, cluster=cluster)))
    else:
        show(check(cfg))
    return 0


@COMMANDS.add(
    "train",
    *CONFIG,
    argument("--resume", action="store_true", help="continue a run that was begun before"),
)
def train_command(options: argparse.Namespace) -> int:
    """Check, then run one job."""
    cfg = configuration(options)
    if options.resume and was_begun(cfg):
        return _continue(cfg)
    from cluster.preflight.check import check

    check(cfg)
    from cluster.driver.train import train  # Ray, which a run that is refused does not wait for

    return train(cfg, resume=False)


@COMMANDS.add("resume", RUN_FOLDER)
def resume_command(options: argparse.Namespace) -> int:
    """Go on with an interrupted run from its last checkpoint."""
    return _continue(configuration_of(options.run))


def _continue(cfg: RunConfig) -> int:
    folder = (Path(cfg.cluster.root) / cfg.name).resolve()
    if ended(folder)["status"] != "finished":
        refuse_resume(cfg, folder)
    from cluster.driver.train import train  # Ray, which a run that is refused does not wait for

    return train(cfg, resume=True)


@COMMANDS.add("init-model", *CONFIG, argument("--out", required=True, help="folder to make"))
def init_model_command(options: argparse.Namespace) -> int:
    """Write the tiny model of a configuration, untrained."""
    if Path(options.out).exists():
        raise ConfigError(f"--out {options.out}: is already there")
    require_folder("--out", options.out)
    cfg = configuration(options)
    if cfg.model.path is not None:
        raise ConfigError(f"model.path={cfg.model.path}: it must be null to make a tiny model")
    from cluster.driver.train import make_tiny_model

    make_tiny_model(cfg, Path(options.out))
    print(options.out)
    return 0
