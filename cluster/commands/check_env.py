"""The command check-env: whether an environment can be trained on, and what it offers."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.command import Commands, argument
from cluster.commands.environments import named_environment
from cluster.commands.shared import require_at_least
from cluster.environments import Settings
from cluster.failures import RunFailure
from configs.schema import RunConfig
from envs.base import EnvironmentFailure

if TYPE_CHECKING:
    from rollout.environment_trial import TriedEnvironment

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
    env_id, settings, cfg = named_environment(options, of_a_run=True)
    asyncio.run(_try(env_id, settings, cfg or RunConfig(), options))
    return 0


async def _try(
    env_id: str, settings: Settings, cfg: RunConfig, options: argparse.Namespace
) -> None:
    """With the limits of a run; what hangs ends with its process."""
    from envs.baselines import table
    from envs.registry import headline
    from rollout.environment_trial import trial_limits, tried

    episodes, folders = options.episodes, tuple(map(Path, options.folder))
    async with tried(env_id, settings, trial_limits(cfg)) as env:
        await _play(env, episodes, cfg)
        await _hold(env, episodes, folders)
        offered = (await env.inspect()).offered
        for what, sentence in MISSING.items():
            print(f"{what}: yes" if what in offered else sentence)
        if "baselines" in offered:
            print(table(await env.floors(episodes), headline(env_id, settings)))


async def _play(env: TriedEnvironment, episodes: int, cfg: RunConfig) -> None:
    max_turns = cfg.rollout.max_turns
    trial = await env.play(episodes, max_turns)
    print(
        f"played {trial.episodes} episodes in a process of its own: made in {trial.make_s:.1f} s, "
        f"{trial.calls} calls, {1e3 * trial.mean_s:.1f} ms each, the slowest "
        f"{1e3 * trial.slowest_s:.1f} ms (cluster.env_deadline_s={cfg.cluster.env_deadline_s:g} s)"
    )
    if trial.unended:
        print(
            f"{trial.unended} of them do not end by themselves: a run truncates them after "
            f"rollout.max_turns={max_turns} answers"
        )


async def _hold(env: TriedEnvironment, episodes: int, folders: tuple[Path, ...]) -> None:
    try:
        broken = await env.broken_clause(episodes, folders)
    except EnvironmentFailure as failure:  # it hangs, or its process died
        broken = str(failure)
    if broken:
        raise RunFailure(f"{env.env_id} breaks the contract: {broken}")
    print("the contract of envs/contract.py holds")
