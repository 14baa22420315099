"""The map of a run: model, demonstrations, Ray, actors, learner group, report.

    demonstrations ─► learner (SFT)
    rollout actors ─► buffer (refs) ─► learner (PPO) ─► weights ─► rollout actors
    evaluation by the same rollout actors ─► metrics ─► report
Read it top down; each step names the file in which it is done.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cluster.failures import RunFailure, first_line
from cluster.placement.types import Plan
from cluster.rollout_pool import RolloutPool
from cluster.run_folder import run_folder
from configs.load import ConfigError, dump
from configs.schema import RunConfig

RETRIES = 3  # of starting the learner group, before it is given up


def train(cfg: RunConfig, resume: bool = False, crew: RolloutPool | None = None) -> int:
    """Run one job to its end; returns the exit code.

    Args:
        cfg: the job.
        resume: go on with a begun one.
        crew: keeps Ray and the rollout actors for the next job; None ends them with this one.

    Raises:
        ConfigError: the run folder is taken, or there is nothing to resume.
        RunFailure: the run stopped; one line with who, what and why.
        KeyboardInterrupt: passed on after every process has ended.
    """
    folder = open_folder(cfg, resume)
    started = time.time()
    try:
        model = prepare_model(cfg, folder)
        with nullcontext(crew) if crew else RolloutPool(bool(cfg.sft.steps)) as mates:
            _run(cfg, folder, model, mates)
        _finish(folder, "finished")
    except KeyboardInterrupt:
        _finish(folder, "interrupted")
        raise
    except RunFailure as failure:
        _finish(folder, "failed", str(failure))
        raise
    print(f"{folder}: {time.time() - started:.0f} s, see report.html, report.png, summary.json")
    return 0


def open_folder(cfg: RunConfig, resume: bool) -> Path:
    """The run folder, absolute; a new one gets the resolved config.yaml."""
    if resume:
        folder = (Path(cfg.cluster.root) / cfg.name).resolve()
        if not (folder / "config.yaml").is_file():
            raise ConfigError(f"resume: {folder} holds no config.yaml, so it is no run folder")
        return folder
    folder = run_folder(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump(cfg))
    return folder


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
    from envs.registry import make, with_preset
    from learner.init_model import init_model

    settings = with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
    env = make(cfg.env.id, settings)
    init_model(folder, cfg, env.corpus(), vision=shows_pictures(env))


def prepare_demonstrations(cfg: RunConfig, folder: Path) -> str | None:
    """Parquet of demonstrations: the user's, or the expert's; None without SFT."""
    from cluster.demonstrations import convert_released, write_demonstrations
    from envs.registry import with_preset

    if not cfg.sft.steps:
        return None
    if cfg.sft.data and cfg.sft.data.endswith(".json"):
        return str(convert_released(cfg.sft.data, folder / "demonstrations"))
    if cfg.sft.data:
        return str(Path(cfg.sft.data).resolve())
    settings = with_preset(cfg.env.id, dict(cfg.env.settings), cfg.preset)
    target = folder / "demonstrations"
    write_demonstrations(cfg.env.id, settings, cfg.sft.demonstrations, cfg.seed, target)
    return str(target)


def _run(cfg: RunConfig, folder: Path, model: str, crew: RolloutPool) -> None:
    """Everything that needs Ray."""
    try:
        placed, workers, buffer = crew.meet(cfg, model)
        data = prepare_demonstrations(cfg, folder)
        _learn(cfg, folder, model, data, workers, buffer, placed)
    except BaseException:
        crew.dismiss()
        raise
    crew.part()


def _learn(
    cfg: RunConfig, folder: Path, model: str, data: str | None,
    workers: list[Any], buffer: Any, placed: Plan,
) -> None:  # fmt: skip
    """Run the learner group in a thread (its `fit` blocks) and show progress meanwhile."""
    from cluster.learner_loop import Job
    from cluster.placement.layout import weight_channel
    from report.progress import Progress

    failure = folder / "failure.json"
    failure.unlink(missing_ok=True)
    job = Job(cfg, str(folder), model, workers, buffer, weight_channel(cfg, placed.gpu))
    trainer = _trainer(cfg, folder, model, data, job, placed)
    outcome: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - a thread's boundary; raised below
            outcome.append(error)

    thread = threading.Thread(target=fit, name="learner group", daemon=True)
    thread.start()
    with Progress(folder, cfg) as progress:
        while thread.is_alive() and not failure.exists():
            progress.update()
            thread.join(0.5)
        progress.update()
    if failure.exists():
        raise RunFailure(json.loads(failure.read_text())["cause"])
    if outcome:
        raise RunFailure(f"the learner group failed: {_train_cause(outcome[0], cfg, placed)}")


def _trainer(
    cfg: RunConfig, folder: Path, model: str, data: str | None, job: Any, placed: Plan
) -> Any:  # fmt: skip
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from cluster.learner_loop import learner_loop
    from cluster.placement.ray_options import scaling
    from cluster.sft_data import dataset

    # A group whose placement is not met is tried RETRIES times more, all within the deadline.
    deadline = cfg.cluster.start_deadline_s / (RETRIES + 1)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(deadline)

    return TorchTrainer(
        learner_loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if placed.gpu else "gloo",
            timeout_s=int(cfg.cluster.block_deadline_s * 10),
        ),
        scaling_config=scaling(cfg, placed),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=cfg.learner.max_restarts, controller_failure_limit=RETRIES
            ),
        ),
        # Where a rank stands must not decide which demonstrations it gets.
        dataset_config=ray.train.DataConfig(enable_shard_locality=False),
        datasets={"sft": dataset(data, model)} if data else None,
    )


def _train_cause(error: BaseException, cfg: RunConfig, placed: Plan) -> str:
    """The first rank's own error inside Ray Train's, or what its group waited for in vain."""
    from cluster.placement.ray_options import waiting_ranks

    cause = getattr(error, "controller_failure", None)
    if type(cause).__name__ == "WorkerGroupStartupTimeoutError":  # Ray's own, and private
        return waiting_ranks(placed, cfg.cluster.start_deadline_s)
    if cause is not None:
        return first_line(cause)
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        return f"rank {rank}: {first_line(failure)}"
    return first_line(error)


def _finish(folder: Path, status: str, cause: str = "") -> None:
    from report.page import write_report

    (folder / "status.json").write_text(json.dumps({"status": status, "cause": cause}))
    if (folder / "metrics.jsonl").is_file():
        write_report(folder)
