"""The command check-env: whether an environment can be trained on, and what it offers."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial
from pathlib import Path

from cluster.commands.command import Commands, argument
from cluster.commands.environments import make_environment, named_environment
from cluster.commands.shared import require_at_least
from cluster.environments import Settings
from cluster.failures import RunFailure
from configs.schema import ClusterConfig, EnvConfig, RolloutConfig
from envs.base import EnvironmentFailure, TextEnv, offers

COMMANDS = Commands()
MISSING = {
    "expert": "no expert: `play` cannot show its answers, `gallery` cannot draw, the contract is "
    "checked without it",
    "demonstrations": "no demonstrations: SFT needs sft.data, or train by PPO alone (sft.steps=0)",
    "corpus": "no corpus: no tiny model can be made of it, set model.path",
    "baselines": "no baselines: its results have no floor beside them",
}


@COMMANDS.add(
    "check-env",
    argument("env", help="environment id, or configuration"),
    argument("settings", nargs="*", default=[], metavar="key=value", help="of what is named"),
    argument("--episodes", type=int, default=8, help="seeds tried for each clause"),
    argument(
        "--folder",
        action="append",
        default=[],
        help="that it may read while it is played; may be given again",
    ),
)
def check_env_command(options: argparse.Namespace) -> int:
    """Try an environment in a process of its own, hold it to the contract, play its baselines."""
    require_at_least(1, "--episodes", options.episodes)
    env_id, settings, _ = named_environment(options)
    _try(env_id, settings, options.episodes)  # first: it may hang or crash
    _hold(env_id, settings, options.episodes, tuple(map(Path, options.folder)))
    env = make_environment(env_id, settings)
    for what, sentence in MISSING.items():
        print(f"{what}: yes" if offers(env, what) else sentence)
    if offers(env, "baselines"):
        _play_baselines(env, settings, options.episodes)
    return 0


def _try(env_id: str, settings: Settings, episodes: int) -> None:
    """With the limits that a run has by default."""
    from rollout.environment_trial import trial
    from rollout.environments import ProcessLimits

    cluster, max_turns = ClusterConfig(), RolloutConfig().max_turns
    limits = ProcessLimits(
        1, cluster.env_deadline_s, cluster.start_deadline_s, EnvConfig().memory_gib
    )
    tried = asyncio.run(trial(env_id, settings, episodes, max_turns, limits))
    print(
        f"played {tried.episodes} episodes in a process of its own: made in {tried.make_s:.1f} s, "
        f"{tried.calls} calls, {1e3 * tried.mean_s:.1f} ms each, the slowest "
        f"{1e3 * tried.slowest_s:.1f} ms (cluster.env_deadline_s={limits.call_deadline_s:g} s)"
    )
    if tried.unended:
        print(
            f"{tried.unended} of them do not end by themselves: a run truncates them after "
            f"rollout.max_turns={max_turns} answers"
        )


def _hold(env_id: str, settings: Settings, episodes: int, folders: tuple[Path, ...]) -> None:
    from envs.contract import ContractError, check
    from envs.registry import make

    try:
        check(partial(make, env_id, settings), episodes, folders)
    except ContractError as error:
        raise RunFailure(f"{env_id} breaks the contract: {error}") from error
    except Exception as error:  # the boundary to environments, third-party ones too
        raise RunFailure(f"{env_id} breaks the contract: it raises {error!r}") from error
    print("the contract of envs/contract.py holds")


def _play_baselines(env: TextEnv, settings: Settings, episodes: int) -> None:
    from envs.baselines import show

    try:
        show(env, settings, episodes, 0)
    except EnvironmentFailure:
        raise
    except Exception as error:  # the boundary to environments, third-party ones too
        raise RunFailure(f"the baselines cannot be played: {error!r}") from error
