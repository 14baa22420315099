"""The map of a run: model, demonstrations, Ray, actors, learner group, report.

    demonstrations ─► learner (SFT)
    rollout actors ─► buffer (refs) ─► learner (PPO) ─► weights ─► rollout actors
    evaluation by the same rollout actors ─► metrics ─► report
Read it top down. The order of a run is in `train` and `_run` here and goes on in
learner_loop.py, with one file per phase: sft_phase.py, ppo_phase.py, evaluation_phase.py.
"""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from pathlib import Path

from cluster.environments import TRAINING, environments
from cluster.failures import RunFailure
from cluster.placement.layout import weight_channel
from cluster.rollout_pool import RolloutPool
from cluster.run_folder import open_folder, write_status
from configs.schema import RunConfig
from report.metrics import METRICS


def train(cfg: RunConfig, resume: bool = False, pool: RolloutPool | None = None) -> int:
    """Run one job to its end; returns the exit code.

    Args:
        cfg: the job.
        resume: continue one that was begun.
        pool: keeps Ray and the rollout actors for the next job; None ends them with this one.

    Raises:
        ConfigError: the run folder is taken, or there is nothing to resume.
        RunFailure: the run stopped; one line with who, what and why.
        KeyboardInterrupt: passed on after every process has ended.
    """
    folder = open_folder(cfg, resume)
    started = time.time()
    try:
        model = prepare_model(cfg, folder)
        with nullcontext(pool) if pool else RolloutPool(bool(cfg.sft.steps)) as rollout_pool:
            _run(cfg, folder, model, rollout_pool)
        _finish(folder, "finished")
    except KeyboardInterrupt:
        _finish(folder, "interrupted")
        raise
    except RunFailure as failure:
        _finish(folder, "failed", str(failure))
        raise
    print(f"{folder}: {time.time() - started:.0f} s, see report.html, report.png, summary.json")
    return 0


def prepare_model(cfg: RunConfig, folder: Path) -> str:
    """The folder of the initial model: the user's, or a tiny one made once per run."""
    if cfg.model.path:
        from configs.model_folder import find_model

        return str(find_model(cfg.model.path))
    target = folder / "model"
    if not target.is_dir():
        draft = folder / "model.new"
        shutil.rmtree(draft, ignore_errors=True)
        make_tiny_model(cfg, draft)
        draft.rename(target)
    return str(target)


def make_tiny_model(cfg: RunConfig, folder: Path) -> None:
    """Write the configuration's tiny model, with a tokenizer of its environment's text."""
    from envs.base import shows_pictures
    from envs.registry import make
    from learner.init_model import init_model

    env = make(*environments(cfg)[TRAINING])
    init_model(folder, cfg, env.corpus(), vision=shows_pictures(env))


def prepare_demonstrations(cfg: RunConfig, folder: Path) -> str | None:
    """Where demonstrations are: the user's, or the expert's; None without SFT."""
    from cluster.demonstrations import write_demonstrations

    if not cfg.sft.steps:
        return None
    if cfg.sft.data:
        return str(Path(cfg.sft.data).resolve())
    env_id, settings = environments(cfg)[TRAINING]
    target = folder / "demonstrations"
    write_demonstrations(env_id, settings, cfg.sft.demonstrations, cfg.seed, target)
    return str(target)


def _run(cfg: RunConfig, folder: Path, model: str, pool: RolloutPool) -> None:
    """Everything that needs Ray."""
    from cluster.floors import write_floors

    try:
        plan, workers, buffer = pool.acquire(cfg, model)
        write_floors(cfg, folder)  # while engines start
        demonstrations = prepare_demonstrations(cfg, folder)
        from cluster.job import Job  # seconds of imports, while engines start too
        from cluster.learner_group import run_learner_group

        job = Job(cfg, str(folder), model, workers, buffer, weight_channel(cfg, plan.gpu))
        run_learner_group(job, demonstrations, plan)
    except BaseException:
        pool.close()
        raise
    pool.release()


def _finish(folder: Path, status: str, cause: str = "") -> None:
    """Write how the run ended, and the report of what it came to."""
    from report.page import write_report

    write_status(folder, status, cause)
    if (folder / METRICS).is_file():
        write_report(folder)
