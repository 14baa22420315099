"""Commands on an environment alone: data, baseline, play, gallery; refusals before imports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cluster.commands.command import Commands, argument
from cluster.commands.shared import require_at_least, require_folder, require_seed
from cluster.environments import TRAINING, Settings, environments, load_run, try_import
from configs.load import FOLDER, ConfigError, parse
from configs.schema import RunConfig
from configs.text import nearest, one_line
from envs.base import TextEnv, offers

DEMONSTRATIONS = 8192  # of an environment that no configuration names
COMMANDS = Commands()
READ = ("env.id", "env.settings", "preset")  # keys of a configuration that make an environment
ENVIRONMENT = (
    argument("env", help="environment id, or a configuration"),
    argument("settings", nargs="*", default=[], metavar="key=value", help="of what is named"),
)


@COMMANDS.add(
    "data",
    argument("env", help="environment id, configuration, or demonstrations: a file or a folder"),
    argument("settings", nargs="*", default=[], metavar="key=value", help="of what is named"),
    argument("--n", type=int, help=f"how many; {DEMONSTRATIONS}, or the configuration's number"),
    argument("--seed", type=int, help="0, or the configuration's seed"),
    argument("--out", required=True, help="folder of Parquet parts"),
)
def data_command(options: argparse.Namespace) -> int:
    """Write demonstrations of an environment, or convert a file of them."""
    require_at_least(1, "--n", options.n)
    require_seed(options.seed)
    require_folder("--out", options.out)
    if _names_files(options.env):
        _refuse_unused(options)
        _require_demonstrations_or_nothing(options.out)
        from cluster.demonstrations.writer import convert_demonstrations

        print(convert_demonstrations(options.env, options.out))
        return 0
    env_id, settings, cfg = named_environment(options, of_a_run=True)
    _require_demonstrations_or_nothing(options.out)
    _require("demonstrations", env_id, settings)
    from cluster.demonstrations.writer import write_demonstrations

    n = options.n or (cfg.sft.demonstrations if cfg else DEMONSTRATIONS)
    seed = options.seed if options.seed is not None else cfg.seed if cfg else 0
    print(write_demonstrations(env_id, settings, n, seed, options.out))
    return 0


def _names_files(name: str) -> bool:
    """Whether a name is that of demonstrations on disk, and no configuration's."""
    from cluster.demonstrations.files import SUFFIXES

    return name.endswith(SUFFIXES) or (Path(name).exists() and not _is_configuration(name))


def _refuse_unused(options: argparse.Namespace) -> None:
    """Refuse what only an environment's own demonstrations are made with."""
    numbers = (("--n", options.n), ("--seed", options.seed))
    given = [f"{name} {value}" for name, value in numbers if value is not None]
    used = [*given, *options.settings]
    if used:
        raise ConfigError(
            f"{used[0]}: has no effect on {options.env}, all of whose rows are converted as they "
            "are; it is of use with an environment or a configuration"
        )


def _require_demonstrations_or_nothing(out: str) -> None:
    """Refuse a folder with other files."""
    from cluster.demonstrations.writer import CLAIM

    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CLAIM).is_file():
        raise ConfigError(f"--out {out}: holds other files; choose a new or an empty folder")


