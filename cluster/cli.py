"""The command `cardinal`: arguments in, one of the commands below run, an exit code out.

0 done; 1 the run failed; 2 what was asked for cannot be; 130 interrupted. Every error is one
line. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cluster.failures import PlacementError, RunFailure
from configs.load import FOLDER, ConfigError, load, parse
from configs.schema import RunConfig
from envs.base import EnvironmentFailure

if TYPE_CHECKING:
    from envs.base import TextEnv


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _options(_parser(), arguments)
    try:
        return options.command(options)
    except (ConfigError, PlacementError) as error:
        return _say(str(error), 2)
    except (RunFailure, EnvironmentFailure) as error:
        return _say(str(error), 1)
    except OSError as error:  # a full disk, a folder that may not be written
        return _say(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        resumable = options.command in (train_command, resume_command)
        hint = "; `cardinal resume RUN` goes on from the last checkpoint" if resumable else ""
        return _say(f"interrupted{hint}", 130)


def check_command(options: argparse.Namespace) -> int:
    """Show the resolved run, or with --address where a cluster would put it; nothing is started."""
    from cluster.preflight.check import check, show, show_plan

    cfg = _config(options)
    if options.address:
        at = dataclasses.replace(cfg.cluster, address=options.address)
        show_plan(check(dataclasses.replace(cfg, cluster=at)))
    else:
        show(check(cfg))
    return 0


def train_command(options: argparse.Namespace) -> int:
    """Check, then run one job."""
    from cluster.launch.submit import begun
    from cluster.preflight.check import check

    cfg = _config(options)
    resume = options.resume and begun(cfg)
    if not resume:
        check(cfg)
    from cluster.train import train

    return train(cfg, resume)


def resume_command(options: argparse.Namespace) -> int:
    """Go on with an interrupted run from its last checkpoint."""
    from cluster.train import train

    return train(_run_config(options.run), resume=True)


def study_command(options: argparse.Namespace) -> int:
    """Train, evaluate and report on the arms of a study; what is finished is not done again."""
    from cluster.study.run import check_study, study
    from configs.study import load_study

    _refuse_below("--parallel", options.parallel, 1)
    plan = load_study(options.study)
    check_study(plan, options.parallel)
    return 0 if options.check else study(plan, options.parallel)


def submit_command(options: argparse.Namespace) -> int:
    """Run one job on a Ray cluster that is running; submitted again, it goes on."""
    from cluster.launch.submit import submit

    variables = dict(_variable(text) for text in options.env)
    return submit(
        options.config, options.overrides, options.address, options.python, variables,
        not options.no_follow,
    )  # fmt: skip


def _variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME with the value that it has here."""
    name, equals, value = text.partition("=")
    if not equals and name not in os.environ:
        raise ConfigError(f"--env {name}: is not set here; give --env {name}=VALUE")
    return name, value if equals else os.environ[name]


def job_command(options: argparse.Namespace) -> int:
    """Show the state of a submitted job, follow its log, or stop it."""
    from cluster.launch.submit import job

    return job(options.action, options.id, options.address)


def kuberay_command(options: argparse.Namespace) -> int:
    """Print the KubeRay manifest of a run, for `kubectl apply -f -`."""
    from cluster.launch.kuberay import UNKNOWN_MODEL, Options, known_model, pairs, render, secrets

    _refuse_below("--pod-size", options.pod_size, 1)
    _refuse_below("--spare", options.spare, 0)
    _refuse_below("--memory", options.memory, 1)
    chosen = Options(
        options.image, options.claim, options.namespace, not options.cpu, options.pod_size,
        pairs("--nodes", options.nodes), secrets(options.secret),
        options.memory and options.memory * 2**30, options.spare, options.cluster,
    )  # fmt: skip
    cfg = _config(options)
    print(render(cfg, chosen), end="")
    if not known_model(cfg) and not options.memory:
        guess = f"{UNKNOWN_MODEL / 2**30:g} GiB a process were assumed; --memory says otherwise"
        _say(f"model.path={cfg.model.path}: is not on this machine, so {guess}", 0)
    return 0


def eval_command(options: argparse.Namespace) -> int:
    """Evaluate a run's checkpoint on variants of its environment."""
    from cluster.evaluate_run import evaluate_run

    cfg = _run_config(options.run)
    _refuse_below("--episodes", options.episodes, 1)
    variants = _variants(options, cfg)
    return evaluate_run(Path(options.run), cfg, options.stage, variants, options.episodes)


