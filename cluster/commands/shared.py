"""Arguments that several commands take, and the configuration that they name."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from cluster.commands.command import argument
from configs.load import ConfigError, load
from configs.schema import RunConfig

CONFIG = (
    argument("config", help="a YAML file, or the name of one in configs/"),
    argument("overrides", nargs="*", default=[], metavar="key=value"),
)
RUN_FOLDER = argument("run", help="run folder")
ENVIRONMENT = (
    argument("env", help="environment id"),
    argument("settings", nargs="*", default=[], metavar="key=value", help="of the environment"),
)


def configuration(options: argparse.Namespace) -> RunConfig:
    """The configuration that CONFIG names."""
    return load(options.config, options.overrides)


def configuration_of(run: str) -> RunConfig:
    """The configuration of a run folder; the folder's own place wins over the written one.

    Raises:
        ConfigError: it is no run folder.
    """
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run}: holds no config.yaml, so it is no run folder")
    cfg, folder = load(file, allow_no_training=True), Path(run).resolve()
    cluster = dataclasses.replace(cfg.cluster, root=str(folder.parent))
    return dataclasses.replace(cfg, name=folder.name, cluster=cluster)


def refuse_run_folder(option: str, out: str) -> None:
    """Refuse to write into a run's folder, whose files are the run's own.

    Raises:
        ConfigError: names the option and the run folder.
    """
    place = Path(out).resolve()
    for folder in (place, *place.parents):
        begun = any((folder / name).exists() for name in ("metrics.jsonl", "lease"))
        if begun and (folder / "config.yaml").is_file():
            raise ConfigError(
                f"{option} {out}: {folder} is the folder of a run, which alone writes there; "
                "choose another one"
            )


def require_at_least(least: int, option: str, value: int | None) -> None:
    """Refuse an option's value below `least`.

    Raises:
        ConfigError: names the option.
    """
    if value is not None and value < least:
        raise ConfigError(f"{option} {value}: must be at least {least}")
