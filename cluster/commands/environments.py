"""Commands on an environment alone: data, baseline, play, gallery."""

from __future__ import annotations

import argparse

from cluster.commands.command import Commands, argument
from cluster.commands.shared import ENVIRONMENT, require_at_least
from cluster.environments import TRAINING, Settings, environments
from configs.load import FOLDER, ConfigError, load, parse
from configs.schema import RunConfig
from envs.base import TextEnv

DEMONSTRATIONS = 8192  # of an environment that no configuration names
COMMANDS = Commands()


@COMMANDS.add(
    "data",
    argument("env", help="environment id, configuration, or file of demonstrations"),
    argument("settings", nargs="*", default=[], metavar="key=value", help="of what is named"),
    argument("--n", type=int, help=f"how many; {DEMONSTRATIONS}, or the configuration's number"),
    argument("--seed", type=int, help="0, or the configuration's seed"),
    argument("--out", required=True, help="folder of Parquet parts"),
)
def data_command(options: argparse.Namespace) -> int:
    """Write demonstrations of an environment, or convert a file of them."""
    from cluster.demonstration_files import SUFFIXES
    from cluster.demonstrations import convert_demonstrations, write_demonstrations

    require_at_least(1, "--n", options.n)
    require_at_least(0, "--seed", options.seed)
    if options.env.endswith(SUFFIXES):
        print(convert_demonstrations(options.env, options.out))
        return 0
    env_id, settings, cfg = _named_environment(options)
    n = options.n or (cfg.sft.demonstrations if cfg else DEMONSTRATIONS)
    seed = options.seed if options.seed is not None else cfg.seed if cfg else 0
    print(write_demonstrations(env_id, settings, n, seed, options.out))
    return 0


@COMMANDS.add(
    "baseline",
    argument("env", help="environment id, or configuration"),
    argument("settings", nargs="*", default=[], metavar="key=value", help="of what is named"),
    argument("--episodes", type=int, default=200, help="of each policy"),
    argument("--seed", type=int, default=0, help="of the first episode"),
)
def baseline_command(options: argparse.Namespace) -> int:
    """Play policies without a model on an environment: the floor under its results."""
    from envs.baselines import show

    require_at_least(1, "--episodes", options.episodes)
    require_at_least(0, "--seed", options.seed)
    env_id, settings, _ = _named_environment(options)
    try:
        show(_environment(env_id, settings), settings, options.episodes, options.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return 0


def _named_environment(options: argparse.Namespace) -> tuple[str, Settings, RunConfig | None]:
    """Environment and settings that `options.env` names, and the configuration where it is one."""
    name = options.env
    if name.endswith((".yaml", ".yml")) or (FOLDER / f"{name}.yaml").is_file():
        cfg = load(name, options.settings)
        env_id, settings = environments(cfg)[TRAINING]
    else:
        cfg, env_id, settings = None, name, parse(options.settings)
    _environment(env_id, settings)
    return env_id, settings, cfg


@COMMANDS.add(
    "play",
    *ENVIRONMENT,
    argument("--seed", type=int, default=0, help="of the first episode"),
    argument("--pictures", help="folder for pictures; a new temporary one otherwise"),
)
def play_command(options: argparse.Namespace) -> int:
    """Play an environment in the terminal; pictures are saved and named by path."""
    from envs.viewer.play import Game

    require_at_least(0, "--seed", options.seed)
    env = _environment(options.env, parse(options.settings))
    Game(env, options.seed, options.pictures).run()
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
    from envs.viewer.gallery import write_gallery

    require_at_least(1, "--n", options.n)
    require_at_least(0, "--seed", options.seed)
    settings = parse(options.settings)
    env = _environment(options.env, settings)
    print(write_gallery(env, options.env, settings, options.n, options.seed, options.out))
    return 0


def _environment(env_id: str, settings: Settings) -> TextEnv:
    """The environment, its settings checked.

    Raises:
        ConfigError: no such environment, or settings that it refuses.
    """
    from envs.registry import check_settings, make

    try:
        check_settings(env_id, settings, "settings")
        env = make(env_id, settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(env, TextEnv):
        raise ConfigError(f"{env_id} is a {type(env).__name__}; it must be an envs.base.TextEnv")
    return env
