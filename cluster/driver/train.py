"""The map of a run: model, Ray, demonstrations, actors, learner group, report.

    demonstrations ─► learner (SFT)
    rollout actors ─► buffer (refs) ─► learner (PPO) ─► weights ─► rollout actors
    evaluation by the same rollout actors ─► metrics ─► report
Read it top down. The order of a run is in `train` and `_run` here and goes on in
learner_loop.py, with one file per phase: sft_phase.py, ppo_phase.py, evaluation_phase.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.checkpoints.checkpoint_store import check_place
from cluster.checkpoints.cursor import Cursor
from cluster.deadlines import for_model
from cluster.demonstrations.fingerprint import record_data, unread_data
from cluster.driver.rollout_pool import RolloutPool
from cluster.environments import TRAINING, environments
from cluster.failures import RunFailure, first_line
from cluster.placement.layout import weight_channel, without_engines
from cluster.run.lease import Lease, LeaseLost, Token
from cluster.run.patience import Patience
from cluster.run.run_folder import clear_status, open_folder, write_config, write_status
from cluster.run.stop_signals import StopSignals
from configs.load import ConfigError
from configs.schema import RunConfig
from report.metrics import METRICS
from report.summary import ended
from report.tracker import forwarded, unsent

if TYPE_CHECKING:
    from cluster.demonstrations.sft_data import RenderedDemonstrations


def train(cfg: RunConfig, resume: bool = False, pool: RolloutPool | None = None) -> int:
    """Run one job to its end; returns the exit code.

    Args:
        cfg: the job.
        resume: continue one that was begun.
        pool: keeps Ray and the rollout actors for the next job; None ends them with this one.

    Raises:
        ConfigError: the run folder is taken or in use, or there is nothing to resume.
        RunFailure: the run stopped; one line with who, what and why.
        KeyboardInterrupt: of a signal; passed on after every process has ended.
    """
    folder = open_folder(cfg, resume)
    if ended(folder)["status"] == "finished":
        _write_report(folder)  # which may not have been written when the run ended
        if unsent(cfg, folder):
            with Lease(folder), forwarded(cfg, folder):
                pass  # sends the rest
        print(f"{folder}: this run has finished, nothing is left to do; see report.html")
        return 0
    own = nullcontext(pool) if pool else RolloutPool(bool(cfg.sft.steps))
    lease = Lease(folder)
    try:
        with StopSignals() as signals, lease as token, own as rollout_pool:
            _train(cfg, token, rollout_pool, signals)
    except KeyboardInterrupt:
        # The lease is given back: no rank writes another checkpoint.
        cursor = Cursor.load(folder / "checkpoints")
        print(f"{folder}: {cursor.resumes()}", file=sys.stderr)
        raise
    _show_result(folder)
    return 0


def _train(cfg: RunConfig, token: Token, pool: RolloutPool, signals: StopSignals) -> None:
    """The run, and however it ends the record of it; its processes then end."""
    folder = Path(token.folder)
    try:
        with _recorded(token, pool, signals):
            clear_status(folder)
            write_config(cfg, folder)
            check_place(cfg, folder, take=True)
            _record_data(cfg, folder)
            with forwarded(cfg, folder):
                _run(cfg, token, prepare_model(cfg, folder), pool, signals)
    except BaseException:
        signals.end()
        pool.close()  # once the end is recorded: Ray may take this process with it
        raise
    signals.end(done=True)
    pool.release()


@contextmanager
def _recorded(token: Token, pool: RolloutPool, signals: StopSignals) -> Iterator[None]:
    """Record in the run folder how the run inside ends."""
    try:
        yield
    except KeyboardInterrupt as signal:
        signals.end()
        _record_failure(token, "interrupted", str(signal))
        raise
    except LeaseLost:
        raise  # what is in the folder now is not this run's
    except Exception as error:
        signals.end()
        known = isinstance(error, RunFailure | ConfigError)
        cause = str(error) if known else first_line(error)
        try:
            with suppress(OSError):  # a storage that is away explains nothing
                token.check()
        except LeaseLost as lost:  # which explains what was not found in the folder
            raise LeaseLost(f"{lost}; the run ended with: {cause}") from error
        _record_failure(token, "failed", cause)
        _keep_logs(token, pool)
        raise
    # All that it came to is there: a storage that is away for a moment makes it no failure.
    Patience(Path(token.folder)).insist(partial(_record, token, "finished"))


def _record_failure(token: Token, status: str, cause: str = "") -> None:
    """As `_record`; what stops it does not hide why the run ended."""
    try:
        _record(token, status, cause)
    except Exception as error:  # noqa: BLE001 - the run's own error is what the caller raises
        print(f"{token.folder}: how it ended is not recorded: {error}", file=sys.stderr)


def _record_data(cfg: RunConfig, folder: Path) -> None:
    """Hold a run that has still to read sft.data to what was there at its begin."""
    data = unread_data(cfg, folder)
    if data is not None:
        record_data(data, folder)


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


def prepare_demonstrations(cfg: RunConfig, folder: Path) -> str:
    """Where demonstrations are: the user's, or the expert's, which are written."""
    from cluster.demonstrations.writer import write_demonstrations

    if cfg.sft.data:
        return str(Path(cfg.sft.data).resolve())
    env_id, settings = environments(cfg)[TRAINING]
    target = folder / "demonstrations"
    write_demonstrations(env_id, settings, cfg.sft.demonstrations, cfg.seed, target)
    return str(target)


def _run(cfg: RunConfig, token: Token, model: str, pool: RolloutPool, signals: StopSignals) -> None:
    """Everything that needs Ray."""
    from cluster.phases.floors import write_floors

    folder, cfg = Path(token.folder), for_model(cfg, model)
    rendered, gpu = None, pool.join(without_engines(cfg), model).gpu
    if gpu:
        rendered = render(cfg, folder, model)  # no GPU waits for it
    plan, workers, buffer = pool.acquire(without_engines(cfg), model)
    token.check()  # all that took its time
    if workers:
        write_floors(cfg, folder)  # while engines start
    if not gpu:
        rendered = render(cfg, folder, model)  # so do they meanwhile
    from cluster.driver.learner_group import run_learner_group
    from cluster.job import Job  # seconds of imports, while engines start too

    job = Job(cfg, token, model, workers, buffer, weight_channel(cfg, plan.gpu), rendered)
    run_learner_group(job, plan, signals)


def render(cfg: RunConfig, folder: Path, model: str) -> RenderedDemonstrations | None:
    """All demonstrations as SFT reads them; None where the run's cursor leaves no SFT to do.

    Raises:
        RunFailure: as `render_demonstrations`.
    """
    if not cfg.sft.steps or Cursor.load(folder / "checkpoints").phase != "sft":
        return None
    from cluster.demonstrations.sft_data import (
        render_demonstrations,  # Ray Data, seconds of imports
    )

    data, seconds = prepare_demonstrations(cfg, folder), cfg.cluster.start_deadline_s
    return render_demonstrations(data, model, seconds, cfg.sft.max_tokens)


def _keep_logs(token: Token, pool: RolloutPool) -> None:
    """Copy the logs of the run's processes to its folder; what stops it does not hide the cause."""
    try:
        token.check()
        pool.keep_logs(Path(token.folder))
    except Exception as error:  # noqa: BLE001 - the run's own error is what the caller raises
        print(f"{token.folder}: logs of its processes are not kept: {error}", file=sys.stderr)


def _record(token: Token, status: str, cause: str = "") -> None:
    """Write how the run ended, and the report of what it came to.

    Raises:
        LeaseLost: the folder is another run's, or gone.
    """
    token.check()
    folder = Path(token.folder)
    write_status(folder, status, cause)
    _write_report(folder)


def _write_report(folder: Path) -> None:
    """Write what the run came to, where it came to anything."""
    from report.page import write_report

    if (folder / METRICS).is_file():
        write_report(folder)


def _show_result(folder: Path) -> None:
    """Print what the run came to, as its report has it; it has finished even if nobody reads it."""
    from report.page import SUMMARY
    from report.progress import RunConsole
    from report.result import print_result

    if sys.stdout is None or not (folder / SUMMARY).is_file():
        return
    try:
        print_result(folder, json.loads((folder / SUMMARY).read_text()), RunConsole())
        sys.stdout.flush()
    except OSError as error:
        # What is left in its buffer would be an error at the process's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with suppress(OSError):
            print(f"{folder}: the result is in report.html, not here: {error}", file=sys.stderr)