def _variants(options: argparse.Namespace, cfg: RunConfig) -> dict[str, dict[str, Any]]:
    """The run's own variants, one of them, or a new one made of key=value."""
    name, settings = options.variant, parse(options.settings)
    known = dict(cfg.eval.variants)
    if name is None:
        if settings:
            raise ConfigError(f"{options.settings[0]} belongs to a variant: give --variant NAME")
        return known
    if name not in known and not settings:
        raise ConfigError(
            f"--variant {name}: the run has {', '.join(known)}; another one needs key=value"
        )
    return {name: known.get(name, {}) | settings}


def report_command(options: argparse.Namespace) -> int:
    """Write the report of a run's or a study's folder anew."""
    from report.page import write_report
    from report.study.page import write_study_report
    from report.study.results import is_study

    if is_study(options.run):
        print(write_study_report(options.run))
        return 0
    _run_config(options.run)
    write_report(options.run)
    print(Path(options.run) / "report.html")
    return 0


def data_command(options: argparse.Namespace) -> int:
    """Write demonstrations of an environment, or convert a released JSON file."""
    from cluster.demonstrations import convert_released, write_demonstrations

    _refuse_below("--n", options.n, 1)
    _refuse_below("--seed", options.seed, 0)
    if options.env.endswith(".json"):
        print(convert_released(options.env, options.out))
        return 0
    env_id, settings, n, seed = _expert(options)
    print(write_demonstrations(env_id, settings, n, seed, options.out))
    return 0


def _expert(options: argparse.Namespace) -> tuple[str, dict[str, Any], int, int]:
    """Environment, settings, number and seed; of a configuration, those that its run would use."""
    name, n, seed = options.env, options.n, options.seed
    if name.endswith((".yaml", ".yml")) or (FOLDER / f"{name}.yaml").is_file():
        from envs.registry import with_preset

        cfg = load(name, options.settings)
        env_id, settings = cfg.env.id, with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
        n = cfg.sft.demonstrations if n is None else n
        seed = cfg.seed if seed is None else seed
    else:
        env_id, settings = name, parse(options.settings)
    _environment(env_id, settings)
    return env_id, settings, 8192 if n is None else n, seed or 0


def play_command(options: argparse.Namespace) -> int:
    """Play an environment in the terminal; pictures are saved and named by path."""
    from envs.viewer.play import Game

    _refuse_below("--seed", options.seed, 0)
    env = _environment(options.env, parse(options.settings))
    Game(env, options.seed, options.pictures).run()
    return 0


def gallery_command(options: argparse.Namespace) -> int:
    """Write an HTML page and a PNG contact sheet of an environment's episodes."""
    from envs.viewer.gallery import write_gallery

    _refuse_below("--n", options.n, 1)
    _refuse_below("--seed", options.seed, 0)
    settings = parse(options.settings)
    env = _environment(options.env, settings)
    print(write_gallery(env, options.env, settings, options.n, options.seed, options.out))
    return 0


