"""Arguments that several commands take, and the configuration that they name."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.commands.command import argument
from cluster.environments import in_file, load_run
from cluster.preflight.machine import check_writable
from cluster.run.run_folder import is_run_folder
from configs.load import ConfigError, load
from configs.schema import RunConfig
from configs.seeds import SEEDS

CONFIG = (
    argument("config", help="a YAML file, or the name of one in configs/"),
    argument("overrides", nargs="*", default=[], metavar="key=value"),
)
RUN_FOLDER = argument("run", help="run folder")


def configuration(options: argparse.Namespace) -> RunConfig:
    """The configuration that CONFIG names, the settings of its environments checked too.

    Raises:
        ConfigError: as `load_run`.
    """
    return load_run(options.config, options.overrides)


def configuration_of(run: str) -> RunConfig:
    """The configuration of a run folder; the folder's own place wins over the written one.

    Raises:
        ConfigError: it is no run folder.
    """
    file = Path(run) / "config.yaml"
    if not file.parent.is_dir():
        raise ConfigError(f"{run}: there is no such run folder")
    if not file.is_file():
        raise ConfigError(f"{run}: holds no config.yaml, so it is no run folder")
    try:
        cfg = load(file, allow_no_training=True)
    except ConfigError as error:
        raise ConfigError(in_file(file, str(error))) from error
    folder = Path(run).resolve()
    cluster = dataclasses.replace(cfg.cluster, root=str(folder.parent))
    return dataclasses.replace(cfg, name=folder.name, cluster=cluster)


def require_outside_of_runs(option: str, folder: str) -> None:
    """Refuse an option's folder that is a run's, or lies in one.

    Raises:
        ConfigError: names the option and the run folder.
    """
    place = Path(folder).resolve()
    for above in (place, *place.parents):
        if is_run_folder(above):
            raise ConfigError(f"{option} {folder}: {above} is a run folder; choose another place")


def require_file(option: str, file: str) -> None:
    """Refuse an option's file that cannot be written, or would lie in a run folder.

    Raises:
        ConfigError: names the option.
    """
    require_outside_of_runs(option, file)
    place = Path(file)
    if not place.parent.is_dir():
        raise ConfigError(f"{option} {file}: there is no such folder to write it in")
    if place.is_dir():
        raise ConfigError(f"{option} {file}: is a folder; it must be a file")
    check_writable(f"{option} {file}: its folder", place.parent)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """What is inside writes a file: an error names it, as that of a full disk does not by itself.

    Raises:
        OSError: of the same kind.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


def require_folder(option: str, folder: str) -> None:
    """Refuse an option's folder that cannot be made or written to, or would lie in a run folder.

    Raises:
        ConfigError: names the option.
    """
    require_outside_of_runs(option, folder)
    if Path(folder).is_file():
        raise ConfigError(f"{option} {folder}: is a file; it must be a folder")
    check_writable(f"{option} {folder}", Path(folder))


def require_at_least(least: int, option: str, value: int | None) -> None:
    """Refuse an option's value below `least`.

    Raises:
        ConfigError: names the option.
    """
    if value is not None and value < least:
        raise ConfigError(f"{option} {value}: must be at least {least}")


def require_seed(seed: int | None) -> None:
    """Refuse a --seed that generators do not take.

    Raises:
        ConfigError: names the option.
    """
    require_at_least(0, "--seed", seed)
    if seed is not None and seed >= SEEDS:
        raise ConfigError(f"--seed {seed}: must be below {SEEDS} (2^32)")
