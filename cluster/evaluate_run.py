"""`cardinal eval`: a finished run's checkpoint on any variant of its environment.

Comes in: a run folder, a stage, variants; goes out: records in RUN/evaluations.jsonl and a
table. Rollout workers alone are started; nothing is trained or published.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.environments import environments
from configs.load import ConfigError
from configs.model_folder import find_model
from configs.schema import RunConfig
from envs.registry import check_settings


def evaluate_run(
    folder: Path,
    cfg: RunConfig,
    stage: str | None,
    variants: dict[str, dict[str, Any]],
    episodes: int | None,
) -> int:
    """Play `episodes` of each variant with the checkpoint of a stage.

    Args:
        folder: run folder.
        cfg: its configuration.
        stage: start, sft or ppo; None is the last one that has a checkpoint.
        variants: name to environment settings that differ from env.settings.
        episodes: a variant; None is eval.episodes.

    Raises:
        ConfigError: no such checkpoint, or settings that the environment refuses.
        RunFailure: the engine was lost.
    """
    name, model = checkpoint(folder, cfg, stage)
    evaluation = dataclasses.replace(
        cfg.eval, variants=variants, episodes=episodes or cfg.eval.episodes
    )
    cfg = dataclasses.replace(cfg, eval=evaluation)
    for where, played in environments(cfg).items():
        check_settings(*played, where.replace("eval/", "variant "))
    records = _play(cfg, model, name, folder)
    _show(records, folder)
    return 0


def checkpoint(folder: Path, cfg: RunConfig, stage: str | None) -> tuple[str, str]:
    """(stage, model folder) of a run's checkpoint.

    Raises:
        ConfigError: the run has none of that stage.
    """
    places = {
        "ppo": folder / "checkpoints" / "ppo",
        "sft": folder / "checkpoints" / "sft",
        "start": find_model(cfg.model.path) if cfg.model.path else folder / "model",
    }
    for name in (stage,) if stage else places:
        if places[name].is_dir():
            return name, str(places[name].resolve())
    raise ConfigError(f"{folder}: has no checkpoint of stage {stage or 'start'}")


def _play(cfg: RunConfig, model: str, stage: str, folder: Path) -> list[dict[str, Any]]:
    from cluster.evaluate import evaluate
    from cluster.placement.layout import without_learner
    from cluster.rollout_pool import RolloutPool
    from cluster.wait import answer
    from report.metrics import append, plain
    from rollout.renderer import Renderer

    records, cfg = [], without_learner(cfg)
    with RolloutPool() as crew:
        _, workers, buffer = crew.meet(cfg, model, learn=False)
        deadline = cfg.cluster.start_deadline_s
        for i, worker in enumerate(workers):
            who = f"rollout worker {i}"
            answer(worker.start.remote(), who, "start its engine", deadline, "start_deadline_s")
        for variant in cfg.eval.variants:
            record, _, _ = evaluate(cfg, buffer, Renderer.load(model), stage, variant)
            records.append(plain({"time": time.time(), **record}))
    for record in records:
        append(folder / "evaluations.jsonl", record)
    return records


def _show(records: list[dict[str, Any]], folder: Path) -> None:
    read = [r["metrics"].get("recognition") for r in records]
    more = ["recognition"] if any(share is not None for share in read) else []
    table = Table("stage", "variant", "success", "95 % interval", "n", "first try", *more)
    for r, share in zip(records, read, strict=True):
        low, high = r["interval"]
        cells = [r["stage"], r["variant"], f"{r['success']:.1%}", f"{low:.1%} – {high:.1%}"]
        cells += [str(r["n"]), f"{r['first_try']:.1%}", "–" if share is None else f"{share:.1%}"]
        table.add_row(*cells[: 6 + len(more)])
    Console().print(table)
    print(f"also in {folder / 'evaluations.jsonl'}")