def baseline_command(options: argparse.Namespace) -> int:
    """Play policies without a model on an environment: the floor beside its results."""
    from envs.baselines import show

    _refuse_below("--episodes", options.episodes, 1)
    _refuse_below("--seed", options.seed, 0)
    env_id, settings, _, seed = _expert(options)
    try:
        show(_environment(env_id, settings), settings, options.episodes, seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return 0


def init_model_command(options: argparse.Namespace) -> int:
    """Write the tiny model of a configuration, untrained."""
    from cluster.train import make_tiny_model

    if Path(options.out).exists():
        raise ConfigError(f"--out {options.out}: is already there")
    cfg = _config(options)
    if cfg.model.path is not None:
        raise ConfigError(f"model.path={cfg.model.path}: it must be null to make a tiny model")
    make_tiny_model(cfg, Path(options.out))
    print(options.out)
    return 0


class _Parser(argparse.ArgumentParser):
    """One line an error, as everywhere."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _options(parser: _Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; key=value may also stand after options, where argparse leaves it over."""
    options, rest = parser.parse_known_args(arguments)
    name = next((n for n in ("settings", "overrides") if hasattr(options, n)), None)
    wrong = [text for text in rest if name is None or text.startswith("-") or "=" not in text]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if name is not None:
        setattr(options, name, [*getattr(options, name), *rest])
    return options


def _parser() -> _Parser:
    parser = _Parser(
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
        ("submit", submit_command),
        ("kuberay", kuberay_command),
        ("init-model", init_model_command),
    ):
        command = add(name, run)
        command.add_argument("config", help="a YAML file, or the name of one in configs/")
        command.add_argument("overrides", nargs="*", metavar="key=value")
        if name == "check":
            command.add_argument("--address", help="of a live cluster: host:port or http://…")
        if name == "init-model":
            command.add_argument("--out", required=True, help="folder to make")
        elif name == "train":
            command.add_argument("--resume", action="store_true", help="a run begun before goes on")
        elif name == "submit":
            _job_options(command)
        elif name == "kuberay":
            _manifest_options(command)
    command = add("study", study_command)
    command.add_argument("study", help="a YAML file, or the name of one in configs/studies/")
    command.add_argument("--parallel", type=int, default=1, help="runs at once")
    command.add_argument("--check", action="store_true", help="show the arms; nothing is started")
    command = add("job", job_command)
    command.add_argument("action", choices=("status", "logs", "stop"))
    command.add_argument("id", help="as submit printed it")
    command.add_argument("--address", help="as of submit")
    add("resume", resume_command).add_argument("run", help="run folder")
    add("report", report_command).add_argument("run", help="folder of a run or a study")

    command = add("eval", eval_command)
    command.add_argument("run", help="run folder")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of the environment")
    command.add_argument("--variant", help="one of the run's, or a new one made of key=value")
    command.add_argument("--stage", choices=("start", "sft", "ppo"), default=None)
    command.add_argument("--episodes", type=int, default=None)

    command = add("data", data_command)
    command.add_argument("env", help="environment id, configuration, or released JSON file")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of what is named")
    command.add_argument("--n", type=int, help="how many; 8192, or the configuration's number")
    command.add_argument("--seed", type=int, help="0, or the configuration's seed")
    command.add_argument("--out", required=True, help="folder of Parquet parts")

    command = add("baseline", baseline_command)
    command.add_argument("env", help="environment id or configuration")
    command.add_argument("settings", nargs="*", metavar="key=value", help="of what is named")
    command.add_argument("--episodes", type=int, default=200, help="of each policy")
    command.add_argument("--seed", type=int, default=0, help="of the first episode")
    command.set_defaults(n=None)

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


def _job_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--address", help="of the job server, http://HEAD:8265; Ray's variables "
                         "or this machine otherwise")  # fmt: skip
    command.add_argument("--python", default="python", help="interpreter on the cluster")
    command.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]",
                         help="for the job; whoever sees the job sees it")  # fmt: skip
    command.add_argument("--no-follow", action="store_true", help="return once it is submitted")


def _manifest_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--image", help="with this checkout; cardinal:gpu or cardinal:cpu")
    command.add_argument("--claim", default="cardinal", help="PersistentVolumeClaim of all pods")
    command.add_argument("--namespace", help="of all objects")
    command.add_argument("--cpu", action="store_true", help="pods without GPUs")
    command.add_argument("--pod-size", type=int, default=8, help="GPUs of a pod, at most")
    command.add_argument("--nodes", action="append", default=[], metavar="LABEL=VALUE",
                         help="of the Kubernetes nodes with the GPUs")  # fmt: skip
    command.add_argument("--secret", action="append", default=[], metavar="NAME=SECRET/KEY",
                         help="an environment variable out of a Secret")  # fmt: skip
    command.add_argument("--memory", type=int, metavar="GIB", help="of a worker pod")
    command.add_argument("--spare", type=int, default=1, help="rollout pods that may be added")
    command.add_argument("--cluster", action="store_true", help="a RayCluster to submit to")


def _config(options: argparse.Namespace) -> RunConfig:
    return load(options.config, options.overrides)


def _run_config(run: str) -> RunConfig:
    """The configuration of a run folder; the folder's own place wins over the written one."""
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run}: holds no config.yaml, so it is no run folder")
    cfg, folder = load(file, idle=True), Path(run).resolve()
    cluster = dataclasses.replace(cfg.cluster, root=str(folder.parent))
    return dataclasses.replace(cfg, name=folder.name, cluster=cluster)


def _refuse_below(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{option} {value}: must be at least {least}")


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
