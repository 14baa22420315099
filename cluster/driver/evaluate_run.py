"""`cardinal eval`: a finished run's checkpoint on any variant of its environment.

Input: a run folder, a stage, variants. Output: records in RUN/evaluations.jsonl and a table.
Only rollout workers are started; nothing is trained or published.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from cluster.deadlines import GRACE_S, for_model
from cluster.environments import environments
from cluster.phases.floors import floors_of_variants
from cluster.run.lease import Lease
from cluster.run.stop_signals import StopSignals
from configs.contradictions import contradictions
from configs.load import ConfigError
from configs.model_folder import find_model
from configs.schema import RunConfig
from envs.baselines import table as floor_table
from envs.registry import check_settings
from envs.registry import headline as env_headline
from report.evaluation import MEASURES, WITHIN, Headline, headline, with_intervals
from report.metrics import Record, append, plain
from report.terminal import Terminal

if TYPE_CHECKING:
    from cluster.driver.rollout_pool import RolloutPool

COUNTS = ("n", "distinct", "beside it")  # columns between the headline and recognition


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
        ConfigError: no such checkpoint, settings that the environment refuses, trained seeds, a
            run that is running.
        RunFailure: the engine was lost.
    """
    name, model = checkpoint(folder, cfg, stage)
    evaluation = dataclasses.replace(
        cfg.eval, variants=variants, episodes=episodes or cfg.eval.episodes
    )
    cfg = dataclasses.replace(cfg, eval=evaluation)
    if sentences := contradictions(cfg):  # more episodes may run into the seeds of training
        raise ConfigError(sentences[0])
    for where, played in environments(cfg).items():
        check_settings(*played, where.replace("eval/", "variant "))
    from cluster.driver.rollout_pool import RolloutPool

    # A training may not write beside it, nor export what it plays.
    with StopSignals() as signals, Lease(folder) as token, RolloutPool() as pool:
        with signals.ending():
            records = _play(cfg, model, name, pool)
            token.check()
            append(folder / "evaluations.jsonl", *records)
        pool.release()
    _show(records, folder)
    _show_floors(cfg)
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


def _play(cfg: RunConfig, model: str, stage: str, pool: RolloutPool) -> list[Record]:
    from cluster.driver.buffer_watch import watched
    from cluster.phases.evaluate import evaluate
    from cluster.placement.layout import without_learner
    from cluster.wait import wait_for
    from rollout.renderer import Renderer

    records, cfg = [], for_model(without_learner(cfg), model)
    buffer = pool.acquire(cfg, model, learn=False)[2]
    start, seconds = buffer.start.remote(), cfg.cluster.start_deadline_s + GRACE_S
    wait_for(start, "the buffer", "start all engines", seconds, "start_deadline_s")
    with watched(buffer, cfg.cluster):
        for variant in cfg.eval.variants:
            evaluation = evaluate(cfg, buffer, Renderer.load(model), stage, variant)
            (record,) = with_intervals([evaluation.record], partial(iter, evaluation.outcomes))
            records.append(plain({"time": time.time(), **record}))
    return records


def _show(records: list[Record], folder: Path) -> None:
    """Print one row per evaluation: its headline first, recognition where any is measured."""
    recognition = [r["metrics"].get("recognition") for r in records]
    extra = ["recognition"] if any(share is not None for share in recognition) else []
    table = Table("stage", "variant", "greedy answers", "", "95 % interval", *COUNTS, *extra)
    for r, share in zip(records, recognition, strict=True):
        shown = headline(r)
        interval = "–"
        if shown.interval is not None:
            interval = " – ".join(f"{bound:.1%}" for bound in shown.interval)
        counts = [str(shown.n), str(shown.questions or "–"), _beside(r, shown)]
        cells = [r["stage"], r["variant"], MEASURES[shown.measure], _share(shown.share), interval]
        table.add_row(*cells, *counts, *[_share(share)] * len(extra))
    Terminal().print(table)
    print(f"also in {folder / 'evaluations.jsonl'}")


def _beside(record: Record, shown: Headline) -> str:
    """Success at the first answer where the headline is that within all tries, or the reverse."""
    if shown.several:
        return f"{WITHIN} {_share(shown.within)}"
    return f"first try {_share(record['first_try'])}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _show_floors(cfg: RunConfig) -> None:
    """Print what policies without a model score on each variant that has them."""
    for variant, found in floors_of_variants(cfg).items():
        if found:
            print(f"\nfloors of {variant}: policies without a model")
            print(floor_table(found, env_headline(*environments(cfg)[f"eval/{variant}"])))
