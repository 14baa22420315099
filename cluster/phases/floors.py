"""Baselines of a run's environments, measured: RUN/floors.json, the floor under its evaluations.

Input: a configuration. Output: by evaluation variant one row per baseline, on the first seeds of
the evaluation. No engine is needed, so that the driver measures them while engines start.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cluster.environments import TRAINING, Environment, Settings, environments
from configs.ancestors import ancestors
from configs.schema import RunConfig
from configs.text import one_line
from envs.base import shows_pictures
from envs.baselines import Floor, floors
from envs.registry import BUILT_IN, make
from report.floors import FLOORS
from report.metrics import Record
from rollout.environment_trial import trial_limits, tried

EPISODES, EPISODES_WITH_PICTURES = 200, 32  # a variant and baseline, at most


def write_floors(cfg: RunConfig, folder: Path) -> None:
    """Play and keep the floors of each variant; a folder that has them is left as it is.

    An environment without baselines leaves no file.
    """
    file = folder / FLOORS
    if file.is_file():
        return
    played = {
        variant: [row(floor) for floor in found]
        for variant, found in floors_of_variants(cfg).items()
    }
    if any(played.values()):
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(played, indent=1, ensure_ascii=False), "utf-8")
        draft.replace(file)


def floors_of_variants(cfg: RunConfig) -> dict[str, list[Floor]]:
    """The floors of each evaluation variant, in their order."""
    return {
        name.removeprefix("eval/"): _play(name, environment, cfg)
        for name, environment in environments(cfg).items()
        if name != TRAINING
    }


def _play(name: str, environment: Environment, cfg: RunConfig) -> list[Floor]:
    """None where the environment breaks: how many episodes may fail is for the run to judge."""
    try:
        if environment[0] not in BUILT_IN:  # it may hang
            return asyncio.run(_play_apart(environment, cfg))
        env = make(*environment)
        return floors(env, _episodes(cfg, shows_pictures(env)), cfg.eval.seed, _trained(cfg))
    except Exception as error:  # noqa: BLE001 - the boundary to environments of anybody
        print(f"{name}: its floors are not known: {one_line(error)}", flush=True)
        return []


async def _play_apart(environment: Environment, cfg: RunConfig) -> list[Floor]:
    """By the process of an environment of others, each call with its deadline."""
    async with tried(*environment, trial_limits(cfg)) as env:
        pictures = (await env.inspect()).pictures
        return await env.floors(_episodes(cfg, pictures), cfg.eval.seed, _trained(cfg))


def _trained(cfg: RunConfig) -> list[Settings]:
    """What the policy was trained in, by this run and those that it continues."""
    runs = [run for run in (cfg, *ancestors(cfg)) if run.env.id == cfg.env.id]
    trained = [run for run in runs if run.sft.steps or run.ppo.updates]
    return [environments(run)[TRAINING][1] for run in trained or [cfg]]


def _episodes(cfg: RunConfig, pictures: bool) -> int:
    return min(cfg.eval.episodes, EPISODES_WITH_PICTURES if pictures else EPISODES)


def row(floor: Floor) -> Record:
    """A floor as `report.floors` reads it."""
    return {
        "baseline": floor.baseline.name,
        "description": floor.baseline.description,
        "n": floor.episodes,
        "questions": floor.questions,
        "metrics": floor.metrics,
    }
