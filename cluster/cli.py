"""The command `cardinal`: arguments in, one of the commands below run, an exit code out.

0 done; 1 the run failed; 2 what was asked for cannot be; 130 interrupted. Every error is one
line. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.failures import RunFailure
from configs.load import ConfigError, load, parse
from configs.schema import RunConfig

if TYPE_CHECKING:
    from envs.base import TextEnv


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ConfigError as error:
        return _say(str(error), 2)
    except RunFailure as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("interrupted; `cardinal resume RUN` goes on from the last checkpoint", 130)


def check_command(options: argparse.Namespace) -> int:
    """Validate a configuration and show the resolved run; nothing is started."""
    from cluster.check import check, show

    show(check(_config(options)))
    return 0


def train_command(options: argparse.Namespace) -> int:
    """Check, then run one job."""
    from cluster.check import check

    cfg = _config(options)
    check(cfg)
    from cluster.train import train

    return train(cfg)


def resume_command(options: argparse.Namespace) -> int:
    """Go on with an interrupted run from its last checkpoint."""
    from cluster.train import train

    return train(_run_config(options.run), resume=True)


def eval_command(options: argparse.Namespace) -> int:
    """Evaluate a run's checkpoint on variants of its environment."""
    from cluster.evaluate_run import evaluate_run

    cfg = _run_config(options.run)
    settings = _settings(options.settings)
    variants = {options.variant: settings} if options.variant else dict(cfg.eval.variants)
    return evaluate_run(Path(options.run), cfg, options.stage, variants, options.episodes)


def report_command(options: argparse.Namespace) -> int:
    """Write summary.json, report.png and report.html of a run folder anew."""
    from cluster.report import write_report

    _run_config(options.run)
    write_report(options.run)
    print(Path(options.run) / "report.html")
    return 0


def data_command(options: argparse.Namespace) -> int:
    """Write demonstrations of an environment, or convert a released JSON file."""
    from cluster.demonstrations import convert_released, write_demonstrations

    if options.env.endswith(".json"):
        print(convert_released(options.env, options.out))
        return 0
    settings = _settings(options.settings)
    _environment(options.env, settings)
    print(write_demonstrations(options.env, settings, options.n, options.seed, options.out))
    return 0


def play_command(options: argparse.Namespace) -> int:
    """Play an environment in the terminal; pictures are saved and named by path."""
    from cluster.play import Game

    env = _environment(options.env, _settings(options.settings))
    Game(env, options.seed, options.pictures).run()
    return 0


def gallery_command(options: argparse.Namespace) -> int:
    """Write an HTML page and a PNG contact sheet of an environment's episodes."""
    from cluster.gallery import write_gallery

    if options.n < 1:
        raise ConfigError(f"--n {options.n}: must be at least 1")
    settings = _settings(options.settings)
    env = _environment(options.env, settings)
    print(write_gallery(env, options.env, settings, options.n, options.seed, options.out))
    return 0


def init_model_command(options: argparse.Namespace) -> int:
    """Write the tiny model of a configuration, untrained."""
    from cluster.train import make_tiny_model

    if Path(options.out).exists():
        raise ConfigError(f"--out {options.out}: is already there")
    make_tiny_model(_config(options), Path(options.out))
    print(options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cardinal",
        description="SFT, then PPO, of language models on multi-turn environments, on Ray.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(command=run)
        return command

    for name, run in (
        ("check", check_command),
        ("train", train_command),
        ("init-model", init_model_command),
    ):
        command = add(name, run)
        command.add_argument("config", help="a YAML file, or the name of one in configs/")
        command.add_argument("overrides", nargs="*", metavar="key=value")
        if name == "init-model":
            command.add_argument("--out", required=True, help="folder to make")
    add("resume", resume_command).add_argument("run", help="run folder")
    add("report", report_command).add_argument("run", help="run folder")

    command = add("eval", eval_command)
    command.add_argument("run", help="run folder")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of the environment")
    command.add_argument("--variant", help="name of a variant made of key=value settings")
    command.add_argument("--stage", choices=("start", "sft", "ppo"), default=None)
    command.add_argument("--episodes", type=int, default=None)

    command = add("data", data_command)
    command.add_argument("env", help="environment id, or a released JSON file to convert")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of the environment")
    command.add_argument("--n", type=int, default=8192, help="how many")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", required=True, help="folder of Parquet parts")

    command = add("play", play_command)
    command.add_argument("env", help="environment id")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of the environment")
    command.add_argument("--seed", type=int, default=0, help="of the first episode")
    command.add_argument("--pictures", help="folder for pictures; a new temporary one otherwise")

    command = add("gallery", gallery_command)
    command.add_argument("env", help="environment id")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of the environment")
    command.add_argument("--n", type=int, default=6, help="how many episodes")
    command.add_argument("--seed", type=int, default=0, help="of the first episode")
    command.add_argument("--out", required=True, help="folder of gallery.html and gallery.png")
    return parser


def _config(options: argparse.Namespace) -> RunConfig:
    return load(options.config, options.overrides)


def _run_config(run: str) -> RunConfig:
    """The configuration of a run folder; the folder's own place wins over the written one."""
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run}: holds no config.yaml, so it is no run folder")
    folder = Path(run).resolve()
    return load(file, [f"name={folder.name}", f"cluster.root={folder.parent}"])


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    return parse(pairs)


def _environment(env_id: str, settings: dict[str, Any]) -> TextEnv:
    """The environment, its settings checked.

    Raises:
        ConfigError: no such environment, or settings that it refuses.
    """
    from envs.base import TextEnv
    from envs.registry import check_settings, make

    try:
        check_settings(env_id, settings, "settings")
        env = make(env_id, settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(env, TextEnv):
        raise ConfigError(f"{env_id} is a {type(env).__name__}; it must be an envs.base.TextEnv")
    return env


def _say(line: str, code: int) -> int:
    print(f"cardinal: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == 130 else sys.exit(code)
