"""`cardinal eval`: a finished run's checkpoint on any variant of its environment.

Input: a run folder, a stage, variants. Output: records in RUN/evaluations.jsonl and a table.
Only rollout workers are started; nothing is trained or published.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.environments import environments
from configs.load import ConfigError
from configs.model_folder import find_model
from configs.schema import RunConfig
from envs.registry import check_settings
from report.metrics import Record, append, plain


def evaluate_run(
    folder: Path,
    cfg: RunConfig,
    stage: str | None,
    variants: dict[str, Record],
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


def _play(cfg: RunConfig, model: str, stage: str, folder: Path) -> list[Record]:
    from cluster.evaluate import evaluate
    from cluster.placement.layout import without_learner
    from cluster.rollout_pool import RolloutPool
    from cluster.wait import wait_for
    from rollout.renderer import Renderer

    records, cfg = [], without_learner(cfg)
    with RolloutPool() as pool:
        _, workers, buffer = pool.acquire(cfg, model, learn=False)
        deadline = cfg.cluster.start_deadline_s
        for i, worker in enumerate(workers):
            who = f"rollout worker {i}"
            wait_for(worker.start.remote(), who, "start its engine", deadline, "start_deadline_s")
        for variant in cfg.eval.variants:
            evaluation = evaluate(cfg, buffer, Renderer.load(model), stage, variant)
            records.append(plain({"time": time.time(), **evaluation.record}))
    for record in records:
        append(folder / "evaluations.jsonl", record)
    return records


def _show(records: list[Record], folder: Path) -> None:
    """Print a row an evaluation, with recognition where any environment measures it."""
    recognition = [r["metrics"].get("recognition") for r in records]
    extra = ["recognition"] if any(share is not None for share in recognition) else []
    table = Table("stage", "variant", "success", "95 % interval", "n", "first try", *extra)
    for r, share in zip(records, recognition, strict=True):
        low, high = r["interval"]
        cells = [r["stage"], r["variant"], f"{r['success']:.1%}", f"{low:.1%} – {high:.1%}"]
        cells += [str(r["n"]), f"{r['first_try']:.1%}", "–" if share is None else f"{share:.1%}"]
        table.add_row(*cells[: 6 + len(extra)])
    Console().print(table)
    print(f"also in {folder / 'evaluations.jsonl'}")
