"""The learner group of a run: Ray Train's ranks, watched from the driver until they end.

Input: a job and its plan. Output: a finished run, or one line that says why it is not.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

from cluster.deadlines import group_deadline_s
from cluster.driver.buffer_watch import LOOK_S, BufferWatch, StartWatch
from cluster.driver.group_watch import GroupWatch, Signs
from cluster.driver.hung_ranks import HungRanks
from cluster.failures import (
    OutOfMemory,
    RunFailure,
    cause_of_ranks,
    first_line,
    out_of_memory,
)
from cluster.job import Job
from cluster.phases.learner_loop import learner_loop
from cluster.placement.plan import Plan
from cluster.placement.ray_options import release_ranks, scaling, waiting_ranks
from cluster.run.last_resort import GROUP_THREAD
from cluster.run.logs import (
    keep_logs_of_other_nodes,
    pointed_out,
    session_logs,
)
from cluster.run.memory_failure import advice
from cluster.run.memory_kills import MemoryKills
from cluster.run.patience import Patience
from cluster.run.restart_limit import LATE, RestartLimit, is_loss
from cluster.run.run_folder import clear_failure, clear_losses, read_failure, write_failure
from cluster.run.stop_signals import StopSignals
from configs.schema import RunConfig
from report.progress import Progress

HEALTH_CHECK_S = 1.0  # between Ray Train's looks at the ranks
END_S = 5.0  # that a group has to end, where it has nothing to save or has saved it


def run_learner_group(job: Job, plan: Plan, signals: StopSignals) -> None:
    """Run the group in a thread (its `fit` blocks), and show progress meanwhile.

    After a signal it has `cluster.grace_s` for a last checkpoint, where it is training.

    Raises:
        RunFailure: a rank ended the run, the group failed, or the folder is no longer this run's.
        KeyboardInterrupt: a signal ended it.
    """
    folder = Path(job.folder)
    clear_failure(folder)
    clear_losses(folder)
    kills = MemoryKills()
    cluster, most = job.cfg.cluster, job.cfg.learner.max_restarts
    group, storage = GroupWatch(folder, cluster, most), Patience(folder)
    thread, errors = _thread(job, plan, group)
    borne = most if job.channel == "object_store" else 0  # over others a new one has no weights
    buffer = BufferWatch(job.buffer, cluster.heartbeat_s, cluster.start_deadline_s, borne)
    engines = StartWatch(job.buffer) if cluster.layout != "colocated" else None
    with signals.asking(), Progress(folder, job.cfg) as progress:
        thread.start()
        while thread.is_alive():
            with storage.look():
                if read_failure(folder) is not None:
                    break
                job.token.check()
                group.check()
                progress.update()
            kills.look()
            buffer.check()
            if engines and (failure := engines.failure()):
                # The ranks would find it once they are up.
                storage.insist(partial(write_failure, job.token, failure))
                break
            seconds = cluster.grace_s if progress.state.counted else min(cluster.grace_s, END_S)
            if signals.must_end(seconds, job.buffer.stop.remote):
                break
            thread.join(LOOK_S)
        if len(signals.received) < 2:
            thread.join(END_S)  # else Ray is ended by force
        with storage.look():
            progress.update()
    _raise_failure(job, plan, errors[0] if errors else None, kills)


def _thread(job: Job, plan: Plan, watch: GroupWatch) -> tuple[threading.Thread, list[Exception]]:
    """What runs the group, to be started; and what ended it, once it has failed."""
    errors: list[Exception] = []

    def fit() -> None:
        try:
            _fit(job, plan, watch)
        except Exception as error:  # noqa: BLE001 - a thread's boundary; raised by the driver
            errors.append(error)

    return threading.Thread(target=fit, name=GROUP_THREAD, daemon=True), errors


def _raise_failure(job: Job, plan: Plan, error: Exception | None, kills: MemoryKills) -> None:
    """Say why the group failed, if it did: what a rank has recorded, else what `fit` raised."""
    folder = Path(job.folder)
    failure = Patience(folder).insist(partial(read_failure, folder))
    if failure is None and error is not None:
        if isinstance(error, RunFailure):
            raise error
        failure = f"the learner group failed: {cause_of(error, job.cfg, plan)}"
    if failure is not None:
        Patience(folder).insist(job.token.check)
        keep_logs_of_other_nodes(folder)
        sentence = _with_evidence(failure, folder, kills)
        if out_of_memory(sentence):
            raise OutOfMemory(f"{sentence}; {advice(failure, job.cfg)}")
        raise RunFailure(sentence)


def _fit(job: Job, plan: Plan, watch: GroupWatch) -> None:
    """Have groups started until one ends well, or too many were lost in their start.

    Ray Train itself starts a group again that is lost while it works.
    """
    limit = RestartLimit(job.token, job.cfg.learner.max_restarts)
    while True:
        Patience(Path(job.folder)).insist(watch.begin)
        try:
            make_trainer(job, plan).fit()
        except Exception as error:
            if not is_loss(error, watch.worked):
                raise
            if not limit.bears(watch.loss or cause_of(error, job.cfg, plan)):
                return
            release_ranks()
        else:
            return


def _with_evidence(failure: str, folder: Path, kills: MemoryKills) -> str:
    """The failure with the log of the process that failed, and whether memory ran out."""
    source = session_logs()
    sentence = pointed_out(failure, folder, source) if source else failure
    if kills.recent():
        return f"{sentence}; just before, the kernel ended a process for lack of memory"
    return sentence


class Trainer(TorchTrainer):
    """Ray Train's, without its process that gives a lost controller's places back.

    That one asks Ray's dashboard whether the controller lives, and where there is none it stays for
    ever: one more process for each loss. Places are given back by `release_ranks`.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def make_trainer(job: Job, plan: Plan) -> Trainer:
    """Ray Train's trainer; a group whose placement is not met is given up by the deadline.

    When a rank dies, or is silent for the heartbeat, it ends all ranks and starts them again.
    """
    cfg = job.cfg
    # A rank may stop right after it has answered: an interval later it is asked again, and whether
    # its answer is late is seen at every second interval.
    silent_s = max(cfg.cluster.heartbeat_s / 2, cfg.cluster.heartbeat_s - 3 * HEALTH_CHECK_S)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cfg.cluster.start_deadline_s)
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(HEALTH_CHECK_S)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(silent_s)

    return Trainer(
        learner_loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if plan.gpu else "gloo",
            timeout_s=int(group_deadline_s(cfg)),
        ),
        scaling_config=scaling(cfg, plan),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=job.folder,
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=-1, controller_failure_limit=0
            ),
            callbacks=[
                RestartLimit(job.token, cfg.learner.max_restarts),  # type: ignore[list-item]
                HungRanks(),  # type: ignore[list-item]
                Signs(job.token),  # type: ignore[list-item]
            ],
        ),
    )


def cause_of(error: Exception, cfg: RunConfig, plan: Plan) -> str:
    """The first rank's own error inside Ray Train's, or what its group waited for in vain."""
    cause = getattr(error, "controller_failure", None)
    if type(cause).__name__ == LATE:
        return waiting_ranks(plan, cfg.cluster.start_deadline_s)
    if cause is not None:
        return first_line(cause)
    failures = getattr(error, "worker_failures", None)
    return cause_of_ranks(failures) if failures else first_line(error)