@COMMANDS.add(
    "baseline",
    *ENVIRONMENT,
    argument("--episodes", type=int, default=200, help="of each policy"),
    argument("--seed", type=int, help="of the first episode; that of the evaluation (eval.seed)"),
)
def baseline_command(options: argparse.Namespace) -> int:
    """Play policies without a model on an environment: the floor under its results."""
    from envs.baselines import show

    require_at_least(1, "--episodes", options.episodes)
    require_seed(options.seed)
    env_id, settings, cfg = named_environment(options)
    seed = options.seed if options.seed is not None else (cfg or RunConfig()).eval.seed
    try:
        show(make_environment(env_id, settings), settings, options.episodes, seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return 0


def named_environment(
    options: argparse.Namespace, of_a_run: bool = False
) -> tuple[str, Settings, RunConfig | None]:
    """Environment and settings that `options.env` names, and the configuration where it is one.

    Args:
        options: of the command.
        of_a_run: whether the overrides are a run's, of which any may be given.

    Raises:
        ConfigError: it names neither, settings are refused, or a key would have no effect.
    """
    name = options.env
    if _is_configuration(name):
        if not of_a_run:
            _refuse_unread(options.command.name, options.settings)
        cfg = load_run(name, options.settings, evaluates=of_a_run)
        env_id, settings = environments(cfg)[TRAINING]
    else:
        try_import(name, RunConfig().cluster.start_deadline_s)
        _refuse_unknown(name)
        cfg, env_id, settings = None, name, parse(options.settings)
    _check_settings(env_id, settings)
    return env_id, settings, cfg


def _is_configuration(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or (FOLDER / f"{name}.yaml").is_file()


def _refuse_unread(command: str, settings: Sequence[str]) -> None:
    """Refuse an override that the command would pass over."""
    for pair in settings:
        key = pair.partition("=")[0]
        if not any(f"{key}.".startswith(f"{k}.") or k.startswith(f"{key}.") for k in READ):
            raise ConfigError(
                f"{pair}: has no effect on {command}, which reads {', '.join(READ)} of a "
                f"configuration; `cardinal {command} --help` has its own options"
            )


def _refuse_unknown(name: str) -> None:
    """Refuse a name that is neither an environment's nor a configuration's."""
    from envs.registry import BUILT_IN, spec

    try:
        spec(name)
    except ValueError as error:
        if ":" in name:  # its module has its own story
            raise ConfigError(str(error)) from error
        shipped = [*BUILT_IN, *(file.stem for file in FOLDER.glob("*.yaml"))]
        near = nearest(name, shipped)
        hint = f"the nearest is {near}" if near else f"there are {', '.join(sorted(shipped))}"
        if "/" in name and not near:
            hint += "; one that a module of yours registers is named MODULE:ID"
        raise ConfigError(
            f"{name}: is neither the id of an environment nor a configuration; {hint}"
        ) from error


@COMMANDS.add(
    "play",
    *ENVIRONMENT,
    argument("--seed", type=int, default=0, help="of the first episode"),
    argument("--pictures", help="folder for pictures; a new temporary one otherwise"),
)
def play_command(options: argparse.Namespace) -> int:
    """Play an environment in the terminal; pictures are saved and named by path."""
    from envs.viewer.play import Game

    require_seed(options.seed)
    if options.pictures:
        require_folder("--pictures", options.pictures)
    env_id, settings, _ = named_environment(options)
    Game(make_environment(env_id, settings), options.seed, options.pictures).run()
    return 0


@COMMANDS.add(
    "gallery",
    *ENVIRONMENT,
    argument("--n", type=int, default=6, help="how many episodes"),
    argument("--seed", type=int, default=0, help="of the first episode"),
    argument("--out", required=True, help="folder of gallery.html and gallery.png"),
)
def gallery_command(options: argparse.Namespace) -> int:
    """Write an HTML page and a PNG contact sheet of an environment's episodes."""
    require_at_least(1, "--n", options.n)
    require_seed(options.seed)
    require_folder("--out", options.out)
    env_id, settings, _ = named_environment(options)
    env = _require("expert", env_id, settings)
    from envs.viewer.gallery import write_gallery

    print(write_gallery(env, env_id, settings, options.n, options.seed, options.out))
    return 0


def _require(what: str, env_id: str, settings: Settings) -> TextEnv:
    env = make_environment(env_id, settings)
    if not offers(env, what):
        raise ConfigError(f"{env_id} has no {what}: it does not override TextEnv.{what}")
    return env


def _check_settings(env_id: str, settings: Settings) -> None:
    from envs.registry import check_settings

    try:
        check_settings(env_id, settings, "settings")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_environment(env_id: str, settings: Settings) -> TextEnv:
    """The environment, its settings checked.

    Raises:
        ConfigError: no such environment, settings that it refuses, or it cannot be made.
    """
    from envs.registry import make

    _check_settings(env_id, settings)
    try:
        return make(env_id, settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except Exception as error:  # the boundary to environments, third-party ones too
        raise ConfigError(f"{env_id} cannot be made: {one_line(error)}") from error
